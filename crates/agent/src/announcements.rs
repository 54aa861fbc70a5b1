//! Sockets on which the kernel announces what changes. Nobody reads what it says: whoever waits looks again.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::unix::AsyncFd;

/// The group of the kernel's own messages; those of udev have another.
const KERNEL: u32 = 1;

/// What the kernel says of devices that come, change and go (uevents). It says it when the device can be opened.
pub(crate) fn of_devices() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let events =
        socket(AddressFamily::Netlink, SockType::Datagram, flags, SockProtocol::NetlinkKObjectUEvent)?;
    bind(events.as_raw_fd(), &NetlinkAddr::new(0, KERNEL))?;
    Ok(events)
}

/// Waits until something is announced, and takes all there is.
pub(crate) async fn next(events: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut ready = events.readable().await?;
    take(events.get_ref());
    ready.clear_ready();
    Ok(())
}

/// Takes all that has been announced.
pub(crate) fn take(events: &OwnedFd) {
    let mut buffer = [0; 64];
    loop {
        match recv(events.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            // Too many at once are as good as one.
            Ok(_) | Err(nix::Error::ENOBUFS | nix::Error::EINTR) => {}
            Err(_) => return,
        }
    }
}
