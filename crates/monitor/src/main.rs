//! `kata-monitor`: the metrics and events of all sandboxes of a node, for Prometheus and for people.
//!
//! It watches the directories of sandboxes (`discovery`), has the container manager name the pods (`cri.rs`), asks every
//! shim when it is asked itself (`scrape.rs`), makes one text of their answers (`exposition`), and passes on what happens
//! (`feed`). `http` serves all of that. Everything runs on one thread; nothing is collected while nobody asks.

mod args;
mod cri;
mod discovery;
mod exposition;
mod feed;
mod http;
mod own;
mod scrape;
mod shim;
mod sys;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;

use crate::args::Args;
use crate::cri::Manager;
use crate::discovery::{Registry, Watch};
use crate::feed::Feed;
use crate::http::{App, Door, Server};
use crate::own::Own;
use crate::scrape::{Patience, Scraper};

fn main() -> ExitCode {
    let args = Args::of_process();
    let lines = tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).with_ansi(false);
    lines.with_max_level(LevelFilter::from(args.log_level)).init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ran = runtime.context("Cannot start").and_then(|runtime| runtime.block_on(run(&args)));
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kata-monitor: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs until a signal asks for the end.
async fn run(args: &Args) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let door = Door::new(args)?;
    let address = args.address();
    let listener = TcpListener::bind(&address).await;
    let listener =
        listener.with_context(|| format!("Cannot listen at {address}; choose another --listen-address"))?;
    let watch = Watch::new(&args.sandboxes).context("Cannot watch the sandboxes' directories")?;
    welcome(&listener, &door)?;

    let (feed, ended) = Feed::new();
    let feed = Arc::new(feed);
    let teller = {
        let feed = feed.clone();
        Box::new(move |change| feed.change(change))
    };
    let registry = Arc::new(Registry::new(Manager::new(&args.runtime_endpoint), teller));
    let own = Arc::new(Own::default());
    let patience = Patience(args.shim_timeout);
    let scraper = Scraper::new(registry.clone(), own.clone(), patience);
    let app = Arc::new(App { registry: registry.clone(), scraper, own, feed: feed.clone(), patience });
    tokio::spawn(feed::run(feed, registry.clone(), ended));
    tokio::select! {
        watched = discovery::run(registry, watch, args.sync_delay) => watched.context(
            "The sandboxes' directories cannot be watched any more; is this root, and is fs.inotify.max_user_watches \
             or max_user_instances used up?",
        ),
        () = http::serve(Server { listener, door, app }) => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

/// Says where it listens, and to whom.
fn welcome(listener: &TcpListener, door: &Door) -> anyhow::Result<()> {
    let address = listener.local_addr()?;
    let scheme = if door.tls.is_some() { "https" } else { "http" };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "listening on {scheme}://{address}");
    if door.is_open() && !address.ip().is_loopback() {
        tracing::warn!(
            "everybody who reaches {address} can read the names and figures of all pods; see --token-file"
        );
    }
    Ok(())
}
