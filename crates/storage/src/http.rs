//! One request and its answer over a connection to a program of this host.

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// A request has not been answered.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The conversation broke.
    #[error("The connection broke before the answer was there")]
    Broken(#[from] hyper::Error),
    /// Nobody should say that much.
    #[error("The answer is longer than {most} bytes")]
    TooLong {
        /// What is taken.
        most: usize,
    },
}

/// Sends `request`, which must name a host, and takes an answer of `most` bytes.
///
/// # Errors
/// The connection breaks, or the answer is longer.
pub async fn exchange(
    stream: UnixStream,
    request: Request<Full<Bytes>>,
    most: usize,
) -> Result<(StatusCode, Vec<u8>), ExchangeError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answered = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            if bytes.len() + data.len() > most {
                return Err(ExchangeError::TooLong { most });
            }
            bytes.extend_from_slice(&data);
        }
        Ok((status, bytes))
    };
    // The connection is what moves the bytes; it ends when they are moved.
    let (answered, _) = tokio::join!(answered, connection);
    answered
}
