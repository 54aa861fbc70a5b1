//! The client of a sandbox's management socket: one request, one answer.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use kata_sandbox::{MANAGEMENT_BODY, MANAGEMENT_SOCKET};
use kata_storage::http::{ExchangeError, exchange};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::net::UnixStream;

use crate::sandboxes;

/// The request was not answered as it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// Nobody is there.
    #[error("The sandbox {id} does not run (any more): nobody answers at {}", socket.display())]
    Dead {
        /// The sandbox.
        id: String,
        /// Its management socket.
        socket: PathBuf,
        /// What the connection failed with.
        source: io::Error,
    },
    /// Not for us.
    #[error("The sandbox {id} may be managed by root only; try again as root")]
    Denied {
        /// The sandbox.
        id: String,
        /// What the connection failed with.
        source: io::Error,
    },
    /// The conversation broke.
    #[error("The shim of the sandbox {id} has not answered; has it ended meanwhile?")]
    Broken {
        /// The sandbox.
        id: String,
        /// How.
        source: ExchangeError,
    },
    /// The request is more than it takes.
    #[error("What is to be sent has {0} bytes, and a sandbox takes {MANAGEMENT_BODY} at most")]
    TooLarge(usize),
    /// It says no.
    #[error("{words}")]
    Refused {
        /// Its own words.
        words: String,
    },
}

/// A running sandbox.
pub(crate) struct Sandbox {
    id: String,
    socket: PathBuf,
}

impl Sandbox {
    /// The sandbox whose id is, or alone begins with, `id`.
    pub(crate) fn find(root: &Path, id: &str) -> anyhow::Result<Self> {
        let id = sandboxes::full_id(root, id)?;
        Ok(Self { socket: root.join(&id).join(MANAGEMENT_SOCKET), id })
    }

    /// The answer of an endpoint.
    pub(crate) fn ask(&self, method: Method, path: &str, body: Vec<u8>) -> anyhow::Result<Vec<u8>> {
        if body.len() > MANAGEMENT_BODY {
            return Err(CallError::TooLarge(body.len()).into());
        }
        let request = Request::builder().method(method).uri(path).header(HOST, "sandbox");
        let request = request.body(Full::from(body)).context("The request has no form")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let (status, body) = runtime.context("Cannot speak to sandboxes")?.block_on(self.speak(request))?;
        if status.is_success() {
            return Ok(body);
        }
        let words = String::from_utf8_lossy(&body).trim_end().to_owned();
        let words = if words.is_empty() { status.to_string() } else { words };
        Err(CallError::Refused { words }.into())
    }

    async fn speak(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Vec<u8>), CallError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| self.absent(source))?;
        // What a sandbox says is as long as it must be.
        let answered = exchange(stream, request, usize::MAX).await;
        answered.map_err(|source| CallError::Broken { id: self.id.clone(), source })
    }

    fn absent(&self, source: io::Error) -> CallError {
        let id = self.id.clone();
        match source.kind() {
            io::ErrorKind::PermissionDenied => CallError::Denied { id, source },
            _ => CallError::Dead { id, socket: self.socket.clone(), source },
        }
    }
}

/// A name as a part of a path.
pub(crate) fn part(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
}
