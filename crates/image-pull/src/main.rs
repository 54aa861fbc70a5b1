//! `kata-image-pull`: pulls a container's image and unpacks it into a directory. The agent starts it in the guest, so that
//! guests whose images come from the host have none of its code.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

mod media;
mod registry;
mod unpack;

use registry::{PullError, Registry};

/// Pulls an image and unpacks it.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// An existing, empty directory that becomes the image's root
    #[arg(long)]
    root: PathBuf,
    /// HOST or HOST:PORT of a registry that is spoken to without TLS; may be given often
    #[arg(long)]
    plain_http: Vec<String>,
    /// Proxy for connections with TLS
    #[arg(long)]
    https_proxy: Option<String>,
    /// Hosts that are connected to without the proxy, separated by commas
    #[arg(long)]
    no_proxy: Option<String>,
    /// The image's reference
    image: String,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(digest) => {
            println!("{digest}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// The digest of the manifest that was pulled.
fn run(arguments: Arguments) -> Result<String, PullError> {
    let Arguments { root, plain_http, https_proxy, no_proxy, image } = arguments;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(PullError::Runtime)?;
    let registry = Registry::new(plain_http, https_proxy, no_proxy)?;
    runtime.block_on(registry.pull(&image, &root))
}

/// An error with all its reasons. Some libraries repeat their source's text in their own.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let reason = source.to_string();
        if !text.ends_with(&reason) {
            text += ": ";
            text += &reason;
        }
        next = source.source();
    }
    text
}
