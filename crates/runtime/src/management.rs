//! The client of a sandbox's management socket: one request, one answer.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderValue, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use kata_sandbox::{Inspection, MANAGEMENT_BODY, MANAGEMENT_SOCKET};
use kata_storage::http::{ExchangeError, exchange};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

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
    /// It is there, and says nothing.
    #[error("The shim of the sandbox {id} has not answered within {} s; is it stopped or overloaded?", waited.as_secs())]
    Silent {
        /// The sandbox.
        id: String,
        /// How long it was waited for.
        waited: Duration,
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

/// How long those who only look wait for a shim.
const GLANCE: Duration = Duration::from_secs(3);
/// How long an answer may take that needs the guest.
const READING: Duration = Duration::from_secs(30);
/// How long a change may take: a file system that grows, many rules.
const CHANGE: Duration = Duration::from_secs(300);
/// How long it may take until a connection is another protocol's.
const UPGRADING: Duration = Duration::from_secs(60);

/// What each of these sandboxes says of itself, in their order. All are asked at once, so that one that hangs costs no more
/// than itself.
pub(crate) fn inspect_all(root: &Path, ids: &[String]) -> anyhow::Result<Vec<Result<Inspection, CallError>>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("Cannot speak to sandboxes")?.block_on(async {
        let mut asked = JoinSet::new();
        for (at, id) in ids.iter().enumerate() {
            let sandbox = Sandbox { socket: root.join(id).join(MANAGEMENT_SOCKET), id: id.clone() };
            asked.spawn(async move { (at, sandbox.inspect().await) });
        }
        let mut answers = asked.join_all().await;
        answers.sort_by_key(|(at, _)| *at);
        Ok(answers.into_iter().map(|(_, answer)| answer).collect())
    })
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

    /// The answer of an endpoint, which is waited for 30 s, or 300 s if something is to change.
    pub(crate) fn ask(&self, method: Method, path: &str, body: Vec<u8>) -> anyhow::Result<Vec<u8>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.context("Cannot speak to sandboxes")?.block_on(self.answer(method, path, body))
    }

    /// The same, inside a tokio runtime.
    pub(crate) async fn answer(&self, method: Method, path: &str, body: Vec<u8>) -> anyhow::Result<Vec<u8>> {
        if body.len() > MANAGEMENT_BODY {
            return Err(CallError::TooLarge(body.len()).into());
        }
        let patience = if method == Method::GET { READING } else { CHANGE };
        let request = Request::builder().method(method).uri(path).header(HOST, "sandbox");
        let request = request.body(Full::from(body)).context("The request has no form")?;
        let answered = timeout(patience, self.speak(request)).await;
        let (status, body) = answered.map_err(|_| self.silent(patience))??;
        if status.is_success() {
            return Ok(body);
        }
        Err(CallError::Refused { words: words(status, &body) }.into())
    }

    /// The same for those who only look: it does not wait long, and whatever comes is taken as JSON.
    pub(crate) fn glance<T: serde::de::DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let body = runtime.context("Cannot speak to sandboxes")?.block_on(self.look(path))?;
        serde_json::from_slice(&body)
            .with_context(|| format!("The shim's answer to {path} is not understood"))
    }

    /// The same for an answer that is text.
    pub(crate) fn glance_text(&self, path: &str) -> anyhow::Result<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let body = runtime.context("Cannot speak to sandboxes")?.block_on(self.look(path))?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    async fn look(&self, path: &str) -> Result<Vec<u8>, CallError> {
        let request = Request::builder().uri(path).header(HOST, "sandbox").body(Full::default());
        let request = request.expect("paths of endpoints are paths");
        let (status, body) =
            timeout(GLANCE, self.speak(request)).await.map_err(|_| self.silent(GLANCE))??;
        match status.is_success() {
            true => Ok(body),
            false => Err(CallError::Refused { words: words(status, &body) }),
        }
    }

    async fn inspect(&self) -> Result<Inspection, CallError> {
        let body = self.look("/inspect").await?;
        let wrong =
            |error| CallError::Refused { words: format!("The shim's answer is not understood: {error}") };
        serde_json::from_slice(&body).map_err(wrong)
    }

    /// Its whole id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The process that serves it.
    pub(crate) async fn server(&self) -> Result<Option<i32>, CallError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| self.absent(source))?;
        Ok(stream.peer_cred().ok().and_then(|peer| peer.pid()))
    }

    /// A connection that has become another protocol's, or the answer instead.
    pub(crate) async fn upgrade(
        &self,
        path: &str,
        protocol: &str,
    ) -> Result<Result<Upgraded, (StatusCode, String)>, CallError> {
        let upgraded = timeout(UPGRADING, self.switch(path, protocol)).await;
        upgraded.map_err(|_| self.silent(UPGRADING))?
    }

    async fn switch(
        &self,
        path: &str,
        protocol: &str,
    ) -> Result<Result<Upgraded, (StatusCode, String)>, CallError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| self.absent(source))?;
        let broken = |error| CallError::Broken { id: self.id.clone(), source: ExchangeError::Broken(error) };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::new(Full::<Bytes>::default());
        let part = path.parse().unwrap_or_default();
        *request.uri_mut() = part;
        for (name, value) in [(HOST, "sandbox"), (CONNECTION, "upgrade"), (UPGRADE, protocol)] {
            request.headers_mut().extend(HeaderValue::from_str(value).map(|value| (name, value)));
        }
        let answer = sender.send_request(request).await.map_err(broken)?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            return hyper::upgrade::on(answer).await.map(Ok).map_err(broken);
        }
        let status = answer.status();
        let words = answer.into_body().collect().await.map_err(broken)?.to_bytes();
        Ok(Err((status, String::from_utf8_lossy(&words).trim_end().to_owned())))
    }

    async fn speak(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Vec<u8>), CallError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| self.absent(source))?;
        // What a sandbox says is as long as it must be.
        let answered = exchange(stream, request, usize::MAX).await;
        answered.map_err(|source| CallError::Broken { id: self.id.clone(), source })
    }

    fn silent(&self, waited: Duration) -> CallError {
        CallError::Silent { id: self.id.clone(), waited }
    }

    fn absent(&self, source: io::Error) -> CallError {
        let id = self.id.clone();
        match source.kind() {
            io::ErrorKind::PermissionDenied => CallError::Denied { id, source },
            _ => CallError::Dead { id, socket: self.socket.clone(), source },
        }
    }
}

/// What the sandbox says, or at least how it went.
fn words(status: StatusCode, body: &[u8]) -> String {
    let words = String::from_utf8_lossy(body).trim_end().to_owned();
    if words.is_empty() { status.to_string() } else { words }
}

/// A name as a part of a path.
pub(crate) fn part(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Commands waited for ever.
    #[tokio::test(start_paused = true)]
    async fn a_shim_that_is_stopped_is_an_error_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = Sandbox { id: "s".into(), socket: dir.path().join("socket") };
        let _nobody_takes_what_comes = UnixListener::bind(&sandbox.socket).unwrap();
        let asked =
            async |method| sandbox.answer(method, "/metrics", Vec::new()).await.unwrap_err().to_string();
        let words = "The shim of the sandbox s has not answered within";
        assert_eq!(asked(Method::GET).await, format!("{words} 30 s; is it stopped or overloaded?"));
        assert!(asked(Method::PUT).await.starts_with(&format!("{words} 300 s")));
        let upgraded = sandbox.upgrade("/agent", "hvsock").await.unwrap_err().to_string();
        assert!(upgraded.starts_with(&format!("{words} 60 s")), "{upgraded}");
    }
}
