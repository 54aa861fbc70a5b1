//! One stream of a multiplexer, as the connection sees it.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::Waker;

use crate::frame::{Frame, HEADER, Kind};
use crate::header::StreamHeader;

/// The most that waits in one outbox, header and data: two full writes to a port.
const OUTBOX: usize = 64 * 1024;

/// Small pieces are put together up to this size, so that a flood of them costs little more than its bytes.
const CHUNK: usize = 64 * 1024;

/// A stream. Bytes are accepted from its writer only within the credit, so the outbox can always be sent.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: u32,
    /// The open frame that is still to be sent.
    pub(super) opening: Option<StreamHeader>,
    /// Bytes that may still be accepted from the writer.
    pub(super) credit: u32,
    /// Frames to be sent: at most one of data, whose length grows as it is filled, then fin and reset.
    pub(super) outbox: Vec<u8>,
    /// A pipe that is to be sent until it is empty.
    pub(super) offer: Option<Offer>,
    /// Fin was put into the outbox.
    pub(super) finished: bool,
    /// Nobody has the stream any more; it goes when the outbox was sent.
    pub(super) orphan: bool,
    pub(super) inbox: Inbox,
    /// Bytes that the other end may still send.
    pub(super) window: u32,
    /// Bytes that were taken from the inbox and not given back as credit.
    pub(super) due: u32,
    /// The other end writes no more.
    pub(super) ended: bool,
    /// The other end has forgotten the stream.
    pub(super) reset: bool,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

/// A pipe whose bytes the carrier's writer sends by itself.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) pipe: Arc<OwnedFd>,
    /// Its last turn found bytes.
    pub(super) flowing: bool,
    /// It waits for credit, and not for its turn.
    pub(super) parked: bool,
}

impl Slot {
    pub(super) fn new(id: u32, opening: Option<StreamHeader>, credit: u32, window: u32) -> Self {
        Self {
            id,
            opening,
            credit,
            outbox: Vec::new(),
            offer: None,
            finished: false,
            orphan: false,
            inbox: Inbox::default(),
            window,
            due: 0,
            ended: false,
            reset: false,
            reader: None,
            writer: None,
        }
    }

    /// Takes over what there is room and credit for.
    pub(super) fn fill(&mut self, bytes: &[u8]) -> usize {
        let room = OUTBOX - self.outbox.len().max(HEADER);
        let n = bytes.len().min(room).min(self.credit as usize);
        if n == 0 {
            return 0;
        }
        if self.outbox.is_empty() {
            self.outbox.reserve_exact(HEADER + n);
            self.outbox.extend_from_slice(&[0; HEADER]);
        }
        self.outbox.extend_from_slice(&bytes[..n]);
        let header = self.frame(Kind::Data, as_u32(self.outbox.len() - HEADER));
        self.outbox[..HEADER].copy_from_slice(&header);
        self.credit -= as_u32(n);
        n
    }

    /// Puts a frame without a body behind what is to be sent.
    pub(super) fn end(&mut self, kind: Kind) {
        let frame = self.frame(kind, 0);
        self.outbox.extend_from_slice(&frame);
    }

    /// Adds the frames that need not keep their place among the data: open, and credit.
    pub(super) fn note(&mut self, bytes: &mut Vec<u8>) {
        if let Some(header) = self.opening.take() {
            let body = header.encode();
            bytes.extend_from_slice(&self.frame(Kind::Open, as_u32(body.len())));
            bytes.extend_from_slice(&body);
        }
        if self.due > 0 && !self.orphan && !self.ended {
            bytes.extend_from_slice(&self.frame(Kind::Credit, self.due));
            self.window += self.due;
            self.due = 0;
        }
    }

    /// Both ends have said all, so that nothing needs to be said at the end.
    pub(super) fn is_over(&self) -> bool {
        self.reset || (self.ended && self.finished)
    }

    fn frame(&self, kind: Kind, length: u32) -> [u8; HEADER] {
        Frame { kind, id: self.id, length }.encode()
    }
}

/// For lengths that are bounded by an outbox or a window.
pub(super) fn as_u32(length: usize) -> u32 {
    u32::try_from(length).expect("lengths here are far below 4 GiB")
}

/// Bytes that have arrived and were not read.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    chunks: VecDeque<Vec<u8>>,
    /// How far the first chunk was read.
    read: usize,
}

impl Inbox {
    /// Adds bytes by copying.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        match self.chunks.back_mut() {
            Some(last) if last.len() + bytes.len() <= CHUNK => last.extend_from_slice(bytes),
            _ => self.chunks.push_back(bytes.to_vec()),
        }
    }

    /// Adds a chunk as it is.
    pub(super) fn push(&mut self, chunk: Vec<u8>) {
        self.chunks.push_back(chunk);
    }

    /// Moves what there is into `buffer`; returns how much.
    pub(super) fn take(&mut self, buffer: &mut tokio::io::ReadBuf<'_>) -> u32 {
        let before = buffer.filled().len();
        while let Some(chunk) = self.chunks.front() {
            let n = buffer.remaining().min(chunk.len() - self.read);
            buffer.put_slice(&chunk[self.read..self.read + n]);
            self.read += n;
            if self.read < chunk.len() {
                break;
            }
            self.chunks.pop_front();
            self.read = 0;
        }
        as_u32(buffer.filled().len() - before)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Bytes of memory.
    #[cfg(feature = "fuzzing")]
    pub(super) fn held(&self) -> usize {
        self.chunks.iter().map(Vec::capacity).sum()
    }
}
