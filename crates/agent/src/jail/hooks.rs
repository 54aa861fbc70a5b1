//! A container's own hooks in the guest: `createContainer`, when its mounts are made and before its root is entered, and
//! `startContainer`, inside, before the workload.

use std::os::unix::process::ExitStatusExt;
use std::process::Child;

use kata_protocol::oci;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::time::Timespec;

use crate::hooks::{HookError, Prepared, State};

/// Runs them in their order, until one fails.
pub(super) fn run(
    when: &'static str,
    hooks: &[oci::Hook],
    spec: &oci::Spec,
    status: &str,
) -> Result<(), HookError> {
    for hook in hooks {
        let state = State::of(spec).json(status, Some(std::process::id()));
        let mut prepared = Prepared::new(when, hook, &state)?;
        let child = match prepared.command.spawn() {
            Ok(child) => child,
            Err(source) => return Err(prepared.failed(source)),
        };
        match wait(child, prepared.limit().and_then(|limit| Timespec::try_from(limit).ok())) {
            Ok(code) => prepared.ended(code)?,
            Err(source) => return Err(prepared.failed(source)),
        }
    }
    Ok(())
}

/// The status, or none if it took too long.
fn wait(mut child: Child, limit: Option<Timespec>) -> std::io::Result<Option<i32>> {
    if let (Some(limit), Some(pid)) = (limit, Pid::from_raw(child.id().cast_signed())) {
        let handle = pidfd_open(pid, PidfdFlags::empty())?;
        if poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&limit))? == 0 {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
    }
    let status = child.wait()?;
    Ok(status.code().or(status.signal().map(|signal| 128 + signal)))
}
