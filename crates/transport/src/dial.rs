//! The host's end: opening streams to ports of the guest.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio_vsock::{VsockAddr, VsockStream};

use crate::carrier::{Phase, spawn_host};
use crate::header::StreamHeader;
use crate::mux::{Mux, Refusal};
use crate::{AGENT_PORT, Error, Port, Result, Stream, hybrid};

/// A stream to the guest, and who we are in the guest's eyes.
#[derive(Debug)]
pub struct Connection {
    /// The stream; the guest's listener gets its other end.
    pub stream: Stream,
    /// Our identity, which the guest sees as [`peer_port`](crate::Accepted::peer_port); unique among the
    /// live streams of a sandbox. 0 for port 1024 over a unix socket, which carries no identity.
    pub local_port: Port,
}

/// Opens streams to one guest. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Dialer(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Vsock { cid: u32 },
    Hybrid { path: Arc<Path> },
    Unix { path: Arc<Path>, next_port: Arc<AtomicU32> },
    Serial(Serial),
}

#[derive(Debug, Clone)]
struct Serial {
    mux: Arc<Mux>,
    phase: watch::Receiver<Phase>,
    next_port: Arc<AtomicU32>,
}

impl Dialer {
    /// By `AF_VSOCK` to the guest with this context id.
    #[must_use]
    pub fn vsock(cid: u32) -> Self {
        Self(Kind::Vsock { cid })
    }

    /// By hybrid vsock through the VMM's unix socket at `path`.
    #[must_use]
    pub fn hybrid(path: PathBuf) -> Self {
        Self(Kind::Hybrid { path: path.into() })
    }

    /// To an agent that listens on a unix socket: port 1024 is `path` itself, any other port is
    /// `path.<port>`, where a connection begins with its local port (4 bytes, big-endian).
    #[must_use]
    pub fn unix(path: PathBuf) -> Self {
        // Two dialers may talk to one agent: let their numbers differ.
        let first = std::process::id() << 12 | 1;
        Self(Kind::Unix { path: path.into(), next_port: Arc::new(AtomicU32::new(first)) })
    }

    /// By our multiplexer over one connected unix socket, the other end of which is the guest's virtio-serial port.
    ///
    /// The guest need not be up: streams can be opened and written at once, and are read when the agent
    /// opens its port. Tasks of the current tokio runtime drive the connection and end when the socket closes.
    ///
    /// # Errors
    /// `socket` is no unix stream socket.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn serial(socket: OwnedFd) -> io::Result<Self> {
        let socket = std::os::unix::net::UnixStream::from(socket);
        socket.set_nonblocking(true)?;
        let socket = UnixStream::from_std(socket)?;
        let (phase_changes, phase) = watch::channel(Phase::Waiting);
        let mux = Mux::host();
        spawn_host(socket, &mux, phase_changes);
        Ok(Self(Kind::Serial(Serial { mux, phase, next_port: Arc::new(AtomicU32::new(1)) })))
    }

    /// Where others reach the agent, as upstream's tools write it: `vsock://CID:1024`, `hvsock://PATH:1024`,
    /// `unix://PATH`. `None` over virtio-serial, which has one end on the host, and that is ours.
    #[must_use]
    pub fn address(&self) -> Option<String> {
        match &self.0 {
            Kind::Vsock { cid } => Some(format!("vsock://{cid}:{AGENT_PORT}")),
            Kind::Hybrid { path } => Some(format!("hvsock://{}:{AGENT_PORT}", path.display())),
            Kind::Unix { path, .. } => Some(format!("unix://{}", path.display())),
            Kind::Serial(_) => None,
        }
    }

    /// Whether what is written waits for a guest that boots; the other carriers fail until it is up.
    #[must_use]
    pub fn is_buffered(&self) -> bool {
        matches!(self.0, Kind::Serial(_))
    }

    /// Opens a stream to a port of the guest.
    ///
    /// Over virtio-serial this does not wait for the guest: if nobody listens there, reading ends at once.
    /// The other carriers fail when nobody listens. There is no deadline here; dropping the future is safe.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Refused`] if nobody listens or the VM is not up; [`Error::Closed`] if it
    /// has ended.
    pub async fn connect(&self, port: Port) -> Result<Connection> {
        let connect = |source| Error::Connect { port, source };
        match &self.0 {
            Kind::Vsock { cid } => {
                let stream = VsockStream::connect(VsockAddr::new(*cid, port)).await.map_err(connect)?;
                let local_port = stream.local_addr().map_err(connect)?.port();
                Ok(Connection { stream: stream.into(), local_port })
            }
            Kind::Hybrid { path } => {
                let mut stream = UnixStream::connect(path).await.map_err(connect)?;
                let local_port = hybrid::handshake(&mut stream, port).await?;
                Ok(Connection { stream: stream.into(), local_port })
            }
            Kind::Unix { path, next_port } => connect_unix(path, port, next_port).await.map_err(connect),
            Kind::Serial(serial) => serial.connect(port),
        }
    }

    /// Resolves when the guest has opened its end of the virtio-serial port, which is the earliest sign of
    /// life of the agent; at once with the other carriers, which have no such sign.
    ///
    /// # Errors
    /// [`Error::Closed`] if the carrier went away before.
    pub async fn answered(&self) -> Result<()> {
        let Kind::Serial(serial) = &self.0 else { return Ok(()) };
        let mut phase = serial.phase.clone();
        phase.wait_for(|phase| *phase == Phase::Open).await.map_err(|_| Error::Closed)?;
        Ok(())
    }

    /// Resolves when the virtio-serial port's socket is gone, and never with the other carriers.
    pub async fn closed(&self) {
        match &self.0 {
            Kind::Serial(serial) => {
                // The phase goes with the carrier.
                let mut phase = serial.phase.clone();
                while phase.changed().await.is_ok() {}
            }
            _ => std::future::pending().await,
        }
    }
}

impl Serial {
    fn connect(&self, port: Port) -> Result<Connection> {
        let local_port = self.next_port.fetch_add(1, Ordering::Relaxed);
        match self.mux.open(StreamHeader { destination: port, local: local_port }) {
            Ok(stream) => Ok(Connection { stream: stream.into(), local_port }),
            Err(Refusal::Closed) => Err(Error::Closed),
            Err(Refusal::TooMany) => Err(Error::Connect {
                port,
                source: io::Error::other("Too many streams are open; end some processes first"),
            }),
        }
    }
}

async fn connect_unix(path: &Path, port: Port, next_port: &AtomicU32) -> io::Result<Connection> {
    if port == AGENT_PORT {
        return Ok(Connection { stream: UnixStream::connect(path).await?.into(), local_port: 0 });
    }
    let mut stream = UnixStream::connect(port_path(path, port)).await?;
    let local_port = next_port.fetch_add(1, Ordering::Relaxed);
    stream.write_all(&local_port.to_be_bytes()).await?;
    Ok(Connection { stream: stream.into(), local_port })
}

/// The unix socket that stands for a port other than the agent's.
pub(crate) fn port_path(path: &Path, port: Port) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{port}"));
    name.into()
}
