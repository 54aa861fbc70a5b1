//! The system calls of the jail that have no safe wrapper.
#![expect(
    unsafe_code,
    reason = "clone3, mount_setattr, inherited descriptors, a signal's disposition, scheduling, seccomp"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Ignored by the agent (SIGPIPE), and by the C library in what it spawns (its own two).
const IGNORED: [libc::c_int; 3] = [libc::SIGPIPE, 32, 33];

/// Words of the kernel's `struct sigaction`, and bytes of its set of signals.
const ACTION_WORDS: usize = 4;
const SET_BYTES: usize = 8;

/// Gives signals back their default action, which `execve` would not do where they are ignored.
///
/// # Errors
/// The system's.
pub(super) fn restore_signals() -> io::Result<()> {
    // All zeros: SIG_DFL, no flags, nothing blocked.
    let action = [0_u64; ACTION_WORDS];
    for signal in IGNORED {
        let none = std::ptr::null_mut::<u64>();
        // SAFETY: the kernel reads an action of this size. The C library's function refuses its own signals.
        let result =
            unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), none, SET_BYTES) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Gives this process the usual scheduling policy, in place of the agent's.
///
/// # Errors
/// The system's.
pub(super) fn schedule_as_usual() -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads the parameter, which outlives the call.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const parameter) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The kernel's `struct sched_attr` in its first version; times in nanoseconds.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct Scheduling {
    pub(super) size: u32,
    pub(super) policy: u32,
    pub(super) flags: u64,
    pub(super) nice: i32,
    pub(super) priority: u32,
    pub(super) runtime: u64,
    pub(super) deadline: u64,
    pub(super) period: u64,
}

/// Sets how a process (0: this one) is scheduled. The size is filled in here.
///
/// # Errors
/// The system's.
pub(super) fn schedule(pid: i32, mut how: Scheduling) -> io::Result<()> {
    how.size = u32::try_from(size_of::<Scheduling>()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads a structure of the size that stands in it.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, pid, &raw const how, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets the I/O priority of a process (0: this one).
///
/// # Errors
/// The system's.
pub(super) fn prioritize_io(pid: i32, class: i32, level: i32) -> io::Result<()> {
    const WHO_PROCESS: i32 = 1;
    const CLASS_SHIFT: i32 = 13;
    let priority = class << CLASS_SHIFT | level;
    // SAFETY: takes numbers, no pointer.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, pid, priority) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A descriptor that the agent passed, to be taken over once.
pub(super) fn inherited(fd: RawFd) -> OwnedFd {
    // SAFETY: the agent opened it for this process and told its number on the command line; nothing else here has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// From linux/sched.h; `libc` has it in a type that is too narrow.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which of the two processes this is, after [`clone_into`].
#[derive(Debug)]
pub(super) enum Side {
    /// The one that called; the new one's id.
    Parent(i32),
    /// The new one.
    Child,
}

/// `clone3`: makes a process with new namespaces (`CLONE_NEW*`) that is a member of `cgroup` from its first moment, or
/// else of this process's, and a child of this process's parent.
///
/// # Errors
/// The system's; EBUSY or EOPNOTSUPP if the cgroup takes no processes.
pub(super) fn clone_into(namespaces: libc::c_int, cgroup: Option<&OwnedFd>) -> io::Result<Side> {
    let flags = namespaces | libc::CLONE_PARENT;
    // SAFETY: zero is a valid value of every field.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::from(flags.cast_unsigned());
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: no memory is shared and the stack is the copy of this one, as with fork; and this process has only one
    // thread, so everything that a lock guards is whole in the copy.
    let result =
        unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
    match result {
        0 => Ok(Side::Child),
        pid if pid > 0 => Ok(Side::Parent(i32::try_from(pid).map_err(io::Error::other)?)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A change of a mount's attributes (`MOUNT_ATTR_*`) and propagation (`MS_SHARED`, …; 0 leaves it).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MountChange {
    pub(super) set: u64,
    pub(super) clear: u64,
    pub(super) propagation: u64,
}

/// `mount_setattr` on the mount that `mount` is the root of, and with `recursive` on all below it.
///
/// # Errors
/// The system's.
pub(super) fn change_mount(mount: impl AsFd, change: MountChange, recursive: bool) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: change.set,
        attr_clr: change.clear,
        propagation: change.propagation,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path and the structure outlive the call, which only reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets no descriptor but standard input, output and error survive `execve`.
///
/// # Errors
/// The system's.
pub(super) fn close_others_on_exec() -> io::Result<()> {
    // SAFETY: only flags of descriptors change.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closes every descriptor but standard input, output and error, whoever believes to own it: nothing may be used or
/// dropped after that but by ending.
///
/// # Errors
/// The system's.
pub(super) fn close_others() -> io::Result<()> {
    // SAFETY: the caller uses no descriptor any more, so nobody takes a new one for its own.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes a terminal the one that controls this session.
///
/// # Errors
/// The system's.
pub(super) fn control_terminal(terminal: impl AsFd) -> io::Result<()> {
    // SAFETY: takes a number, no pointer.
    let result = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts this process, and all that it makes, under a filter (`SECCOMP_FILTER_FLAG_*`). With the flag for a new listener,
/// the descriptor that calls are answered by.
///
/// # Errors
/// The system's; EACCES without `CAP_SYS_ADMIN` and with new privileges allowed.
pub(super) fn filter_calls(
    program: &mut [libc::sock_filter],
    flags: libc::c_ulong,
) -> io::Result<Option<OwnedFd>> {
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies `len` instructions from a slice of that length, and checks them.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    match RawFd::try_from(result) {
        Ok(0) => Ok(None),
        // SAFETY: the kernel has just opened it for this process.
        Ok(listener) if listener > 0 => Ok(Some(unsafe { OwnedFd::from_raw_fd(listener) })),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Moves this process into namespaces of its own (`CLONE_NEW*`).
///
/// # Errors
/// The system's.
pub(super) fn unshare(namespaces: libc::c_int) -> io::Result<()> {
    // SAFETY: namespaces do not touch memory, and descriptors stay shared with nobody.
    let result = unsafe { libc::unshare(namespaces) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
