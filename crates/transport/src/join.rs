//! A stream and a TCP connection made one.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;

use crate::Stream;

/// How much is copied at a time, each way, in bytes.
const BUFFER: usize = 64 * 1024;

impl Stream {
    /// Copies both ways between this stream and a TCP connection until both have ended. The end of one direction is
    /// passed on and leaves the other open. Who is slow stops who writes to it. When one side fails, or is dropped without
    /// having ended, or when this future is dropped, the TCP connection is reset: nobody takes half of something for all
    /// of it.
    ///
    /// # Errors
    /// Either side failed.
    pub async fn join(self, socket: TcpStream) -> io::Result<()> {
        let mut stream = Unbroken { stream: self, ended: false };
        let mut connection = Resetting { socket, over: false };
        // A stream of small pieces is not to wait for more of them.
        connection.socket.set_nodelay(true)?;
        copy_bidirectional_with_sizes(&mut stream, &mut connection.socket, BUFFER, BUFFER).await?;
        connection.over = true;
        Ok(())
    }
}

/// A stream whose other end may not be dropped before it was ended.
struct Unbroken {
    stream: Stream,
    /// We have ended our side; the other end may then go with the end of its own.
    ended: bool,
}

impl AsyncRead for Unbroken {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let at_end = buf.filled().len() == before && buf.remaining() > 0;
        // An end of one direction leaves the other to be written to; nothing can be written to who is gone.
        if at_end
            && !self.ended
            && let Poll::Ready(Err(error)) = Pin::new(&mut self.stream).poll_write(cx, &[])
        {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, error)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Unbroken {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ended = true;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A TCP connection that ends with a reset unless it was over before.
struct Resetting {
    socket: TcpStream,
    over: bool,
}

impl Drop for Resetting {
    fn drop(&mut self) {
        if !self.over {
            // The connection ends in any case; this is how.
            let _ = self.socket.set_zero_linger();
        }
    }
}
