//! The client of a shim's management socket.

use std::io;
use std::path::Path;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use kata_storage::http::{ExchangeError, exchange};
use tokio::net::UnixStream;

/// The largest answer that is taken, in bytes: several times what upstream's shim tells.
const MOST: usize = 1 << 20;
/// The largest line of a stream.
const LINE: usize = 16 << 10;

/// A shim has not answered as it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShimError {
    /// Nobody listens.
    #[error("nobody listens at its management socket")]
    Absent(#[source] io::Error),
    /// The conversation broke.
    #[error("the connection broke")]
    Broken(#[from] hyper::Error),
    /// The same, or it says too much.
    #[error("there is no usable answer")]
    Answer(#[from] ExchangeError),
    /// It refuses.
    #[error("it answers {status}: {words}")]
    Refused {
        /// How.
        status: StatusCode,
        /// In its words.
        words: String,
    },
    /// No request can be made of this.
    #[error("the request has no form")]
    Request(#[from] hyper::http::Error),
}

impl ShimError {
    /// Whether the shim has no such endpoint.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self, Self::Refused { status: StatusCode::NOT_FOUND, .. })
    }

    /// Whether nobody is there at all.
    pub(crate) fn is_dead(&self) -> bool {
        let dead = [io::ErrorKind::ConnectionRefused, io::ErrorKind::NotFound];
        matches!(self, Self::Absent(error) if dead.contains(&error.kind()))
    }
}

async fn connect(socket: &Path) -> Result<UnixStream, ShimError> {
    UnixStream::connect(socket).await.map_err(ShimError::Absent)
}

fn request(path: &str) -> Result<Request<Full<Bytes>>, ShimError> {
    Ok(Request::get(path).header(HOST, "sandbox").body(Full::default())?)
}

/// Whether anybody listens.
pub(crate) async fn is_dead(socket: &Path) -> bool {
    connect(socket).await.is_err_and(|error| error.is_dead())
}

/// The answer of an endpoint.
pub(crate) async fn ask(socket: &Path, path: &str) -> Result<Vec<u8>, ShimError> {
    let request = request(path)?;
    let (status, body) = exchange(connect(socket).await?, request, MOST).await?;
    if status.is_success() { Ok(body) } else { Err(refused(status, &body)) }
}

fn refused(status: StatusCode, body: &[u8]) -> ShimError {
    let words = String::from_utf8_lossy(&body[..body.len().min(200)]);
    ShimError::Refused { status, words: words.trim_end().to_owned() }
}

/// An endpoint's answer that goes on, line by line.
pub(crate) struct Lines {
    body: Incoming,
    rest: Vec<u8>,
}

impl Lines {
    /// Asks for it.
    pub(crate) async fn open(socket: &Path, path: &str) -> Result<Self, ShimError> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(connect(socket).await?)).await?;
        // It ends with the sender and the body.
        tokio::spawn(connection);
        let response: Response<Incoming> = sender.send_request(request(path)?).await?;
        let status = response.status();
        let body = response.into_body();
        if !status.is_success() {
            return Err(refused(status, &[]));
        }
        Ok(Self { body, rest: Vec::new() })
    }

    /// The next line; `None` at the end of the stream, or when it is none of lines.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line = self.rest.drain(..=end).take(end).collect();
                return String::from_utf8(line).ok();
            }
            if self.rest.len() > LINE {
                return None;
            }
            let frame = self.body.frame().await?.ok()?;
            self.rest.extend_from_slice(frame.data_ref()?);
        }
    }
}
