//! A connection to a D-Bus, or to a peer that speaks its protocol.
//!
//! Messages are made and read by `rustbus`. The connection is not: that crate's own stays open in every program that is
//! started meanwhile, and waits without end for a peer that does not greet.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustbus::message_builder::{MarshalledMessage, MessageType};
use rustbus::wire::errors::{MarshalError, UnmarshalError};
use rustbus::wire::{marshal, unmarshal};
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// A message's fixed part, with the length of its header's fields.
const FIXED: usize = 16;
/// The longest message that is read; the protocol allows for more than anybody here has to say.
const LONGEST: usize = 1 << 20;

/// A request got no answer, or a refusal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BusError {
    #[error("no answer within {} s", .0.as_secs_f32())]
    Late(Duration),
    #[error("it refuses with {name}: {text}")]
    Refused { name: String, text: String },
    #[error("it does not let this user in: {0:?}")]
    Unwelcome(String),
    #[error("its answer cannot be read: {0}")]
    Unreadable(String),
    #[error("the request cannot be written: {0}")]
    Unwritable(#[from] MarshalError),
    #[error("the connection fails: {0}")]
    Io(io::Error),
}

impl From<UnmarshalError> for BusError {
    fn from(error: UnmarshalError) -> Self {
        Self::Unreadable(error.to_string())
    }
}

type Result<T> = std::result::Result<T, BusError>;

/// A connection for one errand, which is over at a fixed time.
pub(crate) struct Bus {
    stream: BufReader<UnixStream>,
    patience: Duration,
    until: Instant,
    serial: u32,
    /// What came before the answer.
    signals: VecDeque<MarshalledMessage>,
}

impl Bus {
    /// Connects and is let in as this process's user; all that follows has to be done within `patience`.
    pub(crate) fn connect(path: &Path, patience: Duration) -> Result<Self> {
        let connected = || {
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            // Who listens may not accept.
            sockopt::set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
            connect(&socket, &SocketAddrUnix::new(path)?)?;
            Ok::<_, io::Error>(UnixStream::from(socket))
        };
        let until = Instant::now() + patience;
        let stream = connected().map_err(|error| failed(error, patience))?;
        let stream = BufReader::new(stream);
        let mut bus = Self { stream, patience, until, serial: 0, signals: VecDeque::new() };
        bus.authenticate()?;
        Ok(bus)
    }

    /// The D-Bus specification's "EXTERNAL": the kernel tells the peer who this is. That it begins is said at once: systemd's
    /// own socket does not see a message that it reads together with `BEGIN` until there is something more to read.
    fn authenticate(&mut self) -> Result<()> {
        let uid = rustix::process::getuid().as_raw().to_string();
        let uid: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
        self.write(format!("\0AUTH EXTERNAL {uid}\r\nBEGIN\r\n").as_bytes())?;
        let mut answer = Vec::new();
        self.wait_at_most()?;
        let read = self.stream.by_ref().take(512).read_until(b'\n', &mut answer);
        read.map_err(|error| self.failed(error))?;
        if !answer.starts_with(b"OK ") {
            return Err(BusError::Unwelcome(String::from_utf8_lossy(&answer).trim_end().to_owned()));
        }
        Ok(())
    }

    /// Sends a method's call; its answer.
    pub(crate) fn call(&mut self, message: &MarshalledMessage) -> Result<MarshalledMessage> {
        self.send(message)?;
        loop {
            let received = self.receive()?;
            let is_answer = received.dynheader.response_serial == Some(self.serial);
            match received.typ {
                MessageType::Reply if is_answer => return Ok(received),
                MessageType::Error if is_answer => {
                    let text = received.body.parser().get::<String>().unwrap_or_default();
                    let name = received.dynheader.error_name.unwrap_or_default();
                    return Err(BusError::Refused { name, text });
                }
                MessageType::Signal => self.signals.push_back(received),
                _ => {}
            }
        }
    }

    /// The next signal.
    pub(crate) fn signal(&mut self) -> Result<MarshalledMessage> {
        loop {
            if let Some(signal) = self.signals.pop_front() {
                return Ok(signal);
            }
            let received = self.receive()?;
            if received.typ == MessageType::Signal {
                return Ok(received);
            }
        }
    }

    pub(crate) fn send(&mut self, message: &MarshalledMessage) -> Result<()> {
        self.serial += 1;
        let mut bytes = Vec::new();
        marshal::marshal(message, self.serial, &mut bytes)?;
        bytes.extend_from_slice(message.get_buf());
        self.write(&bytes)
    }

    /// The next message of any kind.
    pub(crate) fn receive(&mut self) -> Result<MarshalledMessage> {
        let mut bytes = vec![0; FIXED];
        self.read(&mut bytes)?;
        let (start, header) = unmarshal::unmarshal_header(&bytes, 0)?;
        let (_, fields) = rustbus::wire::util::parse_u32(&bytes[start..], header.byteorder)?;
        let length = (fields as usize).next_multiple_of(8) + header.body_len as usize;
        if length > LONGEST {
            return Err(BusError::Unreadable(format!("it has {length} bytes")));
        }
        bytes.resize(FIXED + length, 0);
        self.read(&mut bytes[FIXED..])?;
        let (used, fields) = unmarshal::unmarshal_dynamic_header(&header, &bytes, start)?;
        let (_, message) = unmarshal::unmarshal_next_message(&header, fields, &bytes, start + used)?;
        Ok(message)
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.wait_at_most()?;
        self.stream.read_exact(bytes).map_err(|error| self.failed(error))
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.wait_at_most()?;
        self.stream.get_mut().write_all(bytes).map_err(|error| self.failed(error))
    }

    /// The next reading or writing waits only for what is left of the time.
    fn wait_at_most(&self) -> Result<()> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(BusError::Late(self.patience));
        }
        let stream = self.stream.get_ref();
        let limited = stream.set_read_timeout(Some(left)).and_then(|()| stream.set_write_timeout(Some(left)));
        limited.map_err(BusError::Io)
    }

    fn failed(&self, error: io::Error) -> BusError {
        failed(error, self.patience)
    }
}

fn failed(error: io::Error, patience: Duration) -> BusError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => BusError::Late(patience),
        _ => BusError::Io(error),
    }
}
