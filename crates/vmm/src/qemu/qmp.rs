//! A client for QMP, QEMU's control protocol: one JSON object a line, replies matched by id.
//!
//! Our own, because the generated clients fail on the first event that is not in their schema. Here a line that
//! makes no sense is skipped, and only the end of the socket ends the connection.

mod commands;
mod events;
#[cfg(test)]
pub(super) mod tests;

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

pub use commands::{
    AddFd, BlockImage, BlockNode, BlockResize, BlockdevAdd, BlockdevDel, Closefd, Command, Cont, DeviceAdd,
    DeviceDel, Getfd, HotpluggableCpu, MemoryDevice, MemoryModule, NetdevAdd, NetdevDel, ObjectAdd,
    ObjectDel, PersistentMemory, QmpCapabilities, QomSet, QueryCpusFast, QueryHotpluggableCpus,
    QueryMemoryDevices, QueryNamedBlockNodes, QueryStatus, Quit, RemoveFd, StatusInfo, Stop, VcpuThread,
    VirtioMem,
};
pub use events::{
    DeviceDeleted, Event, EventData, GuestPanicked, MemoryDeviceSizeChange, STOP, Shutdown, Timestamp,
    VserportChange,
};

/// The longest line accepted. The longest real ones, schema dumps, have about 200 KiB.
const MAX_LINE: u64 = 16 * 1024 * 1024;
/// Events kept for a consumer that is busy; beyond that QEMU has to wait.
const EVENT_BACKLOG: usize = 64;
/// Commands kept for a socket that is busy.
const COMMAND_BACKLOG: usize = 16;
/// Most file descriptors that one command may carry; the kernel allows 253.
const MAX_FDS: usize = 8;

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The socket is closed: QEMU has ended or is about to.
    #[error("QEMU has closed its control channel before {command:?} was answered")]
    Closed {
        /// The command on the way.
        command: &'static str,
    },
    /// No answer within the deadline.
    #[error("QEMU has not answered {command:?} within {deadline:?}: it hangs or the host is overloaded")]
    Timeout {
        /// The command on the way.
        command: &'static str,
        /// How long was waited.
        deadline: Duration,
    },
    /// QEMU answered with an error.
    #[error("QEMU refused {command:?}: {description} ({class})")]
    Refused {
        /// The command.
        command: &'static str,
        /// QEMU's error class, usually `GenericError`.
        class: String,
        /// QEMU's explanation.
        description: String,
    },
    /// A command could not be written or an answer not be read as JSON.
    #[error("The answer of QEMU to {command:?} makes no sense: is this version of QEMU supported?")]
    Malformed {
        /// The command.
        command: &'static str,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The greeting did not come or is not one.
    #[error("QEMU did not greet on its control channel as it should")]
    Greeting,
    /// The socket could not be used.
    #[error("The control channel to QEMU failed")]
    Io(#[from] io::Error),
    /// More file descriptors than one command may carry.
    #[error("A command can carry at most {MAX_FDS} file descriptors, not {count}: send several commands")]
    TooManyFds {
        /// How many it was given.
        count: usize,
    },
}

impl QmpError {
    /// QEMU knows no device of that id.
    pub(super) fn is_device_not_found(&self) -> bool {
        matches!(self, Self::Refused { class, .. } if class == "DeviceNotFound")
    }

    /// The guest has been asked for the device before and has not let go yet.
    pub(super) fn is_unplug_pending(&self) -> bool {
        matches!(self, Self::Refused { description, .. } if description.contains("already in the process of unplug"))
    }
}

/// QEMU's version, from its greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Version {
    /// 7 in 7.2.22.
    pub major: u32,
    /// 2 in 7.2.22.
    pub minor: u32,
    /// 22 in 7.2.22.
    pub micro: u32,
}

/// A line from QEMU: greeting, reply or event.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Incoming {
    #[serde(rename = "QMP")]
    greeting: Option<Greeting>,
    #[serde(rename = "return")]
    result: Option<Value>,
    error: Option<Refusal>,
    id: Option<u64>,
    event: Option<String>,
    data: Value,
    timestamp: Option<Timestamp>,
}

#[derive(Debug, Deserialize)]
struct Greeting {
    version: GreetingVersion,
}

#[derive(Debug, Deserialize)]
struct GreetingVersion {
    qemu: Version,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    class: String,
    desc: String,
}

#[derive(Serialize)]
struct Outgoing<'a, C> {
    execute: &'static str,
    arguments: &'a C,
    id: u64,
}

type Answer = Result<Value, Refusal>;

/// A command on its way to the socket.
struct Request {
    id: u64,
    line: Vec<u8>,
    fds: Vec<OwnedFd>,
    answer: oneshot::Sender<Answer>,
}

/// Who waits for which id. Never held across an `await`.
type Pending = Arc<Mutex<HashMap<u64, oneshot::Sender<Answer>>>>;

/// A handle on a QMP connection; clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    requests: mpsc::Sender<Request>,
    next_id: Arc<AtomicU64>,
    deadline: Duration,
}

/// A negotiated connection.
#[derive(Debug)]
pub struct Connected {
    /// Sends commands.
    pub client: Client,
    /// Everything QEMU tells unasked. Ends when the socket closes. Must be read: if it is not, QEMU's replies
    /// wait behind its events.
    pub events: mpsc::Receiver<Event>,
    /// Who answers.
    pub version: Version,
}

/// Greets the QEMU at the other end of `socket` and starts the task that serves the connection.
///
/// `deadline` bounds each later command, but not the greeting: QEMU first allocates the guest's memory and makes its
/// devices, which may take long, and its end closes the socket. Must be called inside a tokio runtime.
///
/// # Errors
/// The other end is no QMP server, closes or refuses.
pub async fn connect(socket: OwnedFd, deadline: Duration) -> Result<Connected, QmpError> {
    let socket = StdUnixStream::from(socket);
    socket.set_nonblocking(true)?;
    let (read, write) = UnixStream::from_std(socket)?.into_split();
    let mut read = BufReader::new(read);
    let version = greeting(&mut read).await?;

    let (requests, request_queue) = mpsc::channel(COMMAND_BACKLOG);
    let (event_queue, events) = mpsc::channel(EVENT_BACKLOG);
    tokio::spawn(serve(read, write, request_queue, event_queue));
    let client = Client { requests, next_id: Arc::default(), deadline };
    let patient = Client { deadline: Duration::MAX, ..client.clone() };
    patient.execute(QmpCapabilities {}).await?;
    Ok(Connected { client, events, version })
}

impl Client {
    /// Sends `command` and waits for its answer.
    ///
    /// # Errors
    /// QEMU refuses, does not answer in time or is gone.
    pub async fn execute<C: Command>(&self, command: C) -> Result<C::Reply, QmpError> {
        self.execute_with_fds(command, Vec::new()).await
    }

    /// Sends `command` together with file descriptors and waits for its answer.
    ///
    /// # Errors
    /// QEMU refuses, does not answer in time or is gone.
    pub async fn execute_with_fds<C: Command>(
        &self,
        command: C,
        fds: Vec<OwnedFd>,
    ) -> Result<C::Reply, QmpError> {
        let (name, deadline) = (C::NAME, self.deadline);
        if fds.len() > MAX_FDS {
            return Err(QmpError::TooManyFds { count: fds.len() });
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let malformed = |source| QmpError::Malformed { command: name, source };
        let mut line =
            serde_json::to_vec(&Outgoing { execute: name, arguments: &command, id }).map_err(malformed)?;
        line.push(b'\n');

        let (answer, answered) = oneshot::channel();
        let exchange = async {
            self.requests.send(Request { id, line, fds, answer }).await.ok()?;
            answered.await.ok()
        };
        match timeout(deadline, exchange).await {
            Err(_) => Err(QmpError::Timeout { command: name, deadline }),
            Ok(None) => Err(QmpError::Closed { command: name }),
            Ok(Some(Ok(value))) => serde_json::from_value(value).map_err(malformed),
            Ok(Some(Err(refusal))) => {
                Err(QmpError::Refused { command: name, class: refusal.class, description: refusal.desc })
            }
        }
    }
}

/// Reads lines until the greeting comes.
async fn greeting(read: &mut BufReader<OwnedReadHalf>) -> Result<Version, QmpError> {
    while let Some(line) = next_line(read).await? {
        if let Some(Incoming { greeting: Some(greeting), .. }) = parse(&line) {
            return Ok(greeting.version.qemu);
        }
    }
    Err(QmpError::Closed { command: QmpCapabilities::NAME })
}

/// Runs the connection until QEMU closes it or all clients are gone.
async fn serve(
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    requests: mpsc::Receiver<Request>,
    events: mpsc::Sender<Event>,
) {
    let pending = Pending::default();
    let ended = tokio::select! {
        ended = read_lines(read, &pending, &events) => ended,
        ended = write_requests(&write, requests, &pending) => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "the control channel to QEMU ended");
    }
}

async fn read_lines(
    mut read: BufReader<OwnedReadHalf>,
    pending: &Pending,
    events: &mpsc::Sender<Event>,
) -> io::Result<()> {
    while let Some(line) = next_line(&mut read).await? {
        let Some(incoming) = parse(&line) else { continue };
        if let Some(name) = incoming.event {
            let event = Event { name, data: incoming.data, timestamp: incoming.timestamp };
            // Without a consumer events are dropped and replies still served.
            events.send(event).await.ok();
            continue;
        }
        let answer = match (incoming.error, incoming.result) {
            (Some(refusal), _) => Err(refusal),
            (None, result) => Ok(result.unwrap_or(Value::Null)),
        };
        let waiting = incoming.id.and_then(|id| lock(pending).remove(&id));
        match waiting {
            // Who asked may have given up in the meantime.
            Some(waiting) => drop(waiting.send(answer)),
            None => tracing::debug!(id = ?incoming.id, ?answer, "QEMU answered what nobody asked"),
        }
    }
    Ok(())
}

async fn write_requests(
    socket: &OwnedWriteHalf,
    mut requests: mpsc::Receiver<Request>,
    pending: &Pending,
) -> io::Result<()> {
    while let Some(Request { id, line, fds, answer }) = requests.recv().await {
        if answer.is_closed() {
            continue; // Timed out while waiting for the socket.
        }
        register(pending, id, answer);
        send(socket, &line, &fds).await?;
    }
    Ok(())
}

/// Notes who waits for the answer `id`, and forgets those who gave up.
fn register(pending: &Pending, id: u64, answer: oneshot::Sender<Answer>) {
    let mut waiting = lock(pending);
    waiting.retain(|_, other| !other.is_closed());
    waiting.insert(id, answer);
}

/// Writes `line`; the file descriptors go with its first byte.
async fn send(socket: &OwnedWriteHalf, line: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
    let socket: &UnixStream = socket.as_ref();
    let mut sent = 0;
    while sent < line.len() {
        socket.writable().await?;
        let fds = if sent == 0 { fds } else { &[] };
        let step = socket.try_io(Interest::WRITABLE, || send_once(socket, &line[sent..], fds));
        match step {
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn send_once(socket: &UnixStream, bytes: &[u8], fds: &[OwnedFd]) -> io::Result<usize> {
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(io::Error::other("too many file descriptors for one message"));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags)?)
}

/// The next line without its end; `None` at the end of the stream.
async fn next_line(read: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    if read.take(MAX_LINE).read_until(b'\n', &mut line).await? == 0 {
        return Ok(None);
    }
    if line.pop_if(|byte| *byte == b'\n').is_none() && line.len() as u64 == MAX_LINE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a line without end"));
    }
    Ok(Some(line))
}

/// A line's content; `None`, with a note in the log, if it is not what QMP sends.
fn parse(line: &[u8]) -> Option<Incoming> {
    if line.trim_ascii().is_empty() {
        return None;
    }
    match serde_json::from_slice(line) {
        Ok(incoming) => Some(incoming),
        Err(error) => {
            let line = String::from_utf8_lossy(&line[..line.len().min(200)]);
            tracing::debug!(%error, %line, "skipped a line from QEMU");
            None
        }
    }
}

fn lock(pending: &Pending) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}
