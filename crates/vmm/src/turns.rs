//! How long a VMM's threads keep a processor when they have it.
//!
//! A guest that boots computes from beginning to end, and nobody waits for a part of that. Where several boot on one
//! processor, turns of the usual 3 ms only empty its caches, most of all under emulation: so a VMM begins with long
//! turns, and does not take the processor from anybody who has it. It still gets no more of it than others.

mod sys;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::libc::{SCHED_BATCH, SCHED_OTHER};

use sys::Scheduling;

/// The longest turn that the kernel grants; those before Linux 6.12 know only their own.
const LONG: Duration = Duration::from_millis(100);

/// The turns of a VMM's threads.
#[derive(Debug)]
pub(crate) struct Turns {
    pid: u32,
    long: AtomicBool,
}

impl Turns {
    /// Makes those of a process that has just begun long; threads that it starts later have the same. Threads that
    /// are scheduled in a manner of their own keep that.
    pub(crate) fn long(pid: u32) -> Self {
        reschedule(pid, SCHED_OTHER, SCHED_BATCH, LONG);
        Self { pid, long: AtomicBool::new(true) }
    }

    /// Gives all its threads the usual turns.
    pub(crate) fn end(&self) {
        if self.long.swap(false, Ordering::Relaxed) {
            reschedule(self.pid, SCHED_BATCH, SCHED_OTHER, Duration::ZERO);
        }
    }
}

/// Moves all threads of a process that have one policy to another. What is gone or may not be changed stays as it is: it
/// works as well, only slower.
fn reschedule(pid: u32, from: i32, to: i32, turn: Duration) {
    for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let id = thread.file_name().to_str().and_then(|name| name.parse().ok());
        let found = id.and_then(|id| Some((id, sys::scheduling(id).ok()?)));
        if let Some((id, now)) = found
            && now.policy == from.unsigned_abs()
        {
            let _ = sys::schedule(id, Scheduling { policy: to.unsigned_abs(), turn, ..now });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use nix::libc::SCHED_IDLE;

    use super::*;

    struct Process(Child);

    impl Process {
        fn start(program: &str) -> Self {
            Self(Command::new(program).stdin(Stdio::piped()).spawn().unwrap())
        }

        fn scheduling(&self) -> (i32, Duration) {
            let how = sys::scheduling(self.0.id().cast_signed()).unwrap();
            (how.policy.cast_signed(), how.turn)
        }
    }

    impl Drop for Process {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn long_turns_end_once() {
        let process = Process::start("cat");
        let usual = process.scheduling();
        assert_eq!(usual.0, SCHED_OTHER);
        let turns = Turns::long(process.0.id());
        assert_eq!(process.scheduling().0, SCHED_BATCH);
        turns.end();
        assert_eq!(process.scheduling(), usual);
        reschedule(process.0.id(), SCHED_OTHER, SCHED_BATCH, LONG);
        turns.end();
        assert_eq!(process.scheduling().0, SCHED_BATCH, "somebody else's choice stays");
    }

    #[test]
    fn a_process_with_another_policy_keeps_it() {
        let process = Process::start("cat");
        reschedule(process.0.id(), SCHED_OTHER, SCHED_IDLE, Duration::ZERO);
        let idle = process.scheduling();
        assert_eq!(idle.0, SCHED_IDLE);
        Turns::long(process.0.id()).end();
        assert_eq!(process.scheduling(), idle);
    }
}
