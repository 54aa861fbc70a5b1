//! Overlays of more layers than mount(2) takes: that copies one page of options.

use std::io;
use std::path::Path;

use nix::mount::MsFlags;
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};

use super::options::MountOptions;

/// What mount(2) takes, with a zero at its end.
const PAGE: usize = 4096;

const ATTRIBUTES: [(MsFlags, MountAttrFlags); 7] = [
    (MsFlags::MS_RDONLY, MountAttrFlags::MOUNT_ATTR_RDONLY),
    (MsFlags::MS_NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
    (MsFlags::MS_NODEV, MountAttrFlags::MOUNT_ATTR_NODEV),
    (MsFlags::MS_NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
    (MsFlags::MS_NOATIME, MountAttrFlags::MOUNT_ATTR_NOATIME),
    (MsFlags::MS_STRICTATIME, MountAttrFlags::MOUNT_ATTR_STRICTATIME),
    (MsFlags::MS_NODIRATIME, MountAttrFlags::MOUNT_ATTR_NODIRATIME),
];

/// Whether the options must be told one by one.
pub(super) fn are_many(options: &MountOptions) -> bool {
    options.data.len() >= PAGE
}

/// Mounts an overlay, whose layers are told one by one.
pub(super) fn mount(source: &str, target: &Path, options: &MountOptions) -> io::Result<()> {
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    if !source.is_empty() {
        fsconfig_set_string(&overlay, "source", source)?;
    }
    for option in options.data.split(',') {
        match option.split_once('=') {
            Some(("lowerdir", layers)) => {
                for layer in layers.split(':') {
                    fsconfig_set_string(&overlay, "lowerdir+", layer)?;
                }
            }
            Some((name, value)) => fsconfig_set_string(&overlay, name, value)?,
            None => fsconfig_set_flag(&overlay, option)?,
        }
    }
    if options.flags.contains(MsFlags::MS_RDONLY) {
        fsconfig_set_flag(&overlay, "ro")?;
    }
    fsconfig_create(&overlay)?;
    let chosen = ATTRIBUTES.into_iter().filter(|(flag, _)| options.flags.contains(*flag));
    let attributes = chosen.map(|(_, attribute)| attribute).collect();
    let made = fsmount(&overlay, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    Ok(move_mount(&made, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}
