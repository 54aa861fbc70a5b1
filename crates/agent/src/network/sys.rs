//! The system calls of the guest's network that have no safe wrapper.
#![expect(unsafe_code, reason = "options of netlink sockets")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Lets the kernel say in words why it refuses (`NETLINK_EXT_ACK`), without repeating the request (`NETLINK_CAP_ACK`).
pub(super) fn ask_for_words(socket: &OwnedFd) -> io::Result<()> {
    for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
        let on: libc::c_int = 1;
        let size = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
        // SAFETY: the kernel reads a number of this size, which outlives the call.
        let result = unsafe {
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_NETLINK, option, (&raw const on).cast(), size)
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
