#![expect(unsafe_code, reason = "fanotify(7) with names and file handles have no safe wrappers")]
//! fanotify(7) that names what it is about (Linux 5.9), and the handles by which it does.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::libc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `MAX_HANDLE_SZ` of the kernel.
const MAX_HANDLE: usize = 128;

/// `struct file_handle`, with the largest handle.
#[repr(C)]
struct FileHandle {
    handle_bytes: libc::c_uint,
    handle_type: libc::c_int,
    f_handle: [u8; MAX_HANDLE],
}

/// Waits for input within the current runtime.
pub(crate) fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by the AsyncFd, so it stays open as long as it is registered, and an OwnedFd gives
    // out the same number for all its life.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// A queue of events; reading from it never waits.
pub(super) fn fanotify() -> io::Result<OwnedFd> {
    let flags = libc::FAN_CLASS_NOTIF
        | libc::FAN_CLOEXEC
        | libc::FAN_NONBLOCK
        | libc::FAN_REPORT_FID
        | libc::FAN_REPORT_DIR_FID
        | libc::FAN_REPORT_NAME;
    // SAFETY: takes two numbers.
    let fd = unsafe { libc::fanotify_init(flags, libc::O_RDONLY.cast_unsigned()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What a file tells of itself.
const OWN: u64 =
    libc::FAN_MODIFY | libc::FAN_ATTRIB | libc::FAN_CLOSE_WRITE | libc::FAN_MOVE_SELF | libc::FAN_DELETE_SELF;
/// What a directory tells of its names as well.
const NAMES: u64 = libc::FAN_CREATE
    | libc::FAN_DELETE
    | libc::FAN_MOVED_FROM
    | libc::FAN_MOVED_TO
    | libc::FAN_EVENT_ON_CHILD
    | libc::FAN_ONDIR;

/// Adds `file`, and if it is a directory what is in it, to those whose changes go to `queue`.
pub(super) fn fanotify_add(
    queue: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    is_directory: bool,
) -> io::Result<()> {
    fanotify_mark(queue, libc::FAN_MARK_ADD, if is_directory { OWN | NAMES } else { OWN }, file)
}

/// Takes `file` from those whose changes go to `queue`.
pub(super) fn fanotify_remove(queue: BorrowedFd<'_>, file: BorrowedFd<'_>) -> io::Result<()> {
    // What was not added may be named.
    fanotify_mark(queue, libc::FAN_MARK_REMOVE, OWN | NAMES, file)
}

fn fanotify_mark(
    queue: BorrowedFd<'_>,
    change: libc::c_uint,
    kinds: u64,
    file: BorrowedFd<'_>,
) -> io::Result<()> {
    let path = std::ffi::CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    // SAFETY: the path is a C string that lives beyond the call; the rest are numbers.
    let result =
        unsafe { libc::fanotify_mark(queue.as_raw_fd(), change, kinds, libc::AT_FDCWD, path.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The handle of `file` with its header, as it stands in events.
pub(super) fn file_handle(file: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let room = libc::c_uint::try_from(MAX_HANDLE).map_err(io::Error::other)?;
    let mut handle = FileHandle { handle_bytes: room, handle_type: 0, f_handle: [0; MAX_HANDLE] };
    let mut mount: libc::c_int = 0;
    // SAFETY: the structure has as much room as it says, and all pointers live beyond the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            file.as_raw_fd(),
            c"".as_ptr(),
            &raw mut handle,
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let length = usize::try_from(handle.handle_bytes).map_err(io::Error::other)?;
    let bytes = handle.f_handle.get(..length).unwrap_or_default();
    Ok([&handle.handle_bytes.to_ne_bytes()[..], &handle.handle_type.to_ne_bytes(), bytes].concat())
}
