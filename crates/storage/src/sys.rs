#![expect(unsafe_code, reason = "mount_setattr(2) has no safe wrapper yet")]
//! The one system call without a safe wrapper: `mount_setattr(2)`, in Linux since 5.12.

use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;

/// `struct mount_attr` of `linux/mount.h`, first version.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct MountAttr {
    /// Attributes to set, `MOUNT_ATTR_*`.
    pub(crate) attr_set: u64,
    /// Attributes to clear.
    pub(crate) attr_clr: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` or 0 for no change.
    pub(crate) propagation: u64,
    /// Only for mapped mounts.
    pub(crate) userns_fd: u64,
}

/// No writing through this mount.
pub(crate) const MOUNT_ATTR_RDONLY: u64 = 1;

/// Changes the mount that `mount` is the root of and, if `recursive`, all mounts below it; all or none.
pub(crate) fn mount_setattr(mount: BorrowedFd<'_>, recursive: bool, attr: MountAttr) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the descriptor is borrowed, the path is a static C string, and the structure lives beyond the call,
    // which only reads it, and exactly as many bytes as the last argument says.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of_val(&attr),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
