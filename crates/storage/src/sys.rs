#![expect(unsafe_code, reason = "mount_setattr(2) and clone3(2) have no safe wrappers yet")]
//! System calls without a safe wrapper: `mount_setattr(2)`, in Linux since 5.12, and `clone3(2)`, since 5.3.

use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

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
/// The ids of files are mapped as in the user namespace `userns_fd`.
pub(crate) const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

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

/// A process in a user namespace of its own that only waits until the pipe `wait` ends, and ends then itself: its id and
/// its descriptor, through which it must be waited for (`__WALL`). Nobody is told of its end.
pub(crate) fn wait_in_user_namespace(wait: BorrowedFd<'_>) -> io::Result<(libc::pid_t, OwnedFd)> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: zero is a valid value of every field.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = (libc::CLONE_NEWUSER | libc::CLONE_PIDFD).cast_unsigned().into();
    arguments.pidfd = (&raw mut pidfd).addr() as u64;
    // SAFETY: no memory is shared and the stack is the copy of this one, as with fork.
    let result =
        unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
    match result {
        0 => wait_and_end(wait.as_raw_fd()),
        pid if pid > 0 => {
            // SAFETY: the kernel has just opened it for this process.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok((libc::pid_t::try_from(pid).map_err(io::Error::other)?, pidfd))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// The new process. Other threads may have held locks when it was made, so it makes system calls and nothing else.
fn wait_and_end(wait: libc::c_int) -> ! {
    let mut byte = 0_u8;
    // SAFETY: numbers only; what this process has open is its own copy.
    unsafe { libc::dup2(wait, 0) };
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_close_range, 1, libc::c_uint::MAX, 0) };
    // SAFETY: the kernel writes one byte at most, to a variable of this function.
    unsafe { libc::read(0, (&raw mut byte).cast(), 1) };
    // SAFETY: nothing of the other process's runs on the way out.
    unsafe { libc::_exit(0) }
}
