//! One POST of OTLP over HTTP.

use std::io;
use std::time::Duration;

use data_encoding::BASE64;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::{Credentials, Endpoint};

/// How long a collector may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Spans were not taken.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Nobody is there.
    #[error("Cannot connect to it")]
    Connect(#[source] io::Error),
    /// The endpoint's path or the credentials are no HTTP.
    #[error("The request cannot be written")]
    Request(#[from] hyper::http::Error),
    /// The conversation broke.
    #[error("The connection broke before the answer was there")]
    Broken(#[from] hyper::Error),
    /// It does not want them.
    #[error("It answered {0}")]
    Refused(StatusCode),
    /// It says nothing.
    #[error("It did not answer within {} s", PATIENCE.as_secs())]
    Late,
}

/// Sends spans, encoded by [`encode`](crate::encode), to a collector.
///
/// # Errors
/// It did not take them.
pub async fn post(endpoint: &Endpoint, body: Vec<u8>) -> Result<(), ExportError> {
    timeout(PATIENCE, exchange(endpoint, body)).await.unwrap_or(Err(ExportError::Late))
}

async fn exchange(endpoint: &Endpoint, body: Vec<u8>) -> Result<(), ExportError> {
    let request = request(endpoint, body)?;
    let address = (endpoint.host.as_str(), endpoint.port);
    let stream = TcpStream::connect(address).await.map_err(ExportError::Connect)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answered = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        // What it says of single spans is for its own log; but the connection is to end in order.
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            frame?;
        }
        Ok::<_, hyper::Error>(status)
    };
    // The connection is what moves the bytes; it ends when they are moved.
    let (answered, _) = tokio::join!(answered, connection);
    match answered? {
        status if status.is_success() => Ok(()),
        status => Err(ExportError::Refused(status)),
    }
}

fn request(endpoint: &Endpoint, body: Vec<u8>) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    let Endpoint { host, port, path, credentials } = endpoint;
    let host = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let request = Request::post(path).header(HOST, host).header(CONTENT_TYPE, "application/x-protobuf");
    let request = match credentials {
        Some(Credentials { user, password }) => {
            let words = BASE64.encode(format!("{user}:{password}").as_bytes());
            request.header(AUTHORIZATION, format!("Basic {words}"))
        }
        None => request,
    };
    request.body(Full::new(Bytes::from(body)))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::{ExportError, post};
    use crate::{Credentials, Endpoint};

    /// Takes one request, and answers it so.
    async fn collector(answer: &'static [u8]) -> (Endpoint, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let taken = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"spans") {
                stream.read_buf(&mut request).await.unwrap();
            }
            stream.write_all(answer).await.unwrap();
            String::from_utf8(request).unwrap()
        });
        let credentials = Some(Credentials { user: "me".to_owned(), password: "secret".to_owned() });
        (Endpoint { port, credentials, ..Endpoint::default() }, taken)
    }

    #[tokio::test]
    async fn spans_are_posted_as_protobuf_with_the_credentials() {
        let (endpoint, taken) = collector(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        post(&endpoint, b"spans".to_vec()).await.unwrap();
        let request = taken.await.unwrap();
        assert!(request.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("content-type: application/x-protobuf\r\n"), "{request}");
        assert!(request.contains("authorization: Basic bWU6c2VjcmV0\r\n"), "{request}");
    }

    #[tokio::test]
    async fn a_refusal_is_told() {
        let (endpoint, _taken) = collector(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n").await;
        let refused = post(&endpoint, b"spans".to_vec()).await;
        assert!(matches!(refused, Err(ExportError::Refused(status)) if status == 401), "{refused:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_says_nothing_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint { port: listener.local_addr().unwrap().port(), ..Endpoint::default() };
        assert!(matches!(post(&endpoint, Vec::new()).await, Err(ExportError::Late)));
    }
}
