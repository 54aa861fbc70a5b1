//! The agent's end of a pipe or a terminal.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;

use crate::sys;

/// Where a process's output is read.
#[derive(Debug)]
pub(crate) enum Reader {
    /// The reading end of a pipe.
    Pipe(pipe::Receiver),
    /// The master of a terminal.
    Pty(Arc<Pty>),
}

impl Reader {
    /// Reads what there is; 0 at the end.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Pipe(pipe) => loop {
                pipe.readable().await?;
                match pipe.try_read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    result => return result,
                }
            },
            Self::Pty(pty) => pty.read(buffer).await,
        }
    }
}

/// Where a process's input is written.
#[derive(Debug)]
pub(crate) enum Writer {
    /// The writing end of a pipe.
    Pipe(pipe::Sender),
    /// The master of a terminal.
    Pty(Arc<Pty>),
}

impl Writer {
    /// Writes all of `bytes`, as fast as the process reads.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = match self {
                Self::Pipe(pipe) => {
                    pipe.writable().await?;
                    match pipe.try_write(bytes) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                        result => result?,
                    }
                }
                Self::Pty(pty) => pty.write(bytes).await?,
            };
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// Waits until no process can read any more; a terminal does not tell.
    pub(crate) async fn broken(&self) {
        match self {
            // Only an error of the agent's own event queue can end this early, and then writing fails too.
            Self::Pipe(pipe) => drop(pipe.ready(Interest::ERROR).await),
            Self::Pty(_) => std::future::pending().await,
        }
    }
}

/// The master of a process's terminal.
#[derive(Debug)]
pub(crate) struct Pty(AsyncFd<OwnedFd>);

impl Pty {
    pub(crate) fn new(master: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&master)?;
        Ok(Self(sys::watch(master, Interest::READABLE | Interest::WRITABLE)?))
    }

    /// Sets the size in characters.
    pub(crate) fn resize(&self, rows: u16, columns: u16) -> io::Result<()> {
        resize(&self.0, rows, columns)
    }

    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.0.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut *buffer)?)).await;
        match result {
            // How a terminal says that no process has it open any more.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0),
            result => result,
        }
    }

    async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, bytes)?)).await
    }
}

/// Sets the size of a terminal in characters.
pub(crate) fn resize(terminal: impl AsFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}

pub(crate) fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = fcntl_getfl(fd)?;
    Ok(fcntl_setfl(fd, flags | OFlags::NONBLOCK)?)
}

pub(crate) fn open_null() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}
