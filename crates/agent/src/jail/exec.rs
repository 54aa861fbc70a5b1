//! Adding a process to a running container.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use kata_protocol::oci::Spec;
use rustix::process::setsid;
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::error::{JailError, Named, Result};
use super::init::enter_folder;
use super::label::Labels;
use super::plan::{Answer, Descriptors};
use super::rootfs::Root;
use super::seccomp::Filter;
use super::{FAILED, console, identity, namespaces, read_plan, scheduling, spawn, workload};

const ENTER: &str = "enter the container; has it ended?";

/// Makes the process; its id.
pub(super) fn make(fds: Descriptors<OwnedFd>) -> Result<i32> {
    let Descriptors { plan, answer, cgroup, other: init, console, .. } = fds;
    let mut spec: Spec = read_plan(plan)?;
    let labels = Labels::prepare(&mut spec)?;
    identity::score(&spec.Process)?;
    scheduling::bind(&spec.Process.ExecCPUAffinity.get_or_default().Initial)?;
    let filter = Filter::prepare(&spec.Linux)?;
    // The others are entered by the new process: what comes before takes the agent's rights.
    move_into_thread_name_spaces(init.as_fd(), ThreadNameSpaceType::PROCESS_ID).step(ENTER)?;
    let work = Added { spec: &spec, labels, init, console: console.as_ref(), filter };
    spawn(0, Some(cgroup), || work.run(&File::from(answer)))
}

/// The new process.
struct Added<'a> {
    spec: &'a Spec,
    labels: Labels,
    /// The container's first process.
    init: OwnedFd,
    console: Option<&'a OwnedFd>,
    filter: Option<Filter>,
}

impl Added<'_> {
    /// All of it; returns an exit status if it did not become the workload.
    fn run(self, answer: &File) -> i32 {
        let spec = self.spec;
        let failed = match self.prepare() {
            Ok(filter) => {
                let Err(failure) = workload::become_workload(spec, filter);
                failure.message
            }
            Err(error) => crate::report::chain(&error),
        };
        let _ = Answer::Failed(failed).send(answer);
        FAILED
    }

    /// The steps, in their order.
    fn prepare(mut self) -> Result<Option<Filter>> {
        let spec = self.spec;
        let process = &*spec.Process;
        setsid().step("make a session")?;
        scheduling::bind(&process.ExecCPUAffinity.get_or_default().Final)?;
        identity::limit(None, process)?;
        scheduling::set(None, process)?;
        if let Some(filter) = &mut self.filter {
            filter.identify(spec, "running")?;
        }
        move_into_thread_name_spaces(self.init.as_fd(), namespaces::entered(&spec.Linux)).step(ENTER)?;
        drop(self.init);
        if let Some(agent) = self.console {
            let root = Root::at(Path::new("/")).step("open the container's root")?;
            console::set_up(&root, agent, false, process.User.get_or_default().UID)?;
        }
        enter_folder(&process.Cwd)?;
        self.labels.apply()?;
        let filter = identity::assume(process, self.filter)?;
        workload::check(spec).map_err(|failure| JailError::Refused(failure.message))?;
        Ok(filter)
    }
}
