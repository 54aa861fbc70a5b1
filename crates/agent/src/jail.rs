//! The jail: a single-threaded child of the agent (`kata-agent container create|hold|exec …`) that makes one container or
//! one process in it, says how that went, and ends. The agent itself never forks.
//!
//! The jail clones the new process with its namespaces and in its cgroup, as a child of the agent. That process goes
//! through the steps in [`init`] or [`exec`] and becomes the workload. Every place in the container's root is resolved
//! by the kernel inside it ([`rootfs`]), and everything is mounted by descriptor ([`mounts`]).
//!
//! It is small on purpose: it starts with every container and every exec, and on an emulated CPU each instruction that
//! runs for the first time costs microseconds.

mod clocks;
mod console;
mod delegate;
mod devices;
mod error;
mod exec;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod hold;
mod hooks;
mod identity;
mod init;
mod label;
mod mounts;
mod namespaces;
mod passing;
pub(crate) mod plan;
mod protect;
mod rootfs;
mod scheduling;
mod seccomp;
mod shell;
mod sys;
mod users;
pub(crate) mod workload;

use std::cell::Cell;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use protobuf::Message;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::ThreadNameSpaceType;

use error::{JailError, Named, Result};
use init::Calling;
use plan::{Answer, Descriptors};
use sys::Side;

/// Status of a process that could not become the workload, where nothing better is known.
const FAILED: i32 = 1;

/// The verb of what is no jail: a console's shell, in the guest itself.
pub(crate) const SHELL: &str = "shell";

/// Does what the arguments say, and returns the exit status: `create`, `hold` or `exec`, and the numbers of [`Descriptors`]. Stdio is the workload's.
pub(crate) fn main(mut arguments: impl Iterator<Item = String>) -> u8 {
    let began = crate::clock::since_boot();
    let verb = arguments.next().unwrap_or_default();
    if verb == SHELL {
        return shell::main(arguments);
    }
    let Some(numbers) = Descriptors::from_arguments(arguments) else {
        eprintln!("Cannot make a container: this command is for the agent itself");
        return 1;
    };
    let fds = Descriptors {
        plan: sys::inherited(numbers.plan),
        answer: sys::inherited(numbers.answer),
        cgroup: sys::inherited(numbers.cgroup),
        other: sys::inherited(numbers.other),
        console: numbers.console.map(sys::inherited),
        joined: numbers.joined.map(sys::inherited),
    };
    let answer = match fds.answer.try_clone() {
        Ok(answer) => File::from(answer),
        Err(_) => return 1,
    };
    // If nobody listens any more, the agent is gone, and the guest with it.
    let _ = Answer::Began(began).send(&answer);
    let made = guard().and_then(|()| match verb.as_str() {
        "create" => init::make(fds, Calling::Workload),
        "hold" => init::make(fds, Calling::Holder),
        _ => exec::make(fds),
    });
    let _ = match made {
        Ok(pid) => Answer::Made(pid).send(&answer),
        Err(error) => Answer::Failed(crate::report::chain(&error)).send(&answer),
    };
    0
}

/// Keeps what this process has open from the container, whose processes see it before it has become the workload; and
/// what is the agent's own, its scheduling and its limits, from the workload.
fn guard() -> Result<()> {
    sys::schedule_as_usual().step("set the scheduling policy")?;
    identity::limit_files().step("set the usual limit of open files")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step("keep others out of this process")?;
    sys::close_others_on_exec().step("close descriptors")
}

/// The message in a memory file.
fn read_plan<M: Message>(file: OwnedFd) -> Result<M> {
    let mut bytes = Vec::new();
    let file = File::from(file);
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).step("rewind the plan")?;
    (&file).read_to_end(&mut bytes).step("read the plan")?;
    M::parse_from_bytes(&bytes)
        .map_err(|error| JailError::Refused(format!("The plan is not understood: {error}")))
}

/// Makes the process, which does `work` and never comes back; its id. It does not keep the cgroup. Without one it is in
/// that of this process.
fn spawn(namespaces: libc::c_int, cgroup: Option<OwnedFd>, work: impl FnOnce() -> i32) -> Result<i32> {
    let side = sys::clone_into(namespaces, cgroup.as_ref());
    drop(cgroup);
    match side.step("make the process; can its cgroup take any?")? {
        Side::Parent(pid) => Ok(pid),
        Side::Child => std::process::exit(work()),
    }
}

/// [`spawn`] by a go-between, which joins these namespaces of that process before. It is in the cgroup already, since its
/// new namespaces may not allow to enter that.
fn spawn_inside(
    (joined, kinds): (&OwnedFd, ThreadNameSpaceType),
    namespaces: libc::c_int,
    cgroup: OwnedFd,
    work: impl FnOnce() -> i32,
) -> Result<i32> {
    let (told, tell) = pipe_with(PipeFlags::CLOEXEC).step("make a pipe")?;
    let tell = Cell::new(Some(File::from(tell)));
    spawn(0, Some(cgroup), || {
        let joined = namespaces::join(joined, kinds);
        let work = || {
            drop(tell.take());
            work()
        };
        let answer = match joined.and_then(|()| spawn(namespaces, None, work)) {
            Ok(pid) => Answer::Made(pid),
            Err(error) => Answer::Failed(crate::report::chain(&error)),
        };
        // If nobody listens any more, the jail has been ended.
        tell.take().map_or(FAILED, |tell| answer.send(tell).map_or(FAILED, |()| 0))
    })?;
    drop(tell.take());
    let mut answer = Vec::new();
    File::from(told).read_to_end(&mut answer).step("hear of the new process")?;
    match Answer::read(&answer).pop() {
        Some(Answer::Made(pid)) => Ok(pid),
        Some(Answer::Failed(reason)) => Err(JailError::Refused(reason)),
        _ => Err(JailError::Refused("The process that joins the sandbox's namespaces was ended".to_owned())),
    }
}
