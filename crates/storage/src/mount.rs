//! Bind mounts made with the new mount API: prepared out of sight, then attached with everything set.

use std::fs::Metadata;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::mount::MsFlags;
use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::idmap::IdMap;
use crate::sys::{MOUNT_ATTR_IDMAP, MOUNT_ATTR_RDONLY, MountAttr, mount_setattr};

/// What happens to mounts made later in the source or in the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// Neither sees the other's.
    Private,
    /// The copy sees what is mounted in the source later.
    Slave,
}

/// A copy of a mount that is attached nowhere yet. Dropping it unmounts it.
pub(crate) struct DetachedMount {
    tree: OwnedFd,
}

/// Opens `path`, whatever it is, only to refer to it. Symbolic links are followed.
pub(crate) fn open_path(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// What `fd`, opened with [`open_path`], refers to.
pub(crate) fn metadata(fd: &OwnedFd) -> io::Result<Metadata> {
    std::fs::metadata(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

impl DetachedMount {
    /// A copy of the file or directory that `source` refers to, with all mounts below it if `recursive`.
    pub(crate) fn copy_of(source: BorrowedFd<'_>, recursive: bool) -> io::Result<Self> {
        let mut flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        if recursive {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        Ok(Self { tree: open_tree(source, "", flags)? })
    }

    /// Sets the propagation of all mounts of the copy.
    pub(crate) fn propagate(self, propagation: Propagation) -> io::Result<Self> {
        self.set(match propagation {
            Propagation::Private => MsFlags::MS_PRIVATE,
            Propagation::Slave => MsFlags::MS_SLAVE,
        })
    }

    /// Puts the copy into a peer group of its own: it passes on what is mounted in it.
    pub(crate) fn shared_anew(self) -> io::Result<Self> {
        self.set(MsFlags::MS_PRIVATE)?.set(MsFlags::MS_SHARED)
    }

    fn set(self, propagation: MsFlags) -> io::Result<Self> {
        let attr = MountAttr { propagation: propagation.bits(), ..MountAttr::default() };
        mount_setattr(self.tree.as_fd(), true, attr)?;
        Ok(self)
    }

    /// Makes the copy and all mounts in it read-only.
    pub(crate) fn read_only(self) -> io::Result<Self> {
        let attr = MountAttr { attr_set: MOUNT_ATTR_RDONLY, ..MountAttr::default() };
        mount_setattr(self.tree.as_fd(), true, attr)?;
        Ok(self)
    }

    /// Lets the files of the copy, and with `recursive` of all mounts in it, belong to others.
    pub(crate) fn map_ids(self, ids: &IdMap, recursive: bool) -> io::Result<Self> {
        let namespace = ids.namespace()?;
        let attr = MountAttr {
            attr_set: MOUNT_ATTR_IDMAP,
            userns_fd: u64::from(namespace.as_raw_fd().cast_unsigned()),
            ..MountAttr::default()
        };
        mount_setattr(self.tree.as_fd(), recursive, attr)?;
        Ok(self)
    }

    /// Attaches the copy to `target`, over what is there.
    pub(crate) fn attach(self, target: &Path) -> io::Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        Ok(move_mount(&self.tree, "", CWD, target, flags)?)
    }

    /// Attaches the copy to the directory that `target` refers to.
    pub(crate) fn attach_to(self, target: BorrowedFd<'_>) -> io::Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        Ok(move_mount(&self.tree, "", target, "", flags)?)
    }
}
