//! An end of a multiplexer without its carrier, for fuzz targets: who drives it decides when anything happens.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Inbound, Mux, MuxStream};
use crate::header::StreamHeader;

/// What a stream's reader got.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// These bytes.
    Bytes(Vec<u8>),
    /// Nothing more will come.
    End,
    /// Nothing has come yet.
    Nothing,
}

/// One end of a connection, with its streams in the order in which they were opened.
#[derive(Debug)]
pub struct End {
    mux: Arc<Mux>,
    inbound: Inbound,
    streams: Vec<Option<MuxStream>>,
}

impl End {
    /// The host's end.
    #[must_use]
    pub fn host() -> Self {
        Self::new(Mux::host())
    }

    /// The guest's end.
    #[must_use]
    pub fn guest() -> Self {
        Self::new(Mux::guest(false))
    }

    fn new(mux: Arc<Mux>) -> Self {
        Self { inbound: Inbound::new(Arc::clone(&mux)), mux, streams: Vec::new() }
    }

    /// Opens a stream; false if that is refused.
    pub fn open(&mut self, port: u32) -> bool {
        match self.mux.open(StreamHeader { destination: port, local: port }) {
            Ok(stream) => self.streams.push(Some(stream)),
            Err(_) => return false,
        }
        true
    }

    /// How many streams were opened.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Takes over what the other end wrote, large bodies as the carrier does it; false if that broke the protocol,
    /// which ends the connection.
    pub fn hear(&mut self, mut bytes: &[u8]) -> bool {
        let Self { mux, inbound, streams } = self;
        while !bytes.is_empty() {
            let body = inbound.body_left().min(bytes.len());
            let (now, later) = bytes.split_at(if body > 0 { body } else { bytes.len().min(4096) });
            if body > 4096 {
                inbound.land(now.to_vec());
            } else if inbound.feed(now, &mut |stream, _| streams.push(Some(stream))).is_err() {
                mux.close();
                return false;
            }
            bytes = later;
        }
        true
    }

    /// What goes to the other end next.
    pub fn say(&mut self) -> Vec<u8> {
        match self.mux.poll_turn(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(turn)) => turn.bytes,
            Poll::Ready(None) | Poll::Pending => Vec::new(),
        }
    }

    /// Reads at most so many bytes of a stream.
    pub fn read(&mut self, stream: usize, length: usize) -> Heard {
        let Some(stream) = self.stream(stream) else { return Heard::End };
        let mut space = vec![0; length];
        let mut buffer = ReadBuf::new(&mut space);
        match stream.poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer) {
            Poll::Ready(_) if buffer.filled().is_empty() => Heard::End,
            Poll::Ready(_) => Heard::Bytes(buffer.filled().to_vec()),
            Poll::Pending => Heard::Nothing,
        }
    }

    /// Writes to a stream; how much it took, and nothing if that has become pointless.
    pub fn write(&mut self, stream: usize, bytes: &[u8]) -> Option<usize> {
        match self.stream(stream)?.poll_write(&mut Context::from_waker(Waker::noop()), bytes) {
            Poll::Ready(taken) => taken.ok(),
            Poll::Pending => Some(0),
        }
    }

    /// Writes no more to a stream.
    pub fn finish(&mut self, stream: usize) {
        if let Some(stream) = self.stream(stream) {
            let _ = stream.poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }

    /// Gives a stream up.
    pub fn drop(&mut self, stream: usize) {
        if let Some(stream) = self.streams.get_mut(stream) {
            *stream = None;
        }
    }

    /// Bytes of memory for what has arrived and was not read, of the stream that holds most.
    #[must_use]
    pub fn held(&self) -> usize {
        self.mux.lock().slots.iter().map(|slot| slot.inbox.held()).max().unwrap_or(0)
    }

    fn stream(&mut self, stream: usize) -> Option<Pin<&mut MuxStream>> {
        self.streams.get_mut(stream)?.as_mut().map(Pin::new)
    }
}
