//! The system calls of the transport that have no safe wrapper.
#![expect(unsafe_code, reason = "registration of descriptors with tokio")]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a descriptor from within the current runtime.
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by the AsyncFd, so it stays open as long as it is registered, and an
    // OwnedFd gives out the same number for all its life.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}
