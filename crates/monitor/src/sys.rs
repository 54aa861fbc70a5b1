#![expect(
    unsafe_code,
    reason = "a descriptor that is waited for must stay open meanwhile, which no type says"
)]
//! What the compiler cannot check.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Waits for input within the current runtime.
pub(crate) fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor belongs to the AsyncFd, so it stays open as long as it is registered, and an OwnedFd gives
    // out the same number for all its life.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
