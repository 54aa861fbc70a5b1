//! The system calls that have no safe wrapper, and any call at all.
#![expect(unsafe_code, reason = "raw system calls are what this program is for")]

use std::io;

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
