//! What the fuzz targets in `fuzz/` call. Behind the feature `fuzzing`, and no interface for anybody else.

pub use crate::mux::fuzzing::{End, Heard};

use crate::frame::{Frame, HEADER};
use crate::{Port, hybrid};

/// A frame's header, if it is one, as it would be written.
#[must_use]
pub fn frame(header: [u8; HEADER]) -> Option<[u8; HEADER]> {
    Frame::decode(header).ok().map(Frame::encode)
}

/// The port in a hybrid vsock's answer.
#[must_use]
pub fn hybrid_reply(line: &str) -> Option<Port> {
    hybrid::parse_reply(line)
}
