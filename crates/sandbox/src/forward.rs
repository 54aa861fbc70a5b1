//! Connections to ports of the pod from its network namespace on the host: what a container manager connects to there for
//! `kubectl port-forward` listens in the guest. Each connection is a stream to the agent, which connects anew.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kata_network::Loopback;
use kata_protocol::forward::{Answer, destination, read_answer};
use kata_protocol::ports;
use kata_transport::{Dialer, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::SandboxId;
use crate::error::chain;
use crate::gone::Gone;
use crate::jobs::{Reach, Site};

/// Connections of a pod at a time; more wait to be accepted. A third of the streams that a multiplexer holds: the rest is for
/// processes.
const MAX_CONNECTIONS: usize = 128;

/// How long the guest may take to connect.
const CONNECTED_WITHIN: Duration = Duration::from_secs(30);

/// How long a connection that could not be taken is left alone.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection did not get through to the guest.
#[derive(Debug, thiserror::Error)]
enum ForwardError {
    /// No stream.
    #[error(transparent)]
    Transport(#[from] kata_transport::Error),
    /// The agent does not do it.
    #[error("The agent in the guest does not forward connections; is the initrd that of this release?")]
    NoAnswer(#[source] io::Error),
    /// The guest takes too long.
    #[error("The guest has not connected within {} s", CONNECTED_WITHIN.as_secs())]
    Silence,
}

/// What the connections of a pod have in common.
struct Forwarder {
    id: SandboxId,
    dialer: Dialer,
    gone: Gone,
    /// Somebody has been told that the guest does not answer.
    has_complained: AtomicBool,
}

impl Site {
    /// Forwards connections as long as the sandbox lives.
    pub(crate) async fn forward_ports(self, reach: Reach) {
        let Reach { machine, agent, dialer } = reach;
        let Some(netns) = machine.netns.clone() else { return };
        drop(machine);
        if agent.is_foreign() {
            tracing::warn!(sandbox = %self.id, "Ports of the pod are not forwarded: the agent in the guest cannot");
            return;
        }
        let has_complained = AtomicBool::new(false);
        let forwarder = Arc::new(Forwarder { id: self.id, dialer, gone: self.gone.clone(), has_complained });
        // An error is the sandbox's end.
        drop(self.gone.unless(forwarder.run(&netns)).await);
    }
}

impl Forwarder {
    async fn run(self: Arc<Self>, netns: &Path) {
        let loopback = match Loopback::take(netns).await {
            Ok(loopback) => loopback,
            Err(error) => {
                tracing::warn!(sandbox = %self.id, error = chain(&error), "Ports of the pod are not forwarded");
                return;
            }
        };
        tracing::debug!(sandbox = %self.id, "Ports of the pod are forwarded");
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        while let Ok(place) = Arc::clone(&room).acquire_owned().await {
            match loopback.accept().await {
                Ok((socket, destination)) => {
                    let forwarder = Arc::clone(&self);
                    tokio::spawn(async move {
                        forwarder.carry(socket, destination).await;
                        drop(place);
                    });
                }
                // Its client has given up meanwhile.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                // Most likely there is no descriptor left; it waits until one may be there.
                Err(error) => {
                    tracing::warn!(sandbox = %self.id, %error, "A connection to the pod is not taken yet");
                    drop(place);
                    timeout(ACCEPT_PAUSE, std::future::pending::<()>()).await.ok();
                }
            }
        }
    }

    /// Carries one connection to its end. One that does not get through is reset, as is one that the sandbox's end breaks.
    async fn carry(&self, socket: TcpStream, destination: SocketAddr) {
        let port = destination.port();
        match self.gone.unless(self.connect(destination)).await {
            Ok(Ok(Ok(stream))) => {
                if let Ok(Err(error)) = self.gone.unless(stream.join(socket)).await {
                    tracing::debug!(sandbox = %self.id, port, %error, "A connection to the pod was broken off");
                }
                return;
            }
            Ok(Ok(Err(refused))) => {
                tracing::debug!(sandbox = %self.id, port, error = %refused, "The guest refused a connection");
            }
            Ok(Err(error)) if !self.has_complained.swap(true, Ordering::Relaxed) => {
                tracing::warn!(sandbox = %self.id, port, error = chain(&error), "A connection to the pod was not forwarded");
            }
            Ok(Err(_)) | Err(_) => {}
        }
        // It ends in any case; this is how.
        drop(socket.set_zero_linger());
    }

    /// A stream that is connected in the guest, or why the guest refuses.
    async fn connect(&self, to: SocketAddr) -> Result<io::Result<Stream>, ForwardError> {
        let connecting = async {
            let mut stream = self.dialer.connect(ports::FORWARD).await?.stream;
            let mut answer = Answer::default();
            stream.write_all(&destination(to)).await.map_err(ForwardError::NoAnswer)?;
            stream.read_exact(&mut answer).await.map_err(ForwardError::NoAnswer)?;
            Ok(read_answer(answer).map(|()| stream))
        };
        timeout(CONNECTED_WITHIN, connecting).await.unwrap_or(Err(ForwardError::Silence))
    }
}
