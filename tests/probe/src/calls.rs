//! What each system call answers to arguments without sense: a filter's answer is another one than the kernel's.

use crate::report::Report;
use crate::sys::{self, Outcome};

/// The highest number that is tried; Linux 6.12 has 462.
const LAST: i64 = 470;

/// Calls that end, stop or change this process whatever their arguments: `rt_sigreturn`, `pause`, `fork`, `vfork`, `exit`,
/// `vhangup`, `sync`, `exit_group`, `restart_syscall`.
const LEFT_OUT: [i64; 9] = [15, 34, 57, 58, 60, 153, 162, 219, 231];

pub(crate) fn tell(report: &mut Report) {
    for number in (0..=LAST).filter(|number| !LEFT_OUT.contains(number)) {
        let outcome = sys::try_call(number).map(|outcome| match outcome {
            Outcome::Returned => "returns".to_owned(),
            Outcome::Failed(errno) => format!("error {errno}"),
            Outcome::Killed(signal) => format!("signal {signal}"),
        });
        report.tell_result(format_args!("call {number}"), outcome);
    }
}
