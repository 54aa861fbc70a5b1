//! The system calls that have no safe wrapper, and any call at all.
#![expect(unsafe_code, reason = "raw system calls are what this program is for")]

use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::ptr::{self, NonNull};

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It succeeded.
    Returned,
    /// It failed with this error.
    Failed(i32),
    /// It ended the process by this signal.
    Killed(i32),
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The scheduling policy and priority.
pub(crate) fn scheduler() -> io::Result<String> {
    let mut parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: asks about this process.
    let policy = check(libc::c_long::from(unsafe { libc::sched_getscheduler(0) }))?;
    // SAFETY: writes to a structure of its own type.
    check(libc::c_long::from(unsafe { libc::sched_getparam(0, &raw mut parameters) }))?;
    Ok(format!("{policy} {}", parameters.sched_priority))
}

/// The nice value, as the kernel returns it: 20 less it.
pub(crate) fn nice() -> io::Result<libc::c_long> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, 0) })
}

/// Class and level of input and output.
pub(crate) fn io_priority() -> io::Result<libc::c_long> {
    const WHO_PROCESS: libc::c_int = 1;
    // SAFETY: takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, 0) })
}

/// The execution domain.
pub(crate) fn personality() -> io::Result<libc::c_long> {
    // SAFETY: this number only asks.
    check(unsafe { libc::syscall(libc::SYS_personality, 0xffff_ffff_u64) })
}

/// Makes a call with arguments that make no sense, in a process of its own that a signal ends after a second.
pub(crate) fn try_call(number: i64) -> io::Result<Outcome> {
    // SAFETY: this program has one thread, so the copy can do all that this process can.
    let child = unsafe { libc::fork() };
    match child {
        -1 => Err(io::Error::last_os_error()),
        0 => call_and_end(number),
        child => outcome_of(child),
    }
}

fn call_and_end(number: i64) -> ! {
    const NONSENSE: libc::c_long = -1;
    // SAFETY: takes a number.
    unsafe { libc::alarm(1) };
    // SAFETY: every pointer is an address that no process has, so that nothing here is written to.
    let result = unsafe { libc::syscall(number, NONSENSE, NONSENSE, NONSENSE, NONSENSE, NONSENSE, NONSENSE) };
    let errno = if result < 0 { io::Error::last_os_error().raw_os_error().unwrap_or(0) } else { 0 };
    // SAFETY: ends this process at once, without what the other one has registered.
    unsafe { libc::_exit(errno) }
}

fn outcome_of(child: libc::pid_t) -> io::Result<Outcome> {
    let mut status = 0;
    // SAFETY: writes to a number.
    check(libc::c_long::from(unsafe { libc::waitpid(child, &raw mut status, 0) }))?;
    Ok(match (libc::WIFSIGNALED(status), libc::WEXITSTATUS(status)) {
        (true, _) => Outcome::Killed(libc::WTERMSIG(status)),
        (false, 0) => Outcome::Returned,
        (false, errno) => Outcome::Failed(errno),
    })
}

/// What `act` comes to in a process of its own with these ids and no further groups.
pub(crate) fn as_user(user: u32, group: u32, act: impl FnOnce() -> io::Result<()>) -> io::Result<String> {
    // SAFETY: this program has one thread, so the copy can do all that this process can.
    let child = unsafe { libc::fork() };
    match child {
        -1 => return Err(io::Error::last_os_error()),
        0 => {
            let done = become_user(user, group).and_then(|()| act());
            let errno = done.map_or_else(|error| error.raw_os_error().unwrap_or(255), |()| 0);
            // SAFETY: ends this process at once, without what the other one has registered.
            unsafe { libc::_exit(errno) }
        }
        _ => {}
    }
    Ok(match outcome_of(child)? {
        Outcome::Returned => "done".to_owned(),
        Outcome::Failed(errno) => format!("error {errno}"),
        Outcome::Killed(signal) => format!("signal {signal}"),
    })
}

fn become_user(user: u32, group: u32) -> io::Result<()> {
    if user == 0 {
        return Ok(());
    }
    // SAFETY: no list is read when it has no members.
    check(unsafe { libc::setgroups(0, ptr::null()) }.into())?;
    // SAFETY: takes a number.
    check(unsafe { libc::setgid(group) }.into())?;
    // SAFETY: takes a number.
    check(unsafe { libc::setuid(user) }.into()).map(drop)
}

/// Runs `act` under this umask.
pub(crate) fn with_umask<T>(mask: libc::mode_t, act: impl FnOnce() -> T) -> T {
    // SAFETY: takes a number.
    let before = unsafe { libc::umask(mask) };
    let result = act();
    // SAFETY: as above.
    unsafe { libc::umask(before) };
    result
}

/// Kinds of record locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lock {
    /// To read, of the process.
    Read,
    /// To write, of the process.
    Write,
    /// To write, of the open file.
    OfOpenFile,
}

/// Bytes of a file; no length reaches to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: i64,
    pub(crate) length: i64,
}

/// Locks bytes of a file, or fails if another one has them locked.
pub(crate) fn record_lock(file: &File, lock: Lock, range: Range) -> io::Result<()> {
    let kind = if lock == Lock::Read { libc::F_RDLCK } else { libc::F_WRLCK };
    let wanted = libc::flock {
        l_type: libc::c_short::try_from(kind).map_err(io::Error::other)?,
        l_whence: 0,
        l_start: range.start,
        l_len: range.length,
        l_pid: 0,
    };
    let command = if lock == Lock::OfOpenFile { libc::F_OFD_SETLK } else { libc::F_SETLK };
    // SAFETY: the descriptor is open, and the structure is of the type that this command reads.
    check(unsafe { libc::fcntl(file.as_raw_fd(), command, &raw const wanted) }.into()).map(drop)
}

/// A shared mapping of a file's first bytes.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

impl Mapping {
    /// To read and write.
    pub(crate) fn shared(file: &File, length: usize) -> io::Result<Self> {
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel chooses the place, so nothing that is mapped is replaced.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), length, rights, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { start, length })
    }

    fn place(&self, at: usize) -> *mut u8 {
        assert!(at < self.length, "within the mapping");
        // SAFETY: within the mapping, as just asserted.
        unsafe { self.start.as_ptr().add(at) }
    }

    /// A byte, as it is now.
    pub(crate) fn byte(&self, at: usize) -> u8 {
        // SAFETY: the mapping lives as long as this; others may write to it, so it is read once and anew.
        unsafe { self.place(at).read_volatile() }
    }

    /// Writes a byte.
    pub(crate) fn set(&self, at: usize, byte: u8) {
        // SAFETY: as above; no reference to the memory exists.
        unsafe { self.place(at).write_volatile(byte) };
    }

    /// Writes what has changed to the file.
    pub(crate) fn sync(&self) -> io::Result<()> {
        // SAFETY: the whole mapping, which is still there.
        check(unsafe { libc::msync(self.start.as_ptr().cast(), self.length, libc::MS_SYNC) }.into()).map(drop)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by this, and nobody can have a reference to it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// A folder that is read by the C library, which can go back to a place in it.
pub(crate) struct Folder(NonNull<libc::DIR>);

impl Folder {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: a C string that lives beyond the call.
        NonNull::new(unsafe { libc::opendir(path.as_ptr()) }).map(Self).ok_or_else(io::Error::last_os_error)
    }

    pub(crate) fn next_name(&mut self) -> Option<OsString> {
        // SAFETY: open until this is dropped.
        let entry = NonNull::new(unsafe { libc::readdir(self.0.as_ptr()) })?;
        // SAFETY: valid until the folder is read again; only the place of a field is taken.
        let name = unsafe { &raw const (*entry.as_ptr()).d_name };
        // SAFETY: as above, and it ends with a zero byte.
        let name = unsafe { CStr::from_ptr(name.cast()) };
        Some(OsString::from_vec(name.to_bytes().to_vec()))
    }

    pub(crate) fn rest(&mut self) -> Vec<OsString> {
        std::iter::from_fn(|| self.next_name()).collect()
    }

    pub(crate) fn tell(&mut self) -> libc::c_long {
        // SAFETY: open until this is dropped.
        unsafe { libc::telldir(self.0.as_ptr()) }
    }

    pub(crate) fn seek(&mut self, place: libc::c_long) {
        // SAFETY: as above; the place is one that `tell` gave.
        unsafe { libc::seekdir(self.0.as_ptr(), place) };
    }

    pub(crate) fn rewind(&mut self) {
        // SAFETY: as above.
        unsafe { libc::rewinddir(self.0.as_ptr()) };
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // SAFETY: opened by this, and not used afterwards.
        unsafe { libc::closedir(self.0.as_ptr()) };
    }
}
