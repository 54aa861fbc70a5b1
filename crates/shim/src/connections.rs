//! The server's connections, so that its end can wait until its last answers have left: ttRPC writes them in tasks of
//! their own, which nobody else waits for.

use std::io::{self, IoSlice};
use std::os::unix::net::UnixListener;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::stream::unfold;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::watch;
use ttrpc::r#async::transport::Listener;

/// All that are open. Each holds a receiver.
#[derive(Clone)]
pub(crate) struct Connections(Arc<watch::Sender<()>>);

impl Connections {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(())))
    }

    /// Takes connections from `listener`.
    ///
    /// # Errors
    /// The socket cannot be used without blocking.
    pub(crate) fn of(&self, listener: UnixListener) -> io::Result<Listener> {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let open = Arc::clone(&self.0);
        let accept = async |(listener, open): (tokio::net::UnixListener, Arc<watch::Sender<()>>)| {
            let accepted = listener.accept().await;
            let connection = accepted.map(|(stream, _)| Connection { stream, _open: open.subscribe() });
            Some((connection, (listener, open)))
        };
        Ok(Listener::new(unfold((listener, open), accept)))
    }

    /// Returns when none is open: whatever was to be written is.
    pub(crate) async fn closed(&self) {
        self.0.closed().await;
    }
}

/// One connection.
struct Connection {
    stream: UnixStream,
    _open: watch::Receiver<()>,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;
    use std::time::Duration;

    use async_trait::async_trait;
    use tokio::sync::Notify;
    use tokio::time::timeout;
    use ttrpc::Code;
    use ttrpc::r#async::{Client, MethodHandler, Server, Service, TtrpcContext};
    use ttrpc::proto::{Request, Response};

    use super::Connections;

    /// Ends the server with its answer, as `ShutdownSandbox` does.
    struct Last(Arc<Notify>);

    #[async_trait]
    impl MethodHandler for Last {
        async fn handler(&self, _: TtrpcContext, _: Request) -> ttrpc::Result<Response> {
            self.0.notify_one();
            let mut response = Response::new();
            response.set_status(ttrpc::get_status(Code::OK, ""));
            Ok(response)
        }
    }

    /// The process ended before its last answer was written: containerd 2.1 could not remove a pod ("ttrpc: closed").
    #[tokio::test]
    async fn the_last_answer_leaves_before_the_server_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let (connections, end) = (Connections::new(), Arc::new(Notify::new()));
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let last: Box<dyn MethodHandler + Send + Sync> = Box::new(Last(Arc::clone(&end)));
        let service = Service { methods: HashMap::from([("End".into(), last)]), streams: HashMap::new() };
        let mut server = Server::new()
            .add_listener(connections.of(listener).unwrap())
            .register_service(HashMap::from([("test".into(), service)]));
        server.start().await.unwrap();
        let client = Client::connect(&format!("unix://{}", path.display())).await.unwrap();
        let request = Request { service: "test".into(), method: "End".into(), ..Request::default() };
        let asked = tokio::spawn(async move { client.request(request).await });
        end.notified().await;
        let ended = async {
            server.shutdown().await.unwrap();
            connections.closed().await;
        };
        timeout(Duration::from_secs(5), ended).await.expect("nobody holds a connection open");
        asked.await.unwrap().expect("the answer came");
    }
}
