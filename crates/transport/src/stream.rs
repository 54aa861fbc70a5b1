//! One byte stream, whatever carries it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio_vsock::VsockStream;

use crate::mux::MuxStream;

/// A byte stream between host and guest.
///
/// `shutdown()` ends the writing side only: the other end reads end-of-file after all bytes written so far,
/// and reading goes on. Dropping a stream ends both sides: the other end reads end-of-file after all bytes written
/// so far, and its writes fail.
///
/// When the VM goes away, over virtio-serial reads end as if by end-of-file; whether it was one must be
/// learnt from the VM's own events.
#[derive(Debug)]
pub struct Stream(Kind);

#[derive(Debug)]
pub(crate) enum Kind {
    Unix(UnixStream),
    Vsock(VsockStream),
    Mux(MuxStream),
}

impl Stream {
    pub(crate) fn kind(&mut self) -> &mut Kind {
        &mut self.0
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Self(Kind::Unix(stream))
    }
}

impl From<VsockStream> for Stream {
    fn from(stream: VsockStream) -> Self {
        Self(Kind::Vsock(stream))
    }
}

impl From<MuxStream> for Stream {
    fn from(stream: MuxStream) -> Self {
        Self(Kind::Mux(stream))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Kind::Vsock(stream) => Pin::new(stream).poll_read(cx, buf),
            Kind::Mux(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Kind::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Kind::Vsock(stream) => Pin::new(stream).poll_write(cx, buf),
            Kind::Mux(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Kind::Vsock(stream) => Pin::new(stream).poll_flush(cx),
            Kind::Mux(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Kind::Vsock(stream) => Pin::new(stream).poll_shutdown(cx),
            Kind::Mux(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
