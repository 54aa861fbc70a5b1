//! Raw stdio streams that the host has opened, by the port it opened them from, until a request names them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kata_transport::{Accepted, Incoming, Stream};
use tokio::sync::oneshot;

use super::StdioError;

/// How long a stream may take that was announced. The host opens it first, but streams may overtake each other.
const ARRIVAL: Duration = Duration::from_secs(10);

/// Streams that no request has named; more than these are a mistake of the host, and the oldest goes.
const MAX_UNCLAIMED: usize = 256;

/// Pairs streams with requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct StdioPorts(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    arrived: HashMap<u32, (u64, Stream)>,
    awaited: HashMap<u32, oneshot::Sender<Stream>>,
    count: u64,
}

impl StdioPorts {
    /// Collects streams until the carrier is gone.
    pub(crate) async fn serve(self, mut incoming: Incoming) {
        loop {
            match incoming.accept().await {
                Ok(accepted) => self.deliver(accepted),
                Err(error) => {
                    tracing::debug!(%error, "No more stdio streams are accepted");
                    return;
                }
            }
        }
    }

    /// The stream from the host's `port`.
    pub(crate) async fn take(&self, port: u32) -> Result<Stream, StdioError> {
        let arrival = {
            let mut table = self.table();
            if let Some((_, stream)) = table.arrived.remove(&port) {
                return Ok(stream);
            }
            let (sender, receiver) = oneshot::channel();
            table.awaited.insert(port, sender);
            receiver
        };
        match tokio::time::timeout(ARRIVAL, arrival).await {
            Ok(Ok(stream)) => Ok(stream),
            _ => {
                self.table().awaited.remove(&port);
                Err(StdioError::NoStream { port })
            }
        }
    }

    fn deliver(&self, accepted: Accepted) {
        let Accepted { stream, peer_port } = accepted;
        let mut table = self.table();
        let stream = match table.awaited.remove(&peer_port) {
            Some(sender) => match sender.send(stream) {
                Ok(()) => return,
                Err(stream) => stream,
            },
            None => stream,
        };
        table.count += 1;
        let count = table.count;
        table.arrived.insert(peer_port, (count, stream));
        if table.arrived.len() > MAX_UNCLAIMED {
            let oldest = table.arrived.iter().min_by_key(|(_, (count, _))| *count).map(|(port, _)| *port);
            if let Some(port) = oldest {
                table.arrived.remove(&port);
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Every change is complete before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;

    fn accepted(peer_port: u32) -> Accepted {
        let (stream, _) = UnixStream::pair().expect("socket pair");
        Accepted { stream: stream.into(), peer_port }
    }

    #[tokio::test]
    async fn a_stream_may_come_before_its_request() {
        let ports = StdioPorts::default();
        ports.deliver(accepted(5));
        assert!(ports.take(5).await.is_ok());
    }

    #[tokio::test]
    async fn a_stream_may_come_after_its_request() {
        let ports = StdioPorts::default();
        let taking = tokio::spawn({
            let ports = ports.clone();
            async move { ports.take(5).await }
        });
        tokio::task::yield_now().await;
        ports.deliver(accepted(5));
        assert!(taking.await.expect("no panic").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_does_not_come_is_named() {
        let error = StdioPorts::default().take(5).await.expect_err("nobody connects");
        assert!(error.to_string().contains("port 5"));
    }

    #[tokio::test]
    async fn unclaimed_streams_are_bounded() {
        let ports = StdioPorts::default();
        for port in 0..300 {
            ports.deliver(accepted(port));
        }
        assert_eq!(ports.table().arrived.len(), MAX_UNCLAIMED);
        assert!(ports.table().arrived.contains_key(&299));
    }
}
