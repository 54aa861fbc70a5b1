//! Adding a process to a running container.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use kata_protocol::oci::Process;
use rustix::process::setsid;
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::error::{JailError, Named, Result};
use super::init::enter_folder;
use super::plan::{Answer, Descriptors};
use super::rootfs::Root;
use super::{FAILED, console, identity, read_plan, spawn, workload};

/// Makes the process; its id.
pub(super) fn make(fds: Descriptors<OwnedFd>) -> Result<i32> {
    let Descriptors { plan, answer, cgroup, other: init, console, .. } = fds;
    let process: Process = read_plan(plan)?;
    identity::score(&process)?;
    let all = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::PROCESS_ID
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::CONTROL_GROUP;
    move_into_thread_name_spaces(init.as_fd(), all).step("enter the container; has it ended?")?;
    drop(init);
    spawn(0, cgroup, || run(&process, console.as_ref(), &File::from(answer)))
}

fn run(process: &Process, console: Option<&OwnedFd>, answer: &File) -> i32 {
    let failed = match prepare(process, console) {
        Ok(()) => {
            let Err(failure) = workload::become_workload(process);
            failure.message
        }
        Err(error) => crate::report::chain(&error),
    };
    let _ = Answer::Failed(failed).send(answer);
    FAILED
}

/// The steps, in their order.
fn prepare(process: &Process, console: Option<&OwnedFd>) -> Result<()> {
    setsid().step("make a session")?;
    if let Some(agent) = console {
        let root = Root::at(Path::new("/")).step("open the container's root")?;
        console::set_up(&root, agent, false, process.User.get_or_default().UID)?;
    }
    identity::limit(process)?;
    enter_folder(&process.Cwd)?;
    identity::assume(process)?;
    workload::check(process).map_err(|failure| JailError::Refused(failure.message))
}
