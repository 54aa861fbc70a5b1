#![expect(
    unsafe_code,
    reason = "TUNSETIFF and the registration of descriptors with tokio have no safe wrapper"
)]
//! System calls without a safe wrapper.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::libc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Ethernet frames, not IP packets.
pub(crate) const IFF_TAP: u16 = 0x0002;
/// One descriptor of many of the same device.
pub(crate) const IFF_MULTI_QUEUE: u16 = 0x0100;
/// No header of the kernel's own before a frame.
pub(crate) const IFF_NO_PI: u16 = 0x1000;
/// virtio's header before a frame.
pub(crate) const IFF_VNET_HDR: u16 = 0x4000;
/// Fails if the device is there already.
pub(crate) const IFF_TUN_EXCL: u16 = 0x8000;

nix::ioctl_write_ptr_bad!(
    tunsetiff,
    nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
    libc::ifreq
);

/// Makes `tun`, a descriptor of `/dev/net/tun`, a queue of the device `name`, which is made if it is not there.
pub(crate) fn set_interface(tun: impl AsFd, name: &str, flags: u16) -> io::Result<()> {
    // SAFETY: zero is a valid value of every field.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte less, so that a zero ends the name.
    let room = request.ifr_name.len() - 1;
    if name.len() > room {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = flags.cast_signed();
    // SAFETY: the descriptor is open, and the kernel reads and writes a request of this size, which outlives the call.
    unsafe { tunsetiff(tun.as_fd().as_raw_fd(), &raw const request) }?;
    Ok(())
}

/// Watches a descriptor from within the current runtime.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by the AsyncFd, so it stays open as long as it is registered, and an
    // OwnedFd gives out the same number for all its life.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
