//! FIFOs between containerd's client and a process.
//!
//! Output: besides the writing end a reading end stays open, so that a reader that goes away (a client that
//! detaches, containerd that restarts) fills the pipe instead of killing the stream. Input: besides the
//! reading end a writing end stays open until `CloseIO`, so that a client that goes away does not end it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::time::Timespec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use tokio::time::{Sleep, sleep};

use super::{Input, Output, StdioError};

/// How long a client may take to open its end of an output. containerd's own shim waits for ever; after
/// this time the output simply stays in the pipe.
const READER_PATIENCE: Duration = Duration::from_secs(10);

/// How often a FIFO is looked at that has to become empty before the end.
const LOOK: Duration = Duration::from_millis(5);

/// The writing end of an input that is held until `CloseIO`; dropping it lets the input end.
#[derive(Debug)]
pub(crate) struct StdinHold {
    _writer: File,
}

/// Opens an input and its hold.
pub(super) fn open_input(path: &Path) -> Result<(Input, StdinHold), StdioError> {
    let error = |source| StdioError::Open { stream: "stdin", path: path.to_owned(), source };
    let reader = pipe::OpenOptions::new().open_receiver(path).map_err(error)?;
    let writer = nonblocking().write(true).open(path).map_err(error)?;
    Ok((Box::new(FifoInput(reader)), StdinHold { _writer: writer }))
}

/// Opens an output as soon as somebody has opened the other end: an output that were written and closed
/// before that would be lost.
pub(super) async fn open_output(stream: &'static str, path: &Path) -> Result<Output, StdioError> {
    let error = |source| StdioError::Open { stream, path: path.to_owned(), source };
    let writer = match pipe::OpenOptions::new().open_sender(path) {
        Err(none) if none.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
            await_reader(path).await.map_err(error)?
        }
        other => other.map_err(error)?,
    };
    let reader = nonblocking().read(true).open(path).map_err(error)?;
    Ok(Box::new(FifoOutput { writer, reader: Some(reader), look: None }))
}

/// The kernel wakes only a blocking `open` when a reader comes. Ours gives up by playing the reader itself.
async fn await_reader(path: &Path) -> io::Result<pipe::Sender> {
    let fifo = Arc::new(open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?);
    let awaited = Awaited(Arc::clone(&fifo));
    let mut opening =
        tokio::task::spawn_blocking(move || OpenOptions::new().write(true).open(through(&fifo)));
    let file = match tokio::time::timeout(READER_PATIENCE, &mut opening).await {
        Ok(opened) => opened,
        Err(_) => {
            drop(awaited);
            opening.await
        }
    };
    pipe::Sender::from_file(file.map_err(io::Error::other)??)
}

/// A FIFO whose reader a thread waits for, as long as this is there: whoever waits for the thread may go, and the FIFO's name.
struct Awaited(Arc<OwnedFd>);

impl Drop for Awaited {
    fn drop(&mut self) {
        // It was a FIFO that could be opened a moment ago.
        let _ = nonblocking().read(true).open(through(&self.0));
    }
}

/// The file itself, whatever has become of its name.
fn through(file: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn nonblocking() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags(i32::try_from(OFlags::NONBLOCK.bits()).expect("the flag is a small constant"));
    options
}

struct FifoInput(pipe::Receiver);

impl AsyncRead for FifoInput {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

struct FifoOutput {
    writer: pipe::Sender,
    /// Ours, until the end.
    reader: Option<File>,
    /// The next look at how much is left, at the end.
    look: Option<Pin<Box<Sleep>>>,
}

impl FifoOutput {
    /// Whether the reader has taken everything, or is gone.
    fn is_taken(&self) -> io::Result<bool> {
        let left = rustix::io::ioctl_fionread(&self.writer)?;
        let mut writer = [PollFd::new(&self.writer, PollFlags::empty())];
        poll(&mut writer, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        Ok(left == 0 || writer[0].revents().contains(PollFlags::ERR))
    }
}

impl AsyncWrite for FifoOutput {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(context)
    }

    /// Waits until a reader that is there has taken everything: a client closes its end as soon as it learns of the
    /// process's end, and what is still in the FIFO then is lost. The kernel tells nobody that a pipe has become empty.
    #[expect(clippy::disallowed_methods, reason = "there is no event to wait for")]
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.reader = None;
        while !this.is_taken()? {
            let look = this.look.get_or_insert_with(|| Box::pin(sleep(LOOK)));
            ready!(look.as_mut().poll(context));
            this.look = None;
        }
        Pin::new(&mut this.writer).poll_shutdown(context)
    }
}
