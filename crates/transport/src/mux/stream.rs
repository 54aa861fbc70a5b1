//! One stream of a multiplexer, as its user sees it.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::slot::{Offer, Slot};
use super::{Mux, State, wake};
use crate::frame::Kind;

/// A byte stream; dropping it ends both sides, after what was written was sent.
#[derive(Debug)]
pub(crate) struct MuxStream {
    mux: Arc<Mux>,
    id: u32,
}

fn gone() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl MuxStream {
    pub(super) fn new(mux: Arc<Mux>, id: u32) -> Self {
        Self { mux, id }
    }

    /// Whether the carrier's writer can take bytes out of a pipe by itself.
    pub(crate) fn serves_pipes(&self) -> bool {
        self.mux.serves_pipes
    }

    /// Resolves when writing has become pointless: the other end is gone.
    pub(crate) fn poll_hung_up(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.mux.lock();
        match writable(&mut state, self.id) {
            Ok(slot) => {
                slot.writer = Some(cx.waker().clone());
                Poll::Pending
            }
            Err(_) => Poll::Ready(()),
        }
    }

    /// Sends what there is in a pipe, of which the caller is the only reader, and what comes while it is sent.
    /// Resolves when the pipe is empty. When this is dropped, what was taken from the pipe is still sent.
    ///
    /// # Errors
    /// The other end is gone.
    pub(crate) async fn send_available(&mut self, pipe: &Arc<OwnedFd>) -> io::Result<()> {
        let waker = {
            let mut state = self.mux.lock();
            let slot = writable(&mut state, self.id)?;
            slot.offer = Some(Offer { pipe: Arc::clone(pipe), flowing: false, parked: false });
            state.pipes.push_back(self.id);
            state.writer.take()
        };
        wake(waker);
        let _withdrawal = Withdrawal(self);
        std::future::poll_fn(|cx| {
            let mut state = self.mux.lock();
            match writable(&mut state, self.id) {
                Ok(slot) if slot.offer.is_some() => {
                    slot.writer = Some(cx.waker().clone());
                    Poll::Pending
                }
                Ok(_) => Poll::Ready(Ok(())),
                Err(error) => Poll::Ready(Err(error)),
            }
        })
        .await
    }
}

/// Takes an offered pipe back.
struct Withdrawal<'a>(&'a MuxStream);

impl Drop for Withdrawal<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.0.mux.lock().slot(self.0.id) {
            slot.offer = None;
        }
    }
}

/// The stream, if the other end is there and the writing side was not ended.
fn writable(state: &mut State, id: u32) -> io::Result<&mut Slot> {
    if state.closed {
        return Err(gone());
    }
    state.slot(id).filter(|slot| !slot.reset && !slot.finished).ok_or_else(gone)
}

impl AsyncRead for MuxStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.mux.lock();
        let closed = state.closed;
        let Some(slot) = state.slot(self.id) else { return Poll::Ready(Ok(())) };
        let n = slot.inbox.take(buf);
        if n == 0 && buf.remaining() > 0 && !slot.ended && !closed {
            slot.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let threshold = self.mux.receive_window / 2;
        let before = slot.due;
        slot.due += n;
        if before < threshold && slot.due >= threshold {
            state.notes.push(self.id);
            let waker = state.writer.take();
            drop(state);
            wake(waker);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MuxStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.mux.lock();
        let slot = writable(&mut state, self.id)?;
        let queued = !slot.outbox.is_empty();
        let n = slot.fill(buf);
        if n == 0 && !buf.is_empty() {
            slot.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if !queued && n > 0 {
            state.ready.push_back(self.id);
            let waker = state.writer.take();
            drop(state);
            wake(waker);
        }
        Poll::Ready(Ok(n))
    }

    /// What is written is on its way.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.mux.lock();
        let Some(slot) = state.slot(self.id) else { return Poll::Ready(Ok(())) };
        if slot.finished || slot.reset {
            return Poll::Ready(Ok(()));
        }
        slot.finished = true;
        let waker = state.end(self.id, Kind::Fin);
        drop(state);
        wake(waker);
        Poll::Ready(Ok(()))
    }
}

impl Drop for MuxStream {
    fn drop(&mut self) {
        let mut state = self.mux.lock();
        let closed = state.closed;
        let Some(slot) = state.slot(self.id) else { return };
        slot.orphan = true;
        slot.offer = None;
        slot.inbox.clear();
        let over = slot.is_over();
        let waker = if over || closed { None } else { state.end(self.id, Kind::Reset) };
        state.forget_orphan(self.id);
        drop(state);
        wake(waker);
    }
}
