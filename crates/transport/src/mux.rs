//! A multiplexer: many byte streams over one, by the protocol in `frame.rs`.
//!
//! A [`Mux`] does no input or output. Who carries its bytes asks it for [turns](Mux::poll_turn) of writing and
//! [feeds](Inbound) it what was read; that may be two tasks (`carrier.rs`) or two threads (`device.rs`). All
//! state is behind one lock that is held for no longer than a copy of a few pages.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod inbound;
mod slot;
mod stream;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::frame::{Breach, Frame, Kind, TO_GUEST, TO_HOST};
use crate::header::StreamHeader;
pub(crate) use inbound::Inbound;
use slot::Slot;
pub(crate) use stream::MuxStream;

/// Streams that the host opens at once: three per process, so more than a hundred processes at the same time.
const MAX_STREAMS: usize = 384;

/// Streams that the guest holds at once. It may learn later than the host that one has ended.
const MAX_ACCEPTED: usize = 2 * MAX_STREAMS;

/// Small pieces leave together up to this size in bytes: what a port takes in one write.
const TOGETHER: usize = 32 * 1024;

/// The most bytes of a pipe that are sent in one turn; frames of other streams wait no longer than that.
pub(crate) const PIPE_TURN: u32 = 256 * 1024;

/// One end of a connection that carries many streams.
#[derive(Debug)]
pub(crate) struct Mux {
    state: Mutex<State>,
    is_host: bool,
    /// Bytes of a stream that may be on their way from here.
    send_window: u32,
    /// Bytes of a stream that may be on their way to here.
    receive_window: u32,
    /// Whether the carrier's writer serves [`PipeTurn`]s.
    serves_pipes: bool,
}

/// Why no stream was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The carrier is gone.
    Closed,
    /// There are as many streams as there may be.
    TooMany,
}

/// What the carrier's writer does next: it writes `bytes`, then serves the pipe.
#[derive(Debug)]
pub(crate) struct Turn {
    /// Whole frames.
    pub(crate) bytes: Vec<u8>,
    pub(crate) pipe: Option<PipeTurn>,
}

/// A pipe whose bytes are to be sent: as one data frame of what it holds now, up to the limit. The writer reports
/// with [`Mux::pipe_served`] how much that was.
#[derive(Debug)]
pub(crate) struct PipeTurn {
    /// The stream.
    pub(crate) id: u32,
    /// Only this turn's writer reads it.
    pub(crate) pipe: Arc<OwnedFd>,
    /// In bytes; not 0.
    pub(crate) limit: u32,
    /// The turn before found bytes.
    pub(crate) flowing: bool,
}

#[derive(Debug, Default)]
struct State {
    /// By ascending number.
    slots: Vec<Slot>,
    /// The last stream that was opened.
    last: u32,
    /// Streams with an open or a credit to be sent.
    notes: Vec<u32>,
    /// Streams with something in the outbox.
    ready: VecDeque<u32>,
    /// Streams with an offered pipe whose turn comes.
    pipes: VecDeque<u32>,
    /// The carrier's writer, if it waits.
    writer: Option<Waker>,
    /// The carrier is gone.
    closed: bool,
}

/// To be called without the lock.
fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl State {
    fn position(&self, id: u32) -> Option<usize> {
        self.slots.binary_search_by_key(&id, |slot| slot.id).ok()
    }

    fn slot(&mut self, id: u32) -> Option<&mut Slot> {
        self.position(id).map(|index| &mut self.slots[index])
    }

    /// Puts a last frame into a stream's outbox; the writer is to be woken.
    fn end(&mut self, id: u32, kind: Kind) -> Option<Waker> {
        let slot = self.slot(id)?;
        let queued = !slot.outbox.is_empty();
        slot.end(kind);
        if !queued {
            self.ready.push_back(id);
        }
        self.writer.take()
    }

    /// Removes a stream that nobody has and of which nothing is left to be sent.
    fn forget_orphan(&mut self, id: u32) {
        let Some(index) = self.position(id) else { return };
        let slot = &self.slots[index];
        if slot.orphan && (slot.outbox.is_empty() || slot.reset || self.closed) {
            self.slots.remove(index);
        }
    }

    /// Collects what can be sent together. `room` gets the writers that may go on.
    fn take_bytes(&mut self, room: &mut Vec<Waker>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for id in std::mem::take(&mut self.notes) {
            if let Some(slot) = self.slot(id) {
                slot.note(&mut bytes);
            }
        }
        while let Some(&id) = self.ready.front() {
            if let Some(slot) = self.slot(id) {
                if bytes.is_empty() {
                    bytes = std::mem::take(&mut slot.outbox);
                } else if bytes.len() + slot.outbox.len() <= TOGETHER {
                    bytes.append(&mut slot.outbox);
                } else {
                    break;
                }
                room.extend(slot.writer.take());
                self.forget_orphan(id);
            }
            self.ready.pop_front();
        }
        bytes
    }

    /// The next pipe that may be served, unless bytes of its stream must go first.
    fn take_pipe(&mut self) -> Option<PipeTurn> {
        while let Some(&id) = self.pipes.front() {
            if let Some(slot) = self.slot(id)
                && let Some(offer) = &mut slot.offer
            {
                if !slot.outbox.is_empty() {
                    return None;
                }
                offer.parked = slot.credit == 0;
                if !offer.parked {
                    let limit = slot.credit.min(PIPE_TURN);
                    slot.credit -= limit;
                    let turn = PipeTurn { id, pipe: Arc::clone(&offer.pipe), limit, flowing: offer.flowing };
                    self.pipes.pop_front();
                    return Some(turn);
                }
            }
            self.pipes.pop_front();
        }
        None
    }
}

impl Mux {
    /// The host's end.
    pub(crate) fn host() -> Arc<Self> {
        Self::new(true, TO_GUEST, TO_HOST, false)
    }

    /// The guest's end; `serves_pipes` if its writer serves pipes.
    pub(crate) fn guest(serves_pipes: bool) -> Arc<Self> {
        Self::new(false, TO_HOST, TO_GUEST, serves_pipes)
    }

    fn new(is_host: bool, send_window: u32, receive_window: u32, serves_pipes: bool) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), is_host, send_window, receive_window, serves_pipes })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a stream from the host's end.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub(crate) fn open(self: &Arc<Self>, header: StreamHeader) -> Result<MuxStream, Refusal> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refusal::Closed);
        }
        let id = state.last.checked_add(1).ok_or(Refusal::TooMany)?;
        if state.slots.len() >= MAX_STREAMS {
            return Err(Refusal::TooMany);
        }
        state.last = id;
        state.slots.push(Slot::new(id, Some(header), self.send_window, self.receive_window));
        state.notes.push(id);
        let waker = state.writer.take();
        drop(state);
        wake(waker);
        Ok(MuxStream::new(Arc::clone(self), id))
    }

    /// What is to be written next; `None` when the connection is closed and nothing is left.
    pub(crate) fn poll_turn(&self, cx: &mut Context<'_>) -> Poll<Option<Turn>> {
        let mut room = Vec::new();
        let mut state = self.lock();
        let bytes = state.take_bytes(&mut room);
        let pipe = state.take_pipe();
        let idle = bytes.is_empty() && pipe.is_none();
        let closed = state.closed;
        if idle && !closed {
            state.writer = Some(cx.waker().clone());
        }
        drop(state);
        room.into_iter().for_each(Waker::wake);
        match (idle, closed) {
            (false, _) => Poll::Ready(Some(Turn { bytes, pipe })),
            (true, true) => Poll::Ready(None),
            (true, false) => Poll::Pending,
        }
    }

    /// A pipe's turn is over: `moved` bytes of it were sent. With 0 the pipe goes back to who offered it.
    pub(crate) fn pipe_served(&self, turn: &PipeTurn, moved: u32) {
        let mut state = self.lock();
        let Some(slot) = state.slot(turn.id) else { return };
        slot.credit += turn.limit - moved;
        let mut waker = None;
        match &mut slot.offer {
            Some(offer) if moved > 0 => {
                offer.flowing = true;
                state.pipes.push_back(turn.id);
            }
            Some(_) => {
                slot.offer = None;
                waker = slot.writer.take();
            }
            None => {}
        }
        drop(state);
        wake(waker);
    }

    /// The carrier is gone: all streams end. What was written before may still be sent.
    pub(crate) fn close(&self) {
        let mut wakers = Vec::new();
        let mut state = self.lock();
        state.closed = true;
        state.pipes.clear();
        wakers.extend(state.writer.take());
        for slot in &mut state.slots {
            slot.offer = None;
            wakers.extend(slot.reader.take());
            wakers.extend(slot.writer.take());
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Whether the carrier is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Takes note of a frame of the other end; the bytes of data come later.
    fn heard(&self, frame: Frame) -> Result<(), Breach> {
        let Frame { kind, id, length } = frame;
        let mut state = self.lock();
        let last = state.last;
        let Some(slot) = state.slot(id) else {
            // The other end does not know yet that the stream is forgotten.
            let late = id != 0 && id <= last && (kind != Kind::Data || length <= self.receive_window);
            return if late { Ok(()) } else { Err(Breach::Stream { kind, id }) };
        };
        if slot.reset || (slot.ended && matches!(kind, Kind::Data | Kind::Fin)) {
            return Err(Breach::Stream { kind, id });
        }
        let mut wakers = [None, None];
        match kind {
            Kind::Open => return Err(Breach::Open { id }),
            Kind::Data => {
                let left = slot.window.checked_sub(length);
                slot.window = left.ok_or(Breach::Length { kind, id, length })?;
            }
            Kind::Credit => {
                let credit = slot.credit.checked_add(length).filter(|&sum| sum <= self.send_window);
                slot.credit = credit.ok_or(Breach::Length { kind, id, length })?;
                wakers[0] = slot.writer.take();
                if let Some(offer) = &mut slot.offer
                    && std::mem::take(&mut offer.parked)
                {
                    state.pipes.push_back(id);
                    wakers[1] = state.writer.take();
                }
            }
            Kind::Fin => {
                slot.ended = true;
                wakers[0] = slot.reader.take();
            }
            Kind::Reset => {
                (slot.ended, slot.reset) = (true, true);
                (slot.offer, slot.opening) = (None, None);
                slot.outbox.clear();
                wakers = [slot.reader.take(), slot.writer.take()];
                state.forget_orphan(id);
            }
        }
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
        Ok(())
    }

    /// The host has opened a stream.
    fn opened(self: &Arc<Self>, id: u32) -> Result<MuxStream, Breach> {
        let mut state = self.lock();
        if self.is_host || id <= state.last {
            return Err(Breach::Open { id });
        }
        if state.slots.len() >= MAX_ACCEPTED {
            return Err(Breach::TooMany { id });
        }
        state.last = id;
        state.slots.push(Slot::new(id, None, self.send_window, self.receive_window));
        drop(state);
        Ok(MuxStream::new(Arc::clone(self), id))
    }

    /// Bytes of a stream have arrived, which its data frame announced.
    fn arrived(&self, id: u32, put: impl FnOnce(&mut slot::Inbox)) {
        let mut state = self.lock();
        let Some(slot) = state.slot(id).filter(|slot| !slot.orphan) else { return };
        put(&mut slot.inbox);
        let waker = slot.reader.take();
        drop(state);
        wake(waker);
    }
}
