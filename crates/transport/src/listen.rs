//! The guest's end: accepting streams on ports.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener, VsockStream};

use crate::carrier::{Tasks, spawn_guest};
use crate::device;
use crate::dial::port_path;
use crate::frame::GREETING;
use crate::header::StreamHeader;
use crate::mux::{Mux, MuxStream};
use crate::{AGENT_PORT, Connection, Error, Port, Result, Stream};

/// Streams of one port that may wait to be accepted over unix sockets; more wait in the kernel. A multiplexer
/// bounds how many there are.
const BACKLOG: usize = 64;

/// Ports that streams may wait for before anybody listens on them.
const MAX_PORTS: usize = 32;

/// How long a peer on a unix socket may take to name its port.
const HEADER_DEADLINE: Duration = Duration::from_secs(10);

/// A stream that the host has opened.
#[derive(Debug)]
pub struct Accepted {
    /// The stream.
    pub stream: Stream,
    /// The host's identity: the `local_port` of its [`Connection`].
    pub peer_port: Port,
}

/// The guest's end of all streams. One per agent.
#[derive(Debug)]
pub struct Listener(Kind);

#[derive(Debug)]
enum Kind {
    Vsock,
    Unix { path: PathBuf },
    Serial(Serial),
}

impl Listener {
    /// On `AF_VSOCK`, also for the guest side of hybrid vsock.
    ///
    /// # Errors
    /// None now; ports are opened by [`bind`](Self::bind).
    #[expect(clippy::unused_async, reason = "all carriers are opened the same way")]
    pub async fn vsock() -> Result<Self> {
        Ok(Self(Kind::Vsock))
    }

    /// On the virtio-serial port `device` (`/dev/virtio-ports/…` or `/dev/vport<N>p<M>`); waits until the
    /// host has its end open. Streams that the host opened before are found by [`bind`](Self::bind).
    ///
    /// # Errors
    /// [`Error::Device`] if the port cannot be opened, for example because another process has it.
    pub async fn serial(device: &Path) -> Result<Self> {
        let failed = |source| Error::Device { device: device.to_owned(), source };
        let port = device::open_port(device).await.map_err(failed)?;
        Self::on_port(port).map_err(failed)
    }

    /// On an open port, which was greeted.
    pub(crate) fn on_port(port: File) -> io::Result<Self> {
        let (mux, ports) = (Mux::guest(true), Arc::new(Ports::default()));
        device::spawn_threads(port, &mux, Arrivals(Arc::clone(&ports)).taker())?;
        Ok(Self(Kind::Serial(Serial { ports, mux, _tasks: None })))
    }

    /// On any byte stream in place of a virtio-serial port; the other end is a
    /// [`Dialer::serial`](crate::Dialer::serial).
    ///
    /// # Errors
    /// The other end is gone.
    pub async fn over<T>(mut stream: T) -> io::Result<Self>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        stream.write_all(&GREETING).await?;
        stream.flush().await?;
        let (mux, ports) = (Mux::guest(false), Arc::new(Ports::default()));
        let tasks = spawn_guest(stream, &mux, Arrivals(Arc::clone(&ports)).taker());
        Ok(Self(Kind::Serial(Serial { ports, mux, _tasks: Some(tasks) })))
    }

    /// On unix sockets: `path` is port 1024, `path.<port>` any other. With a zero byte at its beginning it is an abstract name.
    ///
    /// # Errors
    /// None now; ports are opened by [`bind`](Self::bind).
    #[expect(clippy::unused_async, reason = "all carriers are opened the same way")]
    pub async fn unix(path: &Path) -> Result<Self> {
        Ok(Self(Kind::Unix { path: path.to_owned() }))
    }

    /// Listens on a port. Over virtio-serial, streams that came for it before are accepted first.
    ///
    /// # Errors
    /// [`Error::Bind`] if the port is taken.
    #[expect(clippy::unused_async, reason = "all carriers are bound the same way")]
    pub async fn bind(&self, port: Port) -> Result<Incoming> {
        let bind = |source| Error::Bind { port, source };
        let source = match &self.0 {
            Kind::Vsock => {
                let address = VsockAddr::new(VMADDR_CID_ANY, port);
                Source::Vsock(VsockListener::bind(address).map_err(bind)?)
            }
            Kind::Unix { path } => bind_unix(path, port).map_err(bind)?,
            Kind::Serial(Serial { ports, .. }) => {
                Source::Streams(ports.bind(port).ok_or_else(|| bind(io::ErrorKind::AddrInUse.into()))?)
            }
        };
        Ok(Incoming { port, source })
    }

    /// Connects out to a port of the host: how the guest rings the doorbell over vsock.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with any other carrier (over virtio-serial, opening the port is the doorbell);
    /// [`Error::Connect`] if the host does not listen.
    pub async fn connect_host(&self, port: Port) -> Result<Connection> {
        let Kind::Vsock = &self.0 else { return Err(Error::Unsupported { port }) };
        let connect = |source| Error::Connect { port, source };
        let stream = VsockStream::connect(VsockAddr::new(VMADDR_CID_HOST, port)).await.map_err(connect)?;
        let local_port = stream.local_addr().map_err(connect)?.port();
        Ok(Connection { stream: stream.into(), local_port })
    }
}

/// The guest's end of a multiplexed carrier.
#[derive(Debug)]
struct Serial {
    ports: Arc<Ports>,
    mux: Arc<Mux>,
    _tasks: Option<Tasks>,
}

impl Drop for Serial {
    fn drop(&mut self) {
        self.mux.close();
        self.ports.close();
    }
}

/// Streams that arrive on one port. Dropping it stops listening.
#[derive(Debug)]
pub struct Incoming {
    port: Port,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Vsock(VsockListener),
    Unix(UnixListener),
    UnixPort { queue: mpsc::Receiver<Accepted>, _filler: Filler },
    Streams(mpsc::UnboundedReceiver<Accepted>),
}

impl Incoming {
    /// The next stream. Dropping the future loses none.
    ///
    /// # Errors
    /// [`Error::Closed`] when the carrier is gone; [`Error::Accept`] if the socket failed.
    pub async fn accept(&mut self) -> Result<Accepted> {
        let port = self.port;
        let accept = |source| Error::Accept { port, source };
        match &mut self.source {
            Source::Vsock(listener) => loop {
                let (stream, peer) = listener.accept().await.map_err(accept)?;
                // A workload may have a way to call its own guest.
                if peer.cid() == VMADDR_CID_HOST {
                    return Ok(Accepted { stream: stream.into(), peer_port: peer.port() });
                }
            },
            Source::Unix(listener) => {
                let (stream, _) = listener.accept().await.map_err(accept)?;
                Ok(Accepted { stream: stream.into(), peer_port: 0 })
            }
            Source::UnixPort { queue, .. } => queue.recv().await.ok_or(Error::Closed),
            Source::Streams(queue) => queue.recv().await.ok_or(Error::Closed),
        }
    }
}

fn bind_unix(path: &Path, port: Port) -> io::Result<Source> {
    let path = if port == AGENT_PORT { path.to_owned() } else { port_path(path, port) };
    let listener = UnixListener::bind(path)?;
    if port == AGENT_PORT {
        return Ok(Source::Unix(listener));
    }
    let (queue, accepted) = mpsc::channel(BACKLOG);
    let filler = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(tokio::time::timeout(HEADER_DEADLINE, name_peer(stream, queue.clone())));
        }
    });
    Ok(Source::UnixPort { queue: accepted, _filler: Filler(filler.abort_handle()) })
}

/// Ends the task that accepts a port's connections.
#[derive(Debug)]
struct Filler(AbortHandle);

impl Drop for Filler {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reads the peer's local port and hands the stream over.
async fn name_peer(mut stream: UnixStream, queue: mpsc::Sender<Accepted>) {
    match stream.read_u32().await {
        // The queue is gone when the port is no longer listened on.
        Ok(peer_port) => drop(queue.send(Accepted { stream: stream.into(), peer_port }).await),
        Err(error) => tracing::debug!(%error, "A connection ended before it named its port"),
    }
}

/// The ports of a multiplexed carrier, and the streams that wait on them.
#[derive(Debug, Default)]
struct Ports(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    closed: bool,
    queues: HashMap<Port, Queue>,
}

/// One port: `unclaimed` until somebody listens on it.
#[derive(Debug)]
struct Queue {
    sender: mpsc::UnboundedSender<Accepted>,
    unclaimed: Option<mpsc::UnboundedReceiver<Accepted>>,
}

impl Queue {
    fn new() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self { sender, unclaimed: Some(receiver) }
    }
}

impl Ports {
    /// The streams of a port, if nobody else listens on it.
    fn bind(&self, port: Port) -> Option<mpsc::UnboundedReceiver<Accepted>> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if table.closed {
            return Some(mpsc::unbounded_channel().1);
        }
        let queue = table.queues.entry(port).or_insert_with(Queue::new);
        if queue.unclaimed.is_none() && queue.sender.is_closed() {
            *queue = Queue::new();
        }
        queue.unclaimed.take()
    }

    /// Where a stream for a port goes.
    fn queue(&self, port: Port) -> Option<mpsc::UnboundedSender<Accepted>> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if table.closed || (table.queues.len() >= MAX_PORTS && !table.queues.contains_key(&port)) {
            return None;
        }
        Some(table.queues.entry(port).or_insert_with(Queue::new).sender.clone())
    }

    /// Ends all ports: the carrier is gone.
    fn close(&self) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.closed = true;
        table.queues.clear();
    }
}

/// Puts streams into the queues of their ports, and ends the ports when it is dropped: with the carrier's reader.
#[derive(Debug)]
struct Arrivals(Arc<Ports>);

impl Arrivals {
    fn taker(self) -> impl FnMut(MuxStream, StreamHeader) + Send + 'static {
        move |stream, header| {
            // If nobody listens any more, the stream is dropped, which resets it.
            if let Some(queue) = self.0.queue(header.destination) {
                drop(queue.send(Accepted { stream: stream.into(), peer_port: header.local }));
            }
        }
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.0.close();
    }
}
