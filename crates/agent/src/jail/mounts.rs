//! The mounts of a container, by the kernel's mount API of descriptors: what is mounted is made first, seen by nobody,
//! and then attached at a place that was resolved inside the container's root (see [`super::rootfs`]).

pub(super) mod options;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use kata_protocol::oci;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fstat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::error::{JailError, Named, Result};
use super::rootfs::Root;
use super::sys::{MountChange, change_mount};
use options::Options;

/// File systems of the kernel itself, which no attribute of a device can concern.
const VIRTUAL: [&str; 6] = ["proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup2"];

/// Makes the mounts of a specification, in their order. `cgroup` is a mount of the container's own cgroup, for the place
/// where the specification wants cgroups.
pub(super) fn mount_all(root: &Root, mounts: &[oci::Mount], cgroup: &OwnedFd) -> Result<()> {
    mounts.iter().try_for_each(|mount| make(root, mount, cgroup))
}

/// A copy of the mount at `path`, attached nowhere.
pub(super) fn copy(place: impl AsFd, path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags |= OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(place, path, flags)?)
}

/// Mounts a copy on a place.
pub(super) fn attach(mount: impl AsFd, place: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, c"", place, c"", flags)?)
}

/// A new file system, attached nowhere. The kernel's own words, where it has any, are in the error.
pub(super) fn new_file_system(
    kind: &str,
    source: &str,
    data: &[(&str, Option<&str>)],
) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    let configure = || {
        if !source.is_empty() {
            fsconfig_set_string(&context, "source", source)?;
        }
        for (name, value) in data {
            match value {
                Some(value) => fsconfig_set_string(&context, *name, *value)?,
                None => fsconfig_set_flag(&context, *name)?,
            }
        }
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    };
    configure().map_err(|errno| explain(&context, errno))
}

/// The first message of a file system's context ("e tmpfs: Unknown parameter 'x'"), or else the error as it is.
fn explain(context: &OwnedFd, errno: rustix::io::Errno) -> io::Error {
    let mut buffer = [0; 256];
    match rustix::io::read(context, &mut buffer) {
        Ok(length) if length > 2 => {
            let message = String::from_utf8_lossy(&buffer[2..length]);
            io::Error::new(errno.kind(), message.trim().to_owned())
        }
        _ => errno.into(),
    }
}

fn make(root: &Root, mount: &oci::Mount, cgroup: &OwnedFd) -> Result<()> {
    let to = Path::new(&mount.destination);
    let named =
        |error: &dyn std::fmt::Display| JailError::Refused(format!("Cannot mount {}: {error}", to.display()));
    let options = Options::read(&mount.options).map_err(|error| named(&error))?;
    let kind = mount.type_.as_str();
    let bind = options.bind.or((kind == "bind").then_some(false));
    let (made, place) = match (bind, kind) {
        (Some(recursive), _) => {
            let what = || format!("mount {} on {}: its source", mount.source, to.display());
            let made = copy(CWD, Path::new(&mount.source), recursive);
            let made = made.map_err(|source| JailError::Step(what(), source))?;
            let place = place_for(root, &made, to).at("make the place to mount on,", to)?;
            (made, place)
        }
        (None, "cgroup" | "cgroup2") => {
            let made = cgroup.try_clone().step("mount the container's cgroup")?;
            (made, root.make_folder(to).at("make the place to mount on,", to)?)
        }
        (None, kind) => {
            let made = new_file_system(kind, &mount.source, &file_system_data(kind, &options));
            let made =
                made.map_err(|source| JailError::Step(format!("mount {kind} on {}", to.display()), source))?;
            (made, folder_for(root, kind, to)?)
        }
    };
    for (change, recursive) in [(options.own, false), (options.all, true)] {
        if change != MountChange::default() {
            change_mount(&made, MountChange { propagation: 0, ..change }, recursive)
                .at("set the options of the mount on", to)?;
        }
    }
    attach(&made, place).at("mount on", to)?;
    for (change, recursive) in [(options.own, false), (options.all, true)] {
        if change.propagation != 0 {
            let only = MountChange { propagation: change.propagation, ..MountChange::default() };
            change_mount(&made, only, recursive).at("set the propagation of the mount on", to)?;
        }
    }
    Ok(())
}

/// A device that is read-only refuses to be mounted in another way.
fn file_system_data<'a>(kind: &str, options: &Options<'a>) -> Vec<(&'a str, Option<&'a str>)> {
    let mut data = options.data.clone();
    if options.own.set & libc::MOUNT_ATTR_RDONLY != 0 && !VIRTUAL.contains(&kind) {
        data.push(("ro", None));
    }
    data
}

/// Where a bind mount goes: to a folder if it is one, else to a file.
fn place_for(root: &Root, made: &OwnedFd, to: &Path) -> io::Result<OwnedFd> {
    let is_folder = FileType::from_raw_mode(fstat(made)?.st_mode) == FileType::Directory;
    if is_folder { root.make_folder(to) } else { root.make_file(to) }
}

/// Where a file system goes. Instructions to the kernel are written below `/proc` and `/sys`: a link there could lead
/// them elsewhere.
fn folder_for(root: &Root, kind: &str, to: &Path) -> Result<OwnedFd> {
    let folder = root.make_folder(to).at("make the place to mount on,", to)?;
    if matches!(kind, "proc" | "sysfs") {
        let plain = root.open(to, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty());
        let plain = plain.and_then(|found| Ok(fstat(found)?)).at("look at", to)?;
        if FileType::from_raw_mode(plain.st_mode) != FileType::Directory {
            return Err(JailError::Refused(format!(
                "Cannot mount {kind} on {}: it is a link; make it a folder in the image",
                to.display()
            )));
        }
    }
    Ok(folder)
}

/// Opens a path of the guest's own, outside any container.
pub(super) fn guest_path(path: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// Whether a path of the guest is there.
pub(super) fn guest_has(path: &str) -> bool {
    rustix::fs::accessat(CWD, path, rustix::fs::Access::EXISTS, AtFlags::empty()).is_ok()
}
