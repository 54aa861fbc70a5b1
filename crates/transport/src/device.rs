//! A virtio-serial port of the guest as an asynchronous byte stream.
//!
//! A port takes one write of at most 32 KiB at a time and raises an interrupt when the host has it. Waiting for
//! that in `epoll` costs a round through the whole event loop per 32 KiB, and wake-ups were lost: a port driven
//! by edge-triggered `epoll` stopped for ever after some seconds of use. So two threads do blocking reads and
//! writes, and channels join them to the asynchronous side.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::fs::{Mode, OFlags, fcntl_setfl, open};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;

use crate::carrier::GREETING;

/// An open `/dev/vport<N>p<M>`.
///
/// A port is read, written and waited for like a pair of pipes, so tokio's pipes serve, one for each way.
#[derive(Debug)]
pub(crate) struct PortDevice {
    incoming: pipe::Receiver,
    outgoing: pipe::Sender,
}

impl PortDevice {
    /// Opens the port, waits until the host's side is connected, and greets it.
    pub(crate) async fn open(device: &Path) -> io::Result<Self> {
        let device = device.to_owned();
        let port = tokio::task::spawn_blocking(move || greet(&device)).await??;
        Ok(Self {
            incoming: pipe::Receiver::from_file_unchecked(port.try_clone()?)?,
            outgoing: pipe::Sender::from_file_unchecked(port)?,
        })
    }
}

/// Until the host is connected, a port hangs up on its readers, and tokio never forgets a hang-up. A
/// blocking write waits for the host in the kernel, so the greeting is written before the port is made
/// non-blocking.
fn greet(device: &Path) -> io::Result<File> {
    let fd = open(device, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())?;
    let mut port = File::from(fd);
    port.write_all(&GREETING)?;
    fcntl_setfl(&port, OFlags::RDWR | OFlags::NONBLOCK)?;
    Ok(port)
}

impl AsyncRead for PortDevice {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.incoming).poll_read(cx, buf)
    }
}

impl AsyncWrite for PortDevice {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.outgoing).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// A port has no half-close of its own; its streams have.
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
