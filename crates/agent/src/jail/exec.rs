//! Adding a process to a running container.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use kata_protocol::oci::Spec;
use rustix::process::setsid;
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::error::{JailError, Named, Result};
use super::init::enter_folder;
use super::plan::{Answer, Descriptors};
use super::rootfs::Root;
use super::seccomp::Filter;
use super::{FAILED, console, identity, read_plan, spawn, workload};

/// Makes the process; its id.
pub(super) fn make(fds: Descriptors<OwnedFd>) -> Result<i32> {
    let Descriptors { plan, answer, cgroup, other: init, console, .. } = fds;
    let spec: Spec = read_plan(plan)?;
    identity::score(&spec.Process)?;
    let all = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::PROCESS_ID
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::CONTROL_GROUP;
    move_into_thread_name_spaces(init.as_fd(), all).step("enter the container; has it ended?")?;
    drop(init);
    spawn(0, cgroup, || run(&spec, console.as_ref(), &File::from(answer)))
}

fn run(spec: &Spec, console: Option<&OwnedFd>, answer: &File) -> i32 {
    let failed = match prepare(spec, console) {
        Ok(filter) => {
            let Err(failure) = workload::become_workload(&spec.Process, filter);
            failure.message
        }
        Err(error) => crate::report::chain(&error),
    };
    let _ = Answer::Failed(failed).send(answer);
    FAILED
}

/// The steps, in their order.
fn prepare(spec: &Spec, console: Option<&OwnedFd>) -> Result<Option<Filter>> {
    let process = &*spec.Process;
    setsid().step("make a session")?;
    if let Some(agent) = console {
        let root = Root::at(Path::new("/")).step("open the container's root")?;
        console::set_up(&root, agent, false, process.User.get_or_default().UID)?;
    }
    identity::limit(process)?;
    enter_folder(&process.Cwd)?;
    let filter = identity::assume(process, Filter::of_container(&spec.Linux)?)?;
    workload::check(process).map_err(|failure| JailError::Refused(failure.message))?;
    Ok(filter)
}
