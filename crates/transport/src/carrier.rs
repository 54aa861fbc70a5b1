//! The bytes under the multiplexer: buffering, the guest's greeting, and pings.
//!
//! - A virtio-serial port makes one virtqueue entry and one exit of each `write`, so a frame's header and
//!   body leave in one piece, and reads are large.
//! - The guest begins with a [`GREETING`]: it tells the host when the port was opened, and lets the guest
//!   wait in the kernel until the host's side is connected (see `device.rs`).
//! - yamux stops reading while an answer to a ping waits to be written. If both ends did that at once with
//!   both directions full, neither would ever read again. So the guest's pings are not sent: the host never
//!   has one to answer, and always reads. (The guest's receive windows then stay at yamux's default of
//!   256 KiB, for they grow by measured round-trip times only.)

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::io::{AsyncRead as FuturesRead, AsyncWrite as FuturesWrite};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

/// What the guest writes before the first frame.
pub(crate) const GREETING: [u8; 8] = *b"kata/1\r\n";

/// Size of each buffer in bytes; a frame of [`MAX_BODY`] fills the outgoing one exactly, and the guest
/// kernel's limit of 32 KiB per write divides it.
const BUFFER: usize = 64 * 1024;

/// Length of a frame's header, from the yamux specification.
const FRAME_HEADER: usize = 12;

/// The largest body of a frame, so that it leaves together with its header.
pub(crate) const MAX_BODY: usize = BUFFER - FRAME_HEADER;

/// How far the carrier has got, as seen by the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The guest has not opened its end yet.
    Waiting,
    /// The guest's greeting has arrived.
    Open,
}

/// Which end this is.
#[derive(Debug)]
enum End {
    /// Expects the greeting; `seen` bytes of it have arrived.
    Host { seen: usize, phase: watch::Sender<Phase> },
    /// Sends no pings; `body_left` bytes of the frame being written are still to come.
    Guest { body_left: usize },
}

/// A byte stream with large buffers both ways.
#[derive(Debug)]
pub(crate) struct Carrier<T> {
    io: T,
    end: End,
    inbox: Box<[u8]>,
    /// The part of `inbox` that is filled and not read.
    unread: std::ops::Range<usize>,
    outbox: Vec<u8>,
    sent: usize,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Carrier<T> {
    /// The host's end; `phase` turns to [`Phase::Open`] with the greeting, and is dropped with the carrier.
    pub(crate) fn host(io: T, phase: watch::Sender<Phase>) -> Self {
        Self::new(io, End::Host { seen: 0, phase })
    }

    /// The guest's end. The greeting has been sent already.
    pub(crate) fn guest(io: T) -> Self {
        Self::new(io, End::Guest { body_left: 0 })
    }

    fn new(io: T, end: End) -> Self {
        Self {
            io,
            end,
            inbox: vec![0; BUFFER].into_boxed_slice(),
            unread: 0..0,
            outbox: Vec::with_capacity(BUFFER),
            sent: 0,
        }
    }

    /// Reads what there is into `inbox`, which must have been read out. Leaves it empty at end-of-file.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut buffer = ReadBuf::new(&mut self.inbox);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
        self.unread = 0..buffer.filled().len();
        Poll::Ready(Ok(()))
    }

    /// Takes the greeting out of the incoming bytes.
    fn poll_greeting(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let End::Host { seen, phase } = &mut self.end else { return Poll::Ready(Ok(())) };
            let missing = &GREETING[*seen..];
            if missing.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let here = &self.inbox[self.unread.clone()];
            let take = here.len().min(missing.len());
            if here[..take] != missing[..take] {
                let message =
                    "The guest's end speaks another protocol; is the agent the one of this release?";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, message)));
            }
            *seen += take;
            self.unread.start += take;
            if *seen == GREETING.len() {
                phase.send_replace(Phase::Open);
            } else {
                ready!(self.poll_fill(cx))?;
                if self.unread.is_empty() {
                    return Poll::Ready(Ok(())); // end of file: the caller reads it again
                }
            }
        }
    }

    /// Writes the outgoing buffer out.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.outbox.len() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.outbox[self.sent..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += n;
        }
        self.outbox.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    /// Follows the frames that are written: returns whether `bytes` is a ping that must not be sent.
    fn is_own_ping(&mut self, bytes: &[u8]) -> bool {
        const PING: u8 = 2;
        const FLAG_SYN: u8 = 1;
        match &mut self.end {
            End::Guest { body_left: 0 } if bytes.len() == FRAME_HEADER => {
                bytes[1] == PING && bytes[3] & FLAG_SYN != 0
            }
            _ => false,
        }
    }

    /// Notes that `bytes` were taken over.
    fn follow(&mut self, bytes: &[u8]) {
        const DATA: u8 = 0;
        let End::Guest { body_left } = &mut self.end else { return };
        if *body_left > 0 {
            *body_left -= bytes.len();
        } else if let [_, DATA, _, _, _, _, _, _, a, b, c, d] = *bytes {
            *body_left = u32::from_be_bytes([a, b, c, d]) as usize;
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> FuturesRead for Carrier<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_greeting(cx))?;
        if this.unread.is_empty() {
            if buf.len() >= BUFFER / 2 {
                let mut direct = ReadBuf::new(buf);
                ready!(Pin::new(&mut this.io).poll_read(cx, &mut direct))?;
                return Poll::Ready(Ok(direct.filled().len()));
            }
            ready!(this.poll_fill(cx))?;
        }
        let n = this.unread.len().min(buf.len());
        buf[..n].copy_from_slice(&this.inbox[this.unread.start..this.unread.start + n]);
        this.unread.start += n;
        Poll::Ready(Ok(n))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> FuturesWrite for Carrier<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.is_own_ping(buf) {
            return Poll::Ready(Ok(buf.len()));
        }
        let mut room = BUFFER - this.outbox.len();
        // A header is taken over whole, so that its frame can be followed.
        if room < buf.len().min(FRAME_HEADER) {
            ready!(this.poll_drain(cx))?;
            room = BUFFER;
        }
        let taken = &buf[..room.min(buf.len())];
        this.outbox.extend_from_slice(taken);
        this.follow(taken);
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
