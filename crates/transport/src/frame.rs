//! The multiplexer's protocol, version 2: what the bytes on a virtio-serial port mean.
//!
//! The guest begins with the greeting `kata/2\r\n`, once it has opened the port. Apart from that, each direction
//! is a sequence of frames, and the host's may come before the greeting. A frame is a header of 12 bytes, numbers
//! big-endian:
//!
//! | bytes | field |
//! |---|---|
//! | 0 | kind |
//! | 1–3 | zero |
//! | 4–7 | stream: the host counts from 1 and never uses a number twice |
//! | 8–11 | length in bytes; what follows the header, except in a credit |
//!
//! | kind | length | meaning |
//! |---|---|---|
//! | 1 open | 8 | the host opens the stream; a [`StreamHeader`](crate::header::StreamHeader) follows |
//! | 2 data | 1 … credit | so many bytes of the stream follow |
//! | 3 credit | 1 … | the stream's reader has taken so many bytes; nothing follows |
//! | 4 fin | 0 | the sender writes no more to the stream; it still reads |
//! | 5 reset | 0 | the sender neither writes nor reads the stream any more, and forgets it |
//!
//! Credit: of each stream and in each direction, no more bytes may be on their way than [`TO_GUEST`] or
//! [`TO_HOST`]; a credit frame gives back what was taken. So a stream that nobody reads holds a bounded amount of
//! memory, stops its writer, and stops no other stream. Both ends always read, whatever they have to write: that
//! is why they cannot wait for each other.
//!
//! A stream ends when both ends have sent fin, or one has sent reset. An end that has forgotten a stream still
//! gets what the other sent before it knew; it drops that. Anything else that this text does not allow ends the
//! connection: the host trusts the guest in nothing.

/// What the guest writes before the first frame.
pub(crate) const GREETING: [u8; 8] = *b"kata/2\r\n";

/// Length of a frame's header in bytes.
pub(crate) const HEADER: usize = 12;

/// Bytes of one stream that may be on their way to the guest.
pub(crate) const TO_GUEST: u32 = 256 * 1024;

/// Bytes of one stream that may be on their way to the host: four pipes of a workload, so that it need not wait
/// for the host.
pub(crate) const TO_HOST: u32 = 1024 * 1024;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Open = 1,
    Data,
    Credit,
    Fin,
    Reset,
}

/// A frame without its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    /// The stream.
    pub(crate) id: u32,
    /// In bytes.
    pub(crate) length: u32,
}

/// The other end does not keep to the protocol.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Breach {
    #[error("The guest's end speaks another protocol; is the agent the one of this release?")]
    Greeting,
    #[error("A frame has an unknown header: {0:02x?}")]
    Header([u8; HEADER]),
    #[error("A frame of kind {kind:?} for stream {id} has the wrong length {length}")]
    Length { kind: Kind, id: u32, length: u32 },
    #[error("A frame of kind {kind:?} for stream {id}, which was never opened or has ended")]
    Stream { kind: Kind, id: u32 },
    #[error("Stream {id} was opened out of turn")]
    Open { id: u32 },
    #[error("Stream {id} is one too many")]
    TooMany { id: u32 },
}

impl Frame {
    pub(crate) fn encode(self) -> [u8; HEADER] {
        let [i, j, k, l] = self.id.to_be_bytes();
        let [m, n, o, p] = self.length.to_be_bytes();
        [self.kind as u8, 0, 0, 0, i, j, k, l, m, n, o, p]
    }

    /// Reads a header, and refuses a length that the kind cannot have.
    pub(crate) fn decode(bytes: [u8; HEADER]) -> Result<Self, Breach> {
        let [kind, 0, 0, 0, i, j, k, l, m, n, o, p] = bytes else { return Err(Breach::Header(bytes)) };
        let (id, length) = (u32::from_be_bytes([i, j, k, l]), u32::from_be_bytes([m, n, o, p]));
        let (kind, fits) = match kind {
            1 => (Kind::Open, length as usize == crate::header::LEN),
            2 => (Kind::Data, length > 0),
            3 => (Kind::Credit, length > 0),
            4 => (Kind::Fin, length == 0),
            5 => (Kind::Reset, length == 0),
            _ => return Err(Breach::Header(bytes)),
        };
        if fits { Ok(Self { kind, id, length }) } else { Err(Breach::Length { kind, id, length }) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Breach, Frame, HEADER, Kind};

    #[test]
    fn the_bytes_on_the_wire_are_fixed() {
        let frame = Frame { kind: Kind::Data, id: 0x0102_0304, length: 65_536 };
        assert_eq!(frame.encode(), [2, 0, 0, 0, 1, 2, 3, 4, 0, 1, 0, 0]);
    }

    #[test]
    fn a_length_that_the_kind_cannot_have_is_refused() {
        for (kind, length) in
            [(Kind::Open, 9), (Kind::Data, 0), (Kind::Credit, 0), (Kind::Fin, 1), (Kind::Reset, 4)]
        {
            let frame = Frame { kind, id: 1, length };
            assert_eq!(Frame::decode(frame.encode()), Err(Breach::Length { kind, id: 1, length }));
        }
    }

    proptest! {
        #[test]
        fn what_is_understood_is_encoded_to_the_same_bytes(kind in 0u8..8, rest: [u8; HEADER - 1], zero: bool) {
            let mut bytes = [0; HEADER];
            bytes[0] = kind;
            bytes[1..].copy_from_slice(&rest);
            if zero {
                bytes[1..4].fill(0);
            }
            if let Ok(frame) = Frame::decode(bytes) {
                prop_assert_eq!(frame.encode(), bytes);
            }
        }

        #[test]
        fn decoding_undoes_encoding(id: u32, length in 1u32..) {
            let frame = Frame { kind: Kind::Data, id, length };
            prop_assert_eq!(Frame::decode(frame.encode()), Ok(frame));
        }
    }
}
