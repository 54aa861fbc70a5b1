//! The mounts of a container, by the kernel's mount API of descriptors: what is mounted is made first, seen by nobody,
//! and then attached at a place that was resolved inside the container's root (see [`super::rootfs`]).

pub(super) mod options;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use kata_protocol::{guest, oci};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::error::{JailError, Named, Result};
use super::namespaces;
use super::rootfs::Root;
use super::sys::{MountChange, change_mount};
use options::Options;

/// File systems of the kernel itself, which no attribute of a device can concern.
const VIRTUAL: [&str; 6] = ["proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup2"];

/// A mount of a specification.
#[derive(Debug)]
pub(super) struct Planned<'a> {
    mount: &'a oci::Mount,
    options: Options<'a>,
    /// What is mounted, where the container's process may not make or reach it itself.
    source: Option<OwnedFd>,
}

impl<'a> Planned<'a> {
    /// The mounts of a specification in their order. `cgroup` is the folder of the container's own cgroup, for the place
    /// where the specification wants cgroups.
    pub(super) fn all(spec: &'a oci::Spec, cgroup: &OwnedFd) -> Result<Vec<Self>> {
        spec.Mounts.iter().map(|mount| Self::new(mount, cgroup, &spec.Linux)).collect()
    }

    fn new(mount: &'a oci::Mount, cgroup: &OwnedFd, linux: &oci::Linux) -> Result<Self> {
        let other_users = namespaces::has(linux, "user");
        let own_queues = namespaces::is_own(linux, "ipc");
        let to = mount.destination.as_str();
        if !mount.UIDMappings.is_empty() || !mount.GIDMappings.is_empty() {
            let text = format!("Cannot mount {to}: this agent maps no ids of mounts; remove its mappings");
            return Err(JailError::Refused(text));
        }
        let options = Options::read(&mount.options)
            .map_err(|error| JailError::Refused(format!("Cannot mount {to}: {error}")))?;
        let bind = options.bind.or((mount.type_ == "bind").then_some(false));
        let source = match (bind, mount.type_.as_str()) {
            (Some(recursive), _) => {
                let what = || format!("mount {} on {to}: its source", mount.source);
                let copied = copy_source(Path::new(&mount.source), recursive).and_then(|copied| {
                    cut_off(&copied, options.propagation(), other_users)?;
                    Ok(copied)
                });
                Some(copied.map_err(|source| JailError::Step(what(), source))?)
            }
            (None, "cgroup" | "cgroup2") => {
                Some(copy(cgroup, Path::new(""), false).step("copy the mount of the cgroup")?)
            }
            // They show the guest's network, and queues that may be the sandbox's.
            (None, "mqueue") if other_users && !own_queues => Some(new_of_kind(mount, &options, None)?),
            (None, "sysfs") if other_users => Some(new_of_kind(mount, &options, None)?),
            _ => None,
        };
        Ok(Self { mount, options, source })
    }

    /// As under runc, a tmpfs that names no mode has that of the folder it covers.
    fn covered_mode(&self, root: &Root) -> Option<String> {
        if self.mount.type_ != "tmpfs" || self.options.data.iter().any(|(name, _)| *name == "mode") {
            return None;
        }
        let covered =
            root.find(Path::new(&self.mount.destination)).and_then(|found| Ok(fstat(found)?)).ok()?;
        Some(format!("{:o}", covered.st_mode & 0o7777))
    }

    /// Mounts it.
    pub(super) fn attach(self, root: &Root) -> Result<()> {
        let to = Path::new(&self.mount.destination);
        let made = match self.source {
            Some(source) => source,
            None => new_of_kind(self.mount, &self.options, self.covered_mode(root).as_deref())?,
        };
        let place = place_for(root, &made, self.mount)?;
        for (change, recursive) in [(self.options.own, false), (self.options.all, true)] {
            if change != MountChange::default() {
                change_mount(&made, MountChange { propagation: 0, ..change }, recursive)
                    .at("set the options of the mount on", to)?;
            }
        }
        attach(&made, place).at("mount on", to)?;
        for (change, recursive) in [(self.options.own, false), (self.options.all, true)] {
            if change.propagation != 0 {
                let only = MountChange { propagation: change.propagation, ..MountChange::default() };
                change_mount(&made, only, recursive).at("set the propagation of the mount on", to)?;
            }
        }
        Ok(())
    }
}

fn new_of_kind(mount: &oci::Mount, options: &Options<'_>, mode: Option<&str>) -> Result<OwnedFd> {
    let (kind, to) = (&mount.type_, &mount.destination);
    let mut data = file_system_data(kind, options);
    data.extend(mode.map(|mode| ("mode", Some(mode))));
    new_file_system(kind, &mount.source, &data)
        .map_err(|source| JailError::Step(format!("mount {kind} on {to}"), source))
}

/// Volumes of the guest pass on to each other what is mounted in them. A container takes part in that if its mount is
/// `shared`, and only looks on if it is `slave`, or has users of its own, which are nobody among the guest's.
fn cut_off(copied: &OwnedFd, propagation: u64, other_users: bool) -> io::Result<()> {
    let propagation = match propagation {
        libc::MS_SHARED if !other_users => return Ok(()),
        libc::MS_SHARED | libc::MS_SLAVE => libc::MS_SLAVE,
        _ => libc::MS_PRIVATE,
    };
    change_mount(copied, MountChange { propagation, ..MountChange::default() }, true)
}

/// A copy of what is bound. In memory that containers share they have made what is on the way: no link is followed there.
fn copy_source(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    if !path.starts_with(guest::SHARED_MEMORY_DIR) {
        return copy(CWD, path, recursive);
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    copy(found, Path::new(""), recursive)
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

/// A device that is read-only refuses to be mounted in another way.
fn file_system_data<'a>(kind: &str, options: &Options<'a>) -> Vec<(&'a str, Option<&'a str>)> {
    let mut data = options.data.clone();
    if options.own.set & libc::MOUNT_ATTR_RDONLY != 0 && !VIRTUAL.contains(&kind) {
        data.push(("ro", None));
    }
    data
}

/// Where a mount goes: to a folder if it is one, else to a file. Instructions to the kernel are written below `/proc` and
/// `/sys`: a link there could lead them elsewhere.
fn place_for(root: &Root, made: &OwnedFd, mount: &oci::Mount) -> Result<OwnedFd> {
    let to = Path::new(&mount.destination);
    let kind = fstat(made).step("look at what is mounted")?.st_mode;
    let folder = FileType::from_raw_mode(kind) == FileType::Directory;
    let place = if folder { root.make_folder(to) } else { root.make_file(to) };
    let place = place.at("make the place to mount on,", to)?;
    if matches!(mount.type_.as_str(), "proc" | "sysfs") {
        let plain = root.open(to, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty());
        let plain = plain.and_then(|found| Ok(fstat(found)?)).at("look at", to)?;
        if FileType::from_raw_mode(plain.st_mode) != FileType::Directory {
            return Err(JailError::Refused(format!(
                "Cannot mount {} on {}: it is a link; make it a folder in the image",
                mount.type_,
                to.display()
            )));
        }
    }
    Ok(place)
}

/// Opens a path of the guest's own, outside any container.
pub(super) fn guest_path(path: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// Whether a path of the guest is there.
pub(super) fn guest_has(path: &str) -> bool {
    rustix::fs::accessat(CWD, path, rustix::fs::Access::EXISTS, AtFlags::empty()).is_ok()
}
