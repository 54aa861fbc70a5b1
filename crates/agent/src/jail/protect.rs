//! What a container may not see or change: masked and read-only paths, kernel settings.

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, fstat};

use super::error::{Named, Result};
use super::mounts::{attach, copy, new_file_system};
use super::rootfs::Root;
use super::sys::{MountChange, change_mount};

const READ_ONLY: MountChange = MountChange { set: libc::MOUNT_ATTR_RDONLY, clear: 0, propagation: 0 };

/// Writes kernel settings (`kernel.shmmax`, also with `/`), through a proc file system that the container has not made.
pub(super) fn write_settings(settings: &HashMap<String, String>) -> Result<()> {
    if settings.is_empty() {
        return Ok(());
    }
    let proc = new_file_system("proc", "proc", &[]).step("open the kernel's settings")?;
    let proc = Root::new(proc);
    for (name, value) in settings {
        let path = Path::new("/sys").join(name.replace('.', "/"));
        let written = proc
            .open(&path, OFlags::WRONLY, Mode::empty())
            .and_then(|file| std::fs::File::from(file).write_all(value.as_bytes()));
        written.at("set the kernel's", name)?;
    }
    Ok(())
}

/// Makes paths read-only, but for what is mounted below them, as under runc; those that are not there need not be.
pub(super) fn make_read_only(root: &Root, paths: &[String]) -> Result<()> {
    for path in paths {
        let Some(place) = present(root.find(Path::new(path))).at("look for", path)? else { continue };
        let mount = copy(&place, Path::new(""), true).at("make read-only", path)?;
        change_mount(&mount, READ_ONLY, false)
            .and_then(|()| attach(mount, place))
            .at("make read-only", path)?;
    }
    Ok(())
}

/// Hides paths: an empty folder, or a file that reads as empty, comes in their place. `null` is the guest's own
/// `/dev/null`.
pub(super) fn mask(root: &Root, paths: &[String], null: &OwnedFd) -> Result<()> {
    let mut empty = None;
    for path in paths {
        let Some(place) = present(root.find(Path::new(path))).at("look for", path)? else { continue };
        hide(&place, null, &mut empty).at("mask", path)?;
    }
    Ok(())
}

fn hide(place: &OwnedFd, null: &OwnedFd, empty: &mut Option<OwnedFd>) -> io::Result<()> {
    if FileType::from_raw_mode(fstat(place)?.st_mode) != FileType::Directory {
        return attach(copy(null, Path::new(""), false)?, place);
    }
    if let Some(empty) = empty {
        return attach(copy(empty, Path::new(""), false)?, place);
    }
    let folder = new_file_system("tmpfs", "tmpfs", &[("nr_inodes", Some("1"))])?;
    change_mount(&folder, READ_ONLY, false)?;
    attach(&folder, place)?;
    // Only what is attached can be copied (before Linux 6.15).
    *empty = Some(folder);
    Ok(())
}

fn present(found: io::Result<OwnedFd>) -> io::Result<Option<OwnedFd>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
