//! The character devices of macvtap interfaces.
//!
//! `/dev/tapN` is no way to them: the number is an interface's index, which is unique in its namespace only, so the node
//! may be another pod's device, and `/dev` may lack it. The kernel tells the device's number in sysfs, as seen from the
//! interface's namespace. Both that sysfs and the node are made in file systems that are mounted nowhere and go with
//! their descriptors; nothing has to be undone.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, OFlags, makedev, mknodat, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use crate::netlink::Link;

/// Opens `queues` queues of a macvtap interface of the thread's namespace.
pub(crate) fn open(link: &Link, queues: u16) -> io::Result<Vec<OwnedFd>> {
    let (major, minor) = number(link)?;
    let nodes = private(c"tmpfs", MountAttrFlags::MOUNT_ATTR_NOEXEC)?;
    mknodat(&nodes, "tap", FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, makedev(major, minor))?;
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    (0..queues.max(1)).map(|_| Ok(openat(&nodes, "tap", flags, Mode::empty())?)).collect()
}

/// The device's numbers, as `sysfs` tells them: "major:minor".
fn number(link: &Link) -> io::Result<(u32, u32)> {
    let sysfs = private(c"sysfs", MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    let path = format!("class/net/{}/macvtap/tap{}/dev", link.name, link.index);
    let mut text = String::new();
    File::from(openat(&sysfs, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
        .read_to_string(&mut text)?;
    let numbers = text.trim().split_once(':').map(|(major, minor)| (major.parse(), minor.parse()));
    match numbers {
        Some((Ok(major), Ok(minor))) => Ok((major, minor)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{text:?} is no device number"))),
    }
}

/// A new file system of `kind`, mounted nowhere.
fn private(kind: &CStr, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}
