//! A running sandbox's shim tells where the agent is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use http_body_util::Full;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use kata_sandbox::MANAGEMENT_SOCKET;
use kata_storage::http::{ExchangeError, exchange};
use tokio::net::UnixStream;

use crate::address::ServerAddress;

/// Where the state of sandboxes is: this project's, and that of upstream's runtime in Go.
pub(crate) const ROOTS: [&str; 2] = [kata_sandbox::STATE_ROOT, "/run/vc/sbs"];

/// An address is not longer.
const LONGEST: usize = 4096;

/// A sandbox does not tell where its agent is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    /// No sandbox has such an id.
    #[error(
        "No sandbox has an id that begins with `{id}` in {}; does it run, and are you root?",
        shown(roots)
    )]
    Unknown {
        /// What was asked for.
        id: String,
        /// Where it was looked for.
        roots: Vec<PathBuf>,
    },
    /// Several have.
    #[error("`{id}` is the beginning of several ids: {}; give more of it", all.join(", "))]
    Ambiguous {
        /// What was asked for.
        id: String,
        /// Those that begin with it.
        all: Vec<String>,
    },
    /// Nobody is there.
    #[error("Nobody answers at {}; does the sandbox still run, and are you root?", socket.display())]
    Silent {
        /// The management socket.
        socket: PathBuf,
        /// What the connection failed with.
        source: io::Error,
    },
    /// The conversation broke.
    #[error("The shim has not answered at {}; has it ended meanwhile?", socket.display())]
    Broken {
        /// The management socket.
        socket: PathBuf,
        /// How.
        source: ExchangeError,
    },
    /// It says no.
    #[error("The shim of sandbox {id} does not tell where its agent is: {words}")]
    Refused {
        /// The sandbox.
        id: String,
        /// Its own words.
        words: String,
    },
}

fn shown(roots: &[PathBuf]) -> String {
    roots.iter().map(|root| root.display().to_string()).collect::<Vec<_>>().join(" or ")
}

/// Where the agent of the sandbox is whose id begins with `id`.
pub(crate) fn agent_address(roots: &[PathBuf], id: &str) -> anyhow::Result<ServerAddress> {
    let (id, socket) = find(roots, id)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (status, words) = runtime.context("Cannot speak to sandboxes")?.block_on(ask(&socket))?;
    match status {
        StatusCode::OK => {
            words.parse().with_context(|| format!("The shim of sandbox {id} gave an odd address"))
        }
        _ => Err(SandboxError::Refused { id, words }.into()),
    }
}

/// The whole id, and the management socket.
fn find(roots: &[PathBuf], id: &str) -> Result<(String, PathBuf), SandboxError> {
    let socket = |root: &Path, name: &str| root.join(name).join(MANAGEMENT_SOCKET);
    let mut all: Vec<(String, PathBuf)> = Vec::new();
    // A sandbox may stand in both; the first counts.
    for root in roots {
        for name in names(root) {
            if name.starts_with(id) && all.iter().all(|(other, _)| *other != name) {
                all.push((name.clone(), socket(root, &name)));
            }
        }
    }
    if let Some(exact) = all.iter().position(|(name, _)| name == id) {
        return Ok(all.swap_remove(exact));
    }
    match all.len() {
        0 => Err(SandboxError::Unknown { id: id.to_owned(), roots: roots.to_vec() }),
        1 => Ok(all.swap_remove(0)),
        _ => {
            let mut all: Vec<_> = all.into_iter().map(|(name, _)| name).collect();
            all.sort();
            Err(SandboxError::Ambiguous { id: id.to_owned(), all })
        }
    }
}

/// The entries of a directory; none if it cannot be read.
fn names(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

async fn ask(socket: &Path) -> Result<(StatusCode, String), SandboxError> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| SandboxError::Silent { socket: socket.to_owned(), source })?;
    let request = Request::get("/agent-url").header(HOST, "sandbox").body(Full::default());
    let request = request.expect("the path and the header are constants of the right form");
    let (status, body) = exchange(stream, request, LONGEST)
        .await
        .map_err(|source| SandboxError::Broken { socket: socket.to_owned(), source })?;
    Ok((status, String::from_utf8_lossy(&body).trim().to_owned()))
}
