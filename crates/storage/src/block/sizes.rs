//! How large the host's block devices are, and when that changes.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use rustix::fs::{major, minor};
use tokio::io::unix::AsyncFd;

use crate::watch::register;

/// The group of the kernel's own messages; those of udev have another.
const KERNEL: u32 = 1;
/// The longest message that the kernel makes (`UEVENT_BUFFER_SIZE`, and its header).
const LONGEST: usize = 4096;
/// Sizes in sysfs have this unit, whatever the device's sectors are.
const SECTOR: u64 = 512;

/// Bytes of the block device with this number.
///
/// # Errors
/// There is none.
pub fn device_size(number: u64) -> io::Result<u64> {
    let path = format!("/sys/dev/block/{}:{}/size", major(number), minor(number));
    let sectors: u64 = fs::read_to_string(path)?.trim().parse().map_err(io::Error::other)?;
    sectors.checked_mul(SECTOR).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// What the kernel announces of block devices (uevents of `NETLINK_KOBJECT_UEVENT`).
#[derive(Debug)]
pub struct DeviceChanges(AsyncFd<OwnedFd>);

impl DeviceChanges {
    /// Listens from now on. Needs a runtime.
    ///
    /// # Errors
    /// The kernel has no such socket.
    pub fn new() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let events =
            socket(AddressFamily::Netlink, SockType::Datagram, flags, SockProtocol::NetlinkKObjectUEvent)?;
        bind(events.as_raw_fd(), &NetlinkAddr::new(0, KERNEL))?;
        Ok(Self(register(events)?))
    }

    /// Waits until a block device came, changed or went: which one, and how, is to be looked at.
    ///
    /// # Errors
    /// The socket is broken.
    pub async fn next(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            let is_one = take(self.0.get_ref())?;
            ready.clear_ready();
            if is_one {
                return Ok(());
            }
        }
    }
}

/// Takes all there is. Whether some of it is of a block device, or has been lost.
fn take(events: &OwnedFd) -> io::Result<bool> {
    let mut buffer = [0; LONGEST];
    let mut is_one = false;
    loop {
        match recv(events.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => is_one |= is_of_block_device(&buffer[..length]),
            Err(nix::Error::ENOBUFS) => is_one = true,
            Err(nix::Error::EINTR) => {}
            Err(nix::Error::EAGAIN) => return Ok(is_one),
            Err(error) => return Err(error.into()),
        }
    }
}

/// `change@/devices/...`, and variables, each with a zero at its end.
fn is_of_block_device(message: &[u8]) -> bool {
    message.split(|byte| *byte == 0).any(|line| line == b"SUBSYSTEM=block")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_block_devices_are_told() {
        let message =
            |subsystem| format!("change@/devices/x\0ACTION=change\0SUBSYSTEM={subsystem}\0SEQNUM=7\0");
        assert!(is_of_block_device(message("block").as_bytes()));
        assert!(!is_of_block_device(message("net").as_bytes()));
        assert!(!is_of_block_device(b""));
    }

    #[test]
    fn what_is_no_device_has_no_size() {
        assert_eq!(
            device_size(rustix::fs::makedev(4095, 1_048_575)).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
