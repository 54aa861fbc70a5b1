//! The loopback interface.

use std::io;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::sys;

const LOOPBACK: &str = "lo";

/// Sets `lo` up. By the old request: the kernel composes no messages for it, as it does for netlink.
pub(super) fn bring_up_loopback() -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    sys::set_interface_up(&socket, LOOPBACK)
}
