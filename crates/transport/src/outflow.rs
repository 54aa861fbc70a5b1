//! Moving a pipe's bytes into a stream, with as few copies as the carrier can.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::Poll;

use rustix::io::{Errno, ioctl_fionread};
use rustix::pipe::{SpliceFlags, splice};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::unix::pipe::Receiver;

use crate::stream::{Kind, Stream};
use crate::sys;

/// What is copied at a time as long as little comes: less than the fixed cost of moving pages.
const LITTLE: usize = 4 * 1024;

/// What is copied at a time where nothing else works.
const COPY: usize = 64 * 1024;

/// How much is moved at a time.
#[derive(Debug)]
enum Way {
    /// Not looked at yet: little has come.
    Unknown,
    /// The carrier's writer moves it; this is its end of the pipe.
    Carrier(Arc<OwnedFd>),
    /// The kernel moves it into the socket.
    Socket(AsyncFd<OwnedFd>),
    /// We do.
    Copy,
}

impl Stream {
    /// Sends all that comes out of a pipe, until the pipe's end; the stream stays open. The pipe must have no other
    /// reader. When the future is dropped, what was taken out of the pipe may not have been sent.
    ///
    /// # Errors
    /// The other end is gone, which over virtio-serial is noticed also while the pipe is empty; or the pipe cannot be
    /// read.
    pub async fn send_pipe(&mut self, pipe: &Receiver) -> io::Result<()> {
        let mut buffer = vec![0; LITTLE];
        let mut way = Way::Unknown;
        loop {
            self.readable(pipe).await?;
            let n = match pipe.try_read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            };
            self.write_all(&buffer[..n]).await?;
            if n < buffer.len() {
                continue;
            }
            if let Way::Unknown = way {
                way = self.way(pipe)?;
            }
            let worked = match (&way, self.kind()) {
                (Way::Carrier(pipe), Kind::Mux(stream)) => {
                    stream.send_available(pipe).await.map(|()| true)?
                }
                (Way::Socket(socket), _) => send_available(pipe.as_fd(), socket).await?,
                _ => false,
            };
            if !worked {
                way = Way::Copy;
                buffer.resize(COPY, 0);
            }
        }
    }

    /// Waits for bytes, or for the end of either side.
    async fn readable(&mut self, pipe: &Receiver) -> io::Result<()> {
        let Kind::Mux(stream) = self.kind() else { return pipe.readable().await };
        std::future::poll_fn(|cx| {
            if stream.poll_hung_up(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            pipe.poll_read_ready(cx)
        })
        .await
    }

    /// How this stream takes much from the pipe.
    fn way(&mut self, pipe: &Receiver) -> io::Result<Way> {
        let socket = match self.kind() {
            Kind::Mux(stream) if stream.serves_pipes() => {
                return Ok(Way::Carrier(Arc::new(pipe.as_fd().try_clone_to_owned()?)));
            }
            Kind::Mux(_) => return Ok(Way::Copy),
            Kind::Unix(stream) => stream.as_fd().try_clone_to_owned()?,
            Kind::Vsock(stream) => stream.as_fd().try_clone_to_owned()?,
        };
        Ok(Way::Socket(sys::watch(socket, Interest::WRITABLE)?))
    }
}

/// Moves what there is in the pipe, and what comes meanwhile, into a socket. Returns whether that is possible.
async fn send_available(pipe: BorrowedFd<'_>, socket: &AsyncFd<OwnedFd>) -> io::Result<bool> {
    loop {
        let length = usize::try_from(ioctl_fionread(pipe)?).unwrap_or(usize::MAX);
        if length == 0 {
            return Ok(true);
        }
        let mut ready = socket.writable().await?;
        match splice(pipe, None, socket, None, length, SpliceFlags::MOVE | SpliceFlags::NONBLOCK) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(_) | Err(Errno::INTR) => {}
            // The pipe has bytes, so it is the socket that is full.
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INVAL) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}
