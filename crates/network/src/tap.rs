//! TAP devices: one descriptor is one pair of queues.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use crate::sys::{self, IFF_MULTI_QUEUE, IFF_NO_PI, IFF_TAP, IFF_TUN_EXCL, IFF_VNET_HDR};

/// Makes the device `name`; an error of the kind "resource busy" if it is there. It lives as long as one of its descriptors.
pub(crate) fn make(name: &str, queues: u16) -> io::Result<Vec<OwnedFd>> {
    let mut descriptors = vec![queue(name, flags(queues > 1) | IFF_TUN_EXCL)?];
    for _ in 1..queues {
        descriptors.push(queue(name, flags(true))?);
    }
    Ok(descriptors)
}

/// Opens the device `name` of somebody else; one descriptor only unless it was made for many.
pub(crate) fn open(name: &str, multi_queue: bool, queues: u16) -> io::Result<Vec<OwnedFd>> {
    let queues = if multi_queue { queues.max(1) } else { 1 };
    (0..queues).map(|_| queue(name, flags(multi_queue))).collect()
}

/// A descriptor of `/dev/vhost-net` for each pair of queues, or none where the host has no such device.
pub(crate) fn vhost(queues: usize) -> io::Result<Vec<OwnedFd>> {
    match (0..queues).map(|_| device("/dev/vhost-net").map(OwnedFd::from)).collect() {
        Err(error) if absent(&error) => Ok(Vec::new()),
        opened => opened,
    }
}

/// The node is not there, or nothing answers behind it.
fn absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || matches!(error.raw_os_error(), Some(nix::libc::ENXIO | nix::libc::ENODEV))
}

fn flags(multi_queue: bool) -> u16 {
    IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | if multi_queue { IFF_MULTI_QUEUE } else { 0 }
}

fn queue(name: &str, flags: u16) -> io::Result<OwnedFd> {
    let tun = device("/dev/net/tun")?;
    sys::set_interface(&tun, name, flags)?;
    Ok(tun.into())
}

fn device(path: &str) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_NONBLOCK).open(path)
}
