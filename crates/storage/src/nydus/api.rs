//! The management interface of a nydusd: version 1 of its REST API, as far as a sandbox needs it.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::Full;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::http::{ExchangeError, exchange};
use crate::mount::open_path;

/// The most that an answer may have, in bytes. nydusd lists its file systems in one.
const MOST: usize = 1 << 20;
/// How long an answer may take: a mount reads the image's metadata.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest part of an answer that is shown.
const SHOWN: usize = 1000;

/// Where file systems are mounted.
const MOUNT: &str = "/api/v1/mount";
/// What there is to know of the daemon.
const DAEMON: &str = "/api/v1/daemon";

/// A request to nydusd has failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Nobody is there.
    #[error("nydusd does not answer at {socket:?}: has it ended?")]
    Gone {
        /// Its socket.
        socket: PathBuf,
        /// What the connection failed with.
        #[source]
        source: io::Error,
    },
    /// The conversation broke.
    #[error("nydusd has not answered `{request}`: has it ended meanwhile?")]
    Broken {
        /// Method and path.
        request: String,
        /// How.
        #[source]
        source: ExchangeError,
    },
    /// It says nothing.
    #[error("nydusd has not answered `{request}` within {} s: look at its lines in the log", PATIENCE.as_secs())]
    Silent {
        /// Method and path.
        request: String,
    },
    /// It says no.
    #[error("nydusd has refused `{request}` ({status}): {words}")]
    Refused {
        /// Method and path.
        request: String,
        /// The HTTP status.
        status: u16,
        /// Its own words.
        words: String,
    },
    /// An answer that is none.
    #[error("nydusd's answer to `{request}` is not understood: is it a version of its own?")]
    Answer {
        /// Method and path.
        request: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The request cannot be written down.
    #[error("`{request}` has no form")]
    Form {
        /// Method and path.
        request: String,
        /// Why not.
        #[source]
        source: hyper::http::Error,
    },
}

impl ApiError {
    /// Whether nobody is there, and so nothing of what was mounted either.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. })
    }
}

/// A file system to be mounted.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FileSystem<'a> {
    /// A directory for `passthrough_fs`, the image's metadata (bootstrap) for `rafs`.
    pub source: &'a str,
    /// `passthrough_fs` or `rafs`.
    pub fs_type: &'a str,
    /// JSON for `rafs`: where the image's data is; may have secrets in it. Empty for `passthrough_fs`.
    pub config: &'a str,
}

/// What is understood of `GET /api/v1/daemon`.
#[derive(Deserialize)]
struct Information {
    state: String,
}

/// What is understood of a refusal.
#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    code: String,
    message: String,
}

/// The way to one nydusd. A connection is made for each request.
#[derive(Debug, Clone)]
pub struct Api {
    socket: PathBuf,
}

impl Api {
    /// By its socket, which need not exist yet.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// The daemon's state: `INIT`, `RUNNING`, …
    ///
    /// # Errors
    /// It does not answer, or not as it should.
    pub async fn state(&self) -> Result<String, ApiError> {
        let answer = self.ask(Method::GET, DAEMON, Vec::new()).await?;
        let information: Information = serde_json::from_slice(&answer)
            .map_err(|source| ApiError::Answer { request: format!("GET {DAEMON}"), source })?;
        Ok(information.state)
    }

    /// Mounts a file system at `mountpoint`, an absolute path in nydusd's tree, of characters that need no quoting.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub async fn mount(&self, mountpoint: &str, what: FileSystem<'_>) -> Result<(), ApiError> {
        let path = at(mountpoint);
        let body = serde_json::to_vec(&what)
            .map_err(|source| ApiError::Answer { request: format!("POST {path}"), source })?;
        self.ask(Method::POST, &path, body).await.map(drop)
    }

    /// Unmounts what is at `mountpoint`.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub async fn unmount(&self, mountpoint: &str) -> Result<(), ApiError> {
        self.ask(Method::DELETE, &at(mountpoint), Vec::new()).await.map(drop)
    }

    async fn ask(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Vec<u8>, ApiError> {
        let request = format!("{method} {path}");
        let form = Request::builder().method(method).uri(path).header(HOST, "localhost");
        let form = form.header(ACCEPT, "*/*").header(CONTENT_TYPE, "application/json");
        let form = form.body(Full::from(body));
        let form = form.map_err(|source| ApiError::Form { request: request.clone(), source })?;
        let gone = |source| ApiError::Gone { socket: self.socket.clone(), source };
        let answered = timeout(PATIENCE, async {
            let stream = connect(&self.socket).await.map_err(gone)?;
            let broken = |source| ApiError::Broken { request: request.clone(), source };
            exchange(stream, form, MOST).await.map_err(broken)
        });
        let (status, body) = answered.await.map_err(|_| ApiError::Silent { request: request.clone() })??;
        match status.is_success() {
            true => Ok(body),
            false => Err(ApiError::Refused { request, status: status.as_u16(), words: words(&body) }),
        }
    }
}

fn at(mountpoint: &str) -> String {
    format!("{MOUNT}?mountpoint={mountpoint}")
}

/// Connects to a socket whose path may be longer than an address: its directory's descriptor stands for that.
pub(super) async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let (Some(dir), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let dir = open_path(dir)?;
    let path = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    UnixStream::connect(path).await
}

/// A refusal in words: its message, or whatever it has in it.
fn words(body: &[u8]) -> String {
    let text = match serde_json::from_slice(body) {
        Ok(Refusal { code, message }) if code.is_empty() => message,
        Ok(Refusal { code, message }) => format!("{message} (code {code})"),
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    };
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    let short: String = text.chars().take(SHOWN).map(printable).collect();
    if short.is_empty() { "it does not say why".to_owned() } else { short }
}

#[cfg(test)]
mod tests;
