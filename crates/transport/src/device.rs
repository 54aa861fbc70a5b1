//! A virtio-serial port of the guest as an asynchronous byte stream.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::fs::{Mode, OFlags, fcntl_setfl, open};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::carrier::GREETING;

/// An open `/dev/vport<N>p<M>`.
#[derive(Debug)]
pub(crate) struct PortDevice(AsyncFd<OwnedFd>);

impl PortDevice {
    /// Opens the port, waits until the host's side is connected, and greets it.
    pub(crate) async fn open(device: &Path) -> io::Result<Self> {
        let device = device.to_owned();
        let fd = tokio::task::spawn_blocking(move || greet(&device)).await??;
        Ok(Self(AsyncFd::new(fd)?))
    }
}

/// Until the host is connected, a port hangs up on its readers, and tokio never forgets a hang-up. A
/// blocking write waits for the host in the kernel, so the greeting is written before the port is made
/// non-blocking.
fn greet(device: &Path) -> io::Result<OwnedFd> {
    let fd = open(device, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())?;
    let mut file = File::from(fd);
    file.write_all(&GREETING)?;
    fcntl_setfl(&file, OFlags::RDWR | OFlags::NONBLOCK)?;
    Ok(file.into())
}

impl AsyncRead for PortDevice {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let room = buf.initialize_unfilled();
            if let Ok(n) = guard.try_io(|fd| Ok(rustix::io::read(fd, &mut *room)?)) {
                buf.advance(n?);
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for PortDevice {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            if let Ok(result) = guard.try_io(|fd| Ok(rustix::io::write(fd, buf)?)) {
                return Poll::Ready(result);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// A port has no half-close of its own; its streams have.
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
