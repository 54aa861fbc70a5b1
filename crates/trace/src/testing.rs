//! A collector for tests: it takes what comes, and keeps it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::{Endpoint, Span, Tracer, spans};

const PATIENCE: Duration = Duration::from_secs(20);

/// A collector of OTLP over HTTP.
#[derive(Debug)]
pub struct Collector {
    /// Where it is.
    pub endpoint: Endpoint,
    bodies: mpsc::UnboundedReceiver<Vec<u8>>,
}

impl Collector {
    /// On a port of its own.
    ///
    /// # Panics
    /// There is none.
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint { port: listener.local_addr().unwrap().port(), ..Endpoint::default() };
        let (taken, bodies) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                let body = loop {
                    stream.read_buf(&mut request).await.unwrap();
                    if let Some(body) = body(&request) {
                        break body;
                    }
                };
                taken.send(body).unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            }
        });
        Self { endpoint, bodies }
    }

    /// The body of the next request.
    ///
    /// # Panics
    /// There is none within 20 s.
    pub async fn next(&mut self) -> Vec<u8> {
        tokio::time::timeout(PATIENCE, self.bodies.recv()).await.unwrap().unwrap()
    }

    /// All spans, once the tracer has finished.
    ///
    /// # Panics
    /// What came is no OTLP.
    pub async fn spans(mut self, tracer: &Tracer) -> Vec<Span> {
        tracer.finish(PATIENCE).await;
        let mut all = Vec::new();
        while let Ok(body) = self.bodies.try_recv() {
            all.extend(spans(&body).unwrap());
        }
        all
    }
}

/// The body of a request that is whole.
fn body(request: &[u8]) -> Option<Vec<u8>> {
    let head = request.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&request[..head]).unwrap().to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    (request.len() - head == length.parse().unwrap()).then(|| request[head..].to_vec())
}
