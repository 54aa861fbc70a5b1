#![expect(unsafe_code, reason = "an ioctl that no safe library has")]
//! The one system call that needs `unsafe`: giving a guest its vsock context id.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// `VHOST_VSOCK_SET_GUEST_CID` of `linux/vhost.h`.
mod vhost {
    nix::ioctl_write_ptr!(set_guest_cid, 0xAF, 0x60, u64);
}

/// Gives the guest of `vhost` (an open `/dev/vhost-vsock`) the context id `cid`; `AddrInUse` if another has it.
pub(crate) fn set_guest_cid(vhost: &OwnedFd, cid: u32) -> io::Result<()> {
    let cid = u64::from(cid);
    // SAFETY: the request reads one u64 through the pointer, which is valid for the call.
    unsafe { vhost::set_guest_cid(vhost.as_raw_fd(), &raw const cid) }?;
    Ok(())
}
