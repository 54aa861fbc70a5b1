//! Reading frames out of the carrier's bytes, in whatever pieces they come.

use std::sync::Arc;

use super::{Mux, MuxStream};
use crate::frame::{Breach, Frame, HEADER, Kind};
use crate::header::{self, StreamHeader};

/// What has been read of the frame that is arriving.
#[derive(Debug)]
pub(crate) struct Inbound {
    mux: Arc<Mux>,
    /// A header, and the body of an open.
    head: [u8; HEADER + header::LEN],
    filled: usize,
    /// How much of `head` the frame needs.
    wanted: usize,
    /// The stream whose data is arriving, and how many bytes are to come.
    body: (u32, u32),
}

impl Inbound {
    pub(crate) fn new(mux: Arc<Mux>) -> Self {
        Self { mux, head: [0; HEADER + header::LEN], filled: 0, wanted: HEADER, body: (0, 0) }
    }

    /// Bytes of the present data frame that are to come.
    pub(crate) fn body_left(&self) -> usize {
        self.body.1 as usize
    }

    /// Takes over bytes of the present data frame, at most [`body_left`](Self::body_left), without a copy.
    pub(crate) fn land(&mut self, chunk: Vec<u8>) {
        self.body.1 -= super::slot::as_u32(chunk.len());
        self.mux.arrived(self.body.0, |inbox| inbox.push(chunk));
    }

    /// Takes over what was read; `found` gets each stream that the host has opened.
    ///
    /// # Errors
    /// The other end does not keep to the protocol; the connection must end.
    pub(crate) fn feed(
        &mut self,
        mut bytes: &[u8],
        found: &mut dyn FnMut(MuxStream, StreamHeader),
    ) -> Result<(), Breach> {
        while !bytes.is_empty() {
            if self.body.1 > 0 {
                let (now, later) = bytes.split_at(bytes.len().min(self.body.1 as usize));
                self.body.1 -= super::slot::as_u32(now.len());
                self.mux.arrived(self.body.0, |inbox| inbox.append(now));
                bytes = later;
                continue;
            }
            let (now, later) = bytes.split_at(bytes.len().min(self.wanted - self.filled));
            self.head[self.filled..self.filled + now.len()].copy_from_slice(now);
            self.filled += now.len();
            bytes = later;
            if self.filled == self.wanted {
                self.understand(found)?;
            }
        }
        Ok(())
    }

    /// Acts on a complete head.
    fn understand(&mut self, found: &mut dyn FnMut(MuxStream, StreamHeader)) -> Result<(), Breach> {
        let (header, open) = self.head.split_first_chunk().expect("a head begins with a header");
        let frame = Frame::decode(*header)?;
        if frame.kind == Kind::Open {
            if self.wanted == HEADER {
                self.wanted += header::LEN;
                return Ok(());
            }
            let header = StreamHeader::decode(open.try_into().expect("a head ends with an open's body"));
            found(self.mux.opened(frame.id)?, header);
        } else {
            self.mux.heard(frame)?;
            if frame.kind == Kind::Data {
                self.body = (frame.id, frame.length);
            }
        }
        (self.filled, self.wanted) = (0, HEADER);
        Ok(())
    }
}
