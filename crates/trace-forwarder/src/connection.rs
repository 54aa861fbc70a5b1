//! One agent's spans. The next message is read when the one before is delivered: a guest that tells more than the collector
//! takes waits, and holds one message.

use kata_trace::{Batch, Endpoint, ExportError, encode, next_frame, post, spans};
use tokio::io::AsyncRead;

/// An agent's spans are not taken any more.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    /// The connection broke, or a message is too long.
    #[error("The connection broke")]
    Read(#[from] std::io::Error),
    /// What came is something else.
    #[error(transparent)]
    Bad(#[from] kata_trace::BadSpans),
}

/// Sends what comes from `guest` on to the collector.
pub(crate) async fn serve(stream: impl AsyncRead + Unpin, guest: String, endpoint: Endpoint) {
    tracing::info!(guest, "Connected");
    let mut lost = 0;
    match forward(stream, &guest, &endpoint, &mut lost).await {
        Ok(()) => tracing::info!(guest, lost, "Disconnected"),
        Err(error) => {
            tracing::warn!(guest, lost, error = &error as &dyn std::error::Error, "Disconnected");
        }
    }
}

async fn forward(
    mut stream: impl AsyncRead + Unpin,
    guest: &str,
    endpoint: &Endpoint,
    lost: &mut usize,
) -> Result<(), ConnectionError> {
    let resource = [("service.name", "kata-agent".to_owned()), ("kata.guest", guest.to_owned())];
    while let Some(message) = next_frame(&mut stream).await? {
        let spans = spans(&message)?;
        // What the guest says of itself is replaced by what is known of it.
        let body = encode(Batch { resource: &resource, spans: &spans });
        if let Err(error) = post(endpoint, body).await {
            complain(&error, endpoint, *lost);
            *lost += spans.len();
        }
    }
    Ok(())
}

/// Once for a connection: how much it costs is told at its end.
fn complain(error: &ExportError, endpoint: &Endpoint, lost: usize) {
    if lost == 0 {
        let error = error as &dyn std::error::Error;
        tracing::warn!(%endpoint, error, "Spans are lost: no collector takes them; start one there");
    }
}

#[cfg(test)]
mod tests {
    use kata_trace::testing::Collector;
    use kata_trace::{Batch, Context, Endpoint, Kind, Span, encode, frame};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use crate::listen::Listener;

    fn span() -> Span {
        Span {
            context: Context::root(),
            parent: None,
            name: "grpc.AgentService/StartContainer".into(),
            kind: Kind::Server,
            start: 1,
            end: 2,
            attributes: Vec::new(),
            error: None,
        }
    }

    #[tokio::test]
    async fn an_agents_spans_go_to_the_collector_with_the_guests_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm.sock_10240");
        let mut collector = Collector::new().await;
        let endpoint = collector.endpoint.clone();
        let listener = Listener::bind_unix(&path).unwrap();
        let running = tokio::spawn(async move { listener.run(&endpoint).await });

        let mut agent = UnixStream::connect(&path).await.unwrap();
        let span = span();
        let forged = [("service.name", "another".to_owned())];
        let message = encode(Batch { resource: &forged, spans: std::slice::from_ref(&span) });
        agent.write_all(&frame(&message)).await.unwrap();
        let body = collector.next().await;
        assert_eq!(kata_trace::spans(&body), Ok(vec![span]));
        let text = String::from_utf8_lossy(&body);
        assert!(text.contains("vm.sock_10240") && !text.contains("another"), "{text}");

        running.abort();
        assert!(running.await.unwrap_err().is_cancelled());
        assert!(!path.exists(), "the socket is left");
    }

    #[tokio::test]
    async fn a_guest_with_too_many_connections_has_the_next_one_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm.sock_10240");
        let listener = Listener::bind_unix(&path).unwrap();
        let running = tokio::spawn(async move { listener.run(&Endpoint::default()).await });
        let mut held = Vec::new();
        for _ in 0..8 {
            held.push(UnixStream::connect(&path).await.unwrap());
        }
        let mut next = UnixStream::connect(&path).await.unwrap();
        assert_eq!(next.read(&mut [0]).await.unwrap(), 0);
        running.abort();
    }

    #[tokio::test]
    async fn a_guest_that_sends_no_spans_is_disconnected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm.sock_10240");
        let listener = Listener::bind_unix(&path).unwrap();
        let running = tokio::spawn(async move { listener.run(&Endpoint::default()).await });
        let mut guest = UnixStream::connect(&path).await.unwrap();
        guest.write_all(&frame(b"no spans")).await.unwrap();
        assert_eq!(guest.read(&mut [0]).await.unwrap(), 0);
        running.abort();
    }
}
