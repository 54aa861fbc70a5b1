//! A logging program (`binary://`): it reads stdout from descriptor 3 and stderr from 4, and closes (or
//! writes to) 5 when it is ready.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::uri::Program;
use super::{Output, StdioError};

const READY_PATIENCE: Duration = Duration::from_secs(10);
/// From the end of its input to SIGTERM, and from there to SIGKILL.
const END_PATIENCE: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(2)];

/// Starts the program and waits until it is ready. It is ended after both streams are closed.
pub(super) async fn start(
    program: &Program,
    namespace: &str,
    id: &str,
) -> Result<(Output, Output), StdioError> {
    let error = |source| StdioError::Logger { path: program.path.clone(), source };
    let (stdout_writer, stdout_reader) = pipe::pipe().map_err(error)?;
    let (stderr_writer, stderr_reader) = pipe::pipe().map_err(error)?;
    let (ready_writer, mut ready_reader) = pipe::pipe().map_err(error)?;
    let mut command = Command::new(&program.path);
    command.args(&program.args).env_clear();
    command.env("CONTAINER_ID", id).env("CONTAINER_NAMESPACE", namespace);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mappings = [
        (3, stdout_reader.into_blocking_fd()),
        (4, stderr_reader.into_blocking_fd()),
        (5, ready_writer.into_blocking_fd()),
    ];
    let mappings = mappings
        .into_iter()
        .map(|(child_fd, fd)| fd.map(|parent_fd: OwnedFd| FdMapping { parent_fd, child_fd }))
        .collect::<io::Result<Vec<_>>>()
        .map_err(error)?;
    command.fd_mappings(mappings).map_err(|collision| error(io::Error::other(collision)))?;
    let mut child = command.spawn().map_err(error)?;
    drop(command);
    let ready = timeout(READY_PATIENCE, ready_reader.read(&mut [0])).await;
    if !matches!(ready, Ok(Ok(count)) if count > 0 || !program.writes_ready) {
        // If it cannot be killed it is already dead.
        let _ = child.kill().await;
        return Err(StdioError::LoggerNotReady { path: program.path.clone() });
    }
    let (open, closed) = oneshot::channel();
    tokio::spawn(end(child, closed));
    let open = Arc::new(open);
    let output = |writer| -> Output { Box::new(LoggerOutput { writer, _open: open.clone() }) };
    Ok((output(stdout_writer), output(stderr_writer)))
}

/// Reaps the program; if it does not end after its input did, makes it.
async fn end(mut child: Child, closed: oneshot::Receiver<()>) {
    tokio::select! {
        _ = child.wait() => return,
        _ = closed => {}
    }
    for (patience, signal) in END_PATIENCE.into_iter().zip([Signal::TERM, Signal::KILL]) {
        if timeout(patience, child.wait()).await.is_ok() {
            return;
        }
        if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            // Not yet waited for, so the number is still its own.
            let _ = kill_process(pid, signal);
        }
    }
    let _ = child.wait().await;
}

/// One stream; when the last one is dropped, the program's time begins to run out.
struct LoggerOutput {
    writer: pipe::Sender,
    _open: Arc<oneshot::Sender<()>>,
}

impl AsyncWrite for LoggerOutput {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(context)
    }
}
