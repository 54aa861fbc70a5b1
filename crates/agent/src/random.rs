//! The guest's random number generator.

use std::io;

use rustix::fs::{Mode, OFlags, open};

use crate::sys;

const DEVICE: &str = "/dev/urandom";

/// Adds the host's entropy, so that no two guests draw the same numbers.
pub(crate) fn add(entropy: &[u8]) -> io::Result<()> {
    if entropy.is_empty() {
        return Ok(());
    }
    let device = open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    for part in entropy.chunks(sys::POOL_BYTES) {
        sys::add_entropy(&device, part)?;
    }
    sys::reseed(&device)
}
