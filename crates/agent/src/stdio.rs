//! stdin, stdout and stderr of processes: pipes or a terminal at the process's end, raw streams to the host or the
//! polled RPCs at the other.

pub(crate) mod ends;
pub(crate) mod ports;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use kata_protocol::oci::Box as ConsoleSize;
use kata_transport::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

use ends::{Pty, Reader, Writer};
use ports::StdioPorts;

use crate::task::Task;

/// Bytes that a pump moves at once.
const CHUNK: usize = 128 * 1024;

/// A process's stdio could not be made or found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StdioError {
    /// The host announced a stream that it did not open.
    #[error(
        "No stream came from the host's port {port}; connect to the stdio port before the request is sent"
    )]
    NoStream { port: u32 },
    /// A pipe or terminal could not be made.
    #[error("Cannot make the {what} of the process")]
    Make { what: &'static str, source: std::io::Error },
    /// A polled RPC named a stream that the process has not.
    #[error("The process has no {stream} to be read or written by request; it is a raw stream, or closed")]
    NotPolled { stream: &'static str },
    /// A polled read met the end.
    #[error("End of {stream}")]
    EndOfFile { stream: &'static str },
    /// Reading or writing failed.
    #[error("Cannot use the {stream} of the process")]
    Transfer { stream: &'static str, source: std::io::Error },
}

type Result<T> = std::result::Result<T, StdioError>;

/// Where one stream of a process leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Nowhere: `/dev/null`.
    Null,
    /// To the raw stream that the host opened from this port.
    Port(u32),
    /// To the polled RPCs.
    Polled,
}

/// What a caller wants for a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    /// One terminal for all three; `stderr` is then not used.
    pub(crate) terminal: bool,
    /// Standard input.
    pub(crate) stdin: Target,
    /// Standard output.
    pub(crate) stdout: Target,
    /// Standard error.
    pub(crate) stderr: Target,
}

/// The host's ends, found before the process is made.
#[derive(Debug)]
enum Far {
    Null,
    Stream(Stream),
    Polled,
}

async fn find(target: Target, ports: &StdioPorts) -> Result<Far> {
    Ok(match target {
        Target::Null => Far::Null,
        Target::Port(port) => Far::Stream(ports.take(port).await?),
        Target::Polled => Far::Polled,
    })
}

/// The ends that a process is given; the process's copies are what keeps the streams open.
#[derive(Debug)]
pub(crate) struct ChildEnds {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// Stdio of a process that is about to be made.
#[derive(Debug)]
pub(crate) struct Prepared {
    terminal: bool,
    far: [Far; 3],
    near: [Option<Near>; 3],
}

#[derive(Debug)]
enum Near {
    Reader(Reader),
    Writer(Writer),
}

impl Prepared {
    /// Finds the host's streams and makes the pipes.
    pub(crate) async fn new(
        request: Request,
        ports: &StdioPorts,
        pipe_size: usize,
    ) -> Result<(Self, ChildEnds)> {
        let stderr = if request.terminal { Target::Null } else { request.stderr };
        let far = [
            find(request.stdin, ports).await?,
            find(request.stdout, ports).await?,
            find(stderr, ports).await?,
        ];
        let mut near = [None, None, None];
        let mut child = [None, None, None];
        if !request.terminal {
            for (index, far) in far.iter().enumerate() {
                if !matches!(far, Far::Null) {
                    let (end, fd) = make_pipe(index == 0, pipe_size)
                        .map_err(|source| StdioError::Make { what: "stdio pipes", source })?;
                    near[index] = Some(end);
                    child[index] = Some(fd);
                }
            }
        }
        let null = || ends::open_null().map_err(|source| StdioError::Make { what: "stdio", source });
        let mut next = child.into_iter().map(|fd| fd.map_or_else(null, Ok));
        let mut fd = || next.next().expect("there are three");
        let child = ChildEnds { stdin: fd()?, stdout: fd()?, stderr: fd()? };
        Ok((Self { terminal: request.terminal, far, near }, child))
    }

    /// Starts moving bytes; `terminal` is the one that the process was given, if it wanted one, and `size` its size.
    pub(crate) fn connect(self, terminal: Option<OwnedFd>, size: Option<ConsoleSize>) -> Result<Stdio> {
        let mut near = self.near;
        let mut stdio = Stdio::default();
        if self.terminal {
            let master = terminal.ok_or_else(|| StdioError::Make {
                what: "terminal",
                source: std::io::Error::other("the process did not send one"),
            })?;
            let pty = sized(master, size).map_err(|source| StdioError::Make { what: "terminal", source })?;
            let pty = Arc::new(pty);
            near = [
                Some(Near::Writer(Writer::Pty(pty.clone()))),
                Some(Near::Reader(Reader::Pty(pty.clone()))),
                None,
            ];
            stdio.terminal = Some(pty);
        }
        let outputs = [None, Some(&mut stdio.stdout), Some(&mut stdio.stderr)];
        for ((near, far), output) in near.into_iter().zip(self.far).zip(outputs) {
            match (near, far, output) {
                (Some(Near::Writer(writer)), Far::Stream(stream), _) => {
                    stdio.input = Some(Task::of(&tokio::spawn(pump_in(stream, writer))));
                }
                (Some(Near::Writer(writer)), Far::Polled, _) => stdio.stdin = Some(Arc::new(writer)),
                (Some(Near::Reader(reader)), Far::Stream(stream), _) => {
                    tokio::spawn(pump_out(reader, stream));
                }
                (Some(Near::Reader(reader)), Far::Polled, Some(place)) => *place = Some(Arc::new(reader)),
                // A terminal that nobody listens to must not fill up.
                (Some(Near::Reader(reader)), Far::Null, _) => drop(tokio::spawn(drain(reader))),
                _ => {}
            }
        }
        Ok(stdio)
    }
}

fn sized(master: OwnedFd, size: Option<ConsoleSize>) -> std::io::Result<Pty> {
    if let Some(size) = size {
        let clamp = |cells: u32| u16::try_from(cells).unwrap_or(u16::MAX);
        ends::resize(&master, clamp(size.Height), clamp(size.Width))?;
    }
    Pty::new(master)
}

fn make_pipe(input: bool, size: usize) -> std::io::Result<(Near, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // More than the system's limit is refused; the pipe then keeps its usual size.
    let _ = rustix::pipe::fcntl_setpipe_size(write.as_fd(), size);
    if input {
        ends::set_nonblocking(&write)?;
        Ok((Near::Writer(Writer::Pipe(pipe::Sender::from_owned_fd(write)?)), read))
    } else {
        ends::set_nonblocking(&read)?;
        Ok((Near::Reader(Reader::Pipe(pipe::Receiver::from_owned_fd(read)?)), write))
    }
}

/// The agent's ends of a process's stdio. Output goes on until its end even when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Stdio {
    terminal: Option<Arc<Pty>>,
    /// What nobody would end otherwise: the input of the terminal of a process that is gone.
    input: Option<Task>,
    stdin: Option<Arc<Writer>>,
    stdout: Option<Arc<Reader>>,
    stderr: Option<Arc<Reader>>,
}

impl Stdio {
    /// The terminal, if the process has one.
    pub(crate) fn terminal(&self) -> Option<&Pty> {
        self.terminal.as_deref()
    }

    /// The polled standard input.
    pub(crate) fn stdin(&self) -> Result<Arc<Writer>> {
        self.stdin.clone().ok_or(StdioError::NotPolled { stream: "stdin" })
    }

    /// The polled standard output.
    pub(crate) fn stdout(&self) -> Result<Arc<Reader>> {
        self.stdout.clone().ok_or(StdioError::NotPolled { stream: "stdout" })
    }

    /// The polled standard error.
    pub(crate) fn stderr(&self) -> Result<Arc<Reader>> {
        self.stderr.clone().ok_or(StdioError::NotPolled { stream: "stderr" })
    }

    /// Ends a polled standard input. A raw one ends with its stream.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }
}

/// Host to process. Ends with either; dropping the stream tells the host that nobody reads any more.
async fn pump_in(mut stream: Stream, writer: Writer) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = tokio::select! {
            read = stream.read(&mut buffer) => read,
            () = writer.broken() => return,
        };
        let length = match read {
            Ok(0) | Err(_) => return,
            Ok(length) => length,
        };
        if writer.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// Process to host. The end-of-file is passed on; when the host is gone, the process learns it as a broken pipe.
async fn pump_out(reader: Reader, mut stream: Stream) {
    let sent = match &reader {
        Reader::Pipe(pipe) => stream.send_pipe(pipe).await,
        Reader::Pty(_) => copy_out(&reader, &mut stream).await,
    };
    if sent.is_err() {
        return;
    }
    if let Err(error) = stream.shutdown().await {
        tracing::debug!(%error, "The host left a stream before its end");
    }
}

async fn copy_out(reader: &Reader, stream: &mut Stream) -> std::io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    // A terminal that cannot be read any more has ended.
    while let Ok(length @ 1..) = reader.read(&mut buffer).await {
        stream.write_all(&buffer[..length]).await?;
    }
    Ok(())
}

async fn drain(reader: Reader) {
    let mut buffer = vec![0; 4096];
    while reader.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
}
