#![expect(unsafe_code, reason = "the C library has no functions for the whole of a thread's scheduling")]
//! sched_getattr(2) and sched_setattr(2).

use std::io;
use std::mem;
use std::time::Duration;

use nix::libc::{self, pid_t, sched_attr};

/// How a thread is scheduled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scheduling {
    /// `SCHED_…` of `sched.h`.
    pub(super) policy: u32,
    /// −20 to 19; what is high yields to others.
    pub(super) nice: i32,
    /// How long it keeps a processor (100 µs to 100 ms); zero for the kernel's own choice.
    pub(super) turn: Duration,
}

/// Tells it of a thread; 0 is the one that asks.
///
/// # Errors
/// There is no such thread, or it is hidden.
pub(super) fn scheduling(thread: pid_t) -> io::Result<Scheduling> {
    // SAFETY: zero is a valid value of every field.
    let mut attributes: sched_attr = unsafe { mem::zeroed() };
    // SAFETY: the kernel fills a structure of the size that it is given, which outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_sched_getattr, thread, &raw mut attributes, size_of::<sched_attr>(), 0)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let turn = Duration::from_nanos(attributes.sched_runtime);
    Ok(Scheduling { policy: attributes.sched_policy, nice: attributes.sched_nice, turn })
}

/// Sets it; 0 is the thread that asks.
///
/// # Errors
/// The system's.
pub(super) fn schedule(thread: pid_t, how: Scheduling) -> io::Result<()> {
    // SAFETY: zero is a valid value of every field.
    let mut attributes: sched_attr = unsafe { mem::zeroed() };
    attributes.size = u32::try_from(size_of::<sched_attr>()).map_err(io::Error::other)?;
    attributes.sched_policy = how.policy;
    attributes.sched_nice = how.nice;
    attributes.sched_runtime = u64::from(how.turn.subsec_nanos());
    // SAFETY: the kernel reads a structure of the size that stands in it, which outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, thread, &raw const attributes, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
