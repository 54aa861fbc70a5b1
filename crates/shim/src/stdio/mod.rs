//! A process's standard streams on the host: what containerd names in a request, opened the way containerd's
//! own shim opens it.

mod fifo;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod late;
mod logger;
mod uri;

#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};

pub(crate) use self::fifo::StdinHold;
pub(crate) use self::late::{Slot, late_input, late_output};
use self::uri::Target;

/// Bytes from containerd to the process.
pub(crate) type Input = Box<dyn AsyncRead + Send + Unpin>;
/// Bytes from the process to containerd.
pub(crate) type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// What a request names: paths or URIs, empty for none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Names {
    /// A FIFO.
    pub(crate) stdin: String,
    /// A FIFO, `file://` or `binary://`.
    pub(crate) stdout: String,
    /// The same; not used with a terminal.
    pub(crate) stderr: String,
    /// The process has a terminal: its output is one stream.
    pub(crate) terminal: bool,
}

/// The outputs, ready to be copied from the guest.
#[derive(Default)]
pub(crate) struct Outputs {
    /// To containerd.
    pub(crate) stdout: Option<Output>,
    /// To containerd; never with a terminal.
    pub(crate) stderr: Option<Output>,
}

impl Names {
    /// Whether errors are a stream of their own.
    pub(crate) fn has_stderr(&self) -> bool {
        !self.terminal && !self.stderr.is_empty()
    }
}

/// A stream cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StdioError {
    /// Not a URI that we know.
    #[error(
        "Cannot use {uri:?} as a process's output; give a FIFO's path, file:///path or binary:///program"
    )]
    Uri {
        /// What was given.
        uri: String,
    },
    /// A FIFO or file.
    #[error("Cannot open {} as a process's {stream}", path.display())]
    Open {
        /// stdin, stdout or stderr.
        stream: &'static str,
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The program of a `binary://` URI.
    #[error("Cannot start the logging program {}", path.display())]
    Logger {
        /// The program.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It started, and gave up or said nothing for long.
    #[error("The logging program {} did not become ready; it must close descriptor 5", path.display())]
    LoggerNotReady {
        /// The program.
        path: PathBuf,
    },
}

/// Opens the input that `names` asks for, with its hold. Not before the process is started: a client that sees
/// the end of its own input can tell us (`CloseIO`) only once it knows the process, and it reads on as soon as
/// this end is open.
///
/// # Errors
/// It cannot be opened, and why.
pub(crate) fn open_input(names: &Names) -> Result<Option<(Input, StdinHold)>, StdioError> {
    match names.stdin.as_str() {
        "" => Ok(None),
        path => fifo::open_input(Path::new(path)).map(Some),
    }
}

/// Opens the outputs that `names` asks for, for the container `id` of `namespace` (a logging program is told
/// both).
///
/// # Errors
/// What cannot be opened, and why. Nothing stays open.
pub(crate) async fn open_outputs(names: &Names, namespace: &str, id: &str) -> Result<Outputs, StdioError> {
    if let Target::Logger(program) = uri::parse(&names.stdout)? {
        // One program gets both streams, whatever stderr says, as in containerd's own shim.
        let (stdout, stderr) = logger::start(&program, namespace, id).await?;
        let stderr = names.has_stderr().then_some(stderr);
        return Ok(Outputs { stdout: Some(stdout), stderr });
    }
    let stderr = if names.has_stderr() { names.stderr.as_str() } else { "" };
    Ok(Outputs {
        stdout: open_output("stdout", &names.stdout).await?,
        stderr: open_output("stderr", stderr).await?,
    })
}

async fn open_output(stream: &'static str, uri: &str) -> Result<Option<Output>, StdioError> {
    match uri::parse(uri)? {
        Target::None => Ok(None),
        Target::Path(path) if is_fifo(&path) => fifo::open_output(stream, &path).await.map(Some),
        Target::Path(path) => {
            let file = OpenOptions::new().append(true).open(&path);
            Ok(Some(file_output(file.map_err(|source| StdioError::Open { stream, path, source })?)))
        }
        Target::File(path) => {
            let file = open_file(&path).map_err(|source| StdioError::Open { stream, path, source })?;
            Ok(Some(file_output(file)))
        }
        Target::Logger(_) => Err(StdioError::Uri { uri: uri.to_owned() }),
    }
}

fn is_fifo(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
}

fn open_file(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    OpenOptions::new().append(true).create(true).open(path)
}

fn file_output(file: File) -> Output {
    Box::new(FileOutput(file))
}

/// A log file. A file is always ready; what it costs to write to it is what it costs everybody.
struct FileOutput(File);

impl AsyncWrite for FileOutput {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.0.write(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
