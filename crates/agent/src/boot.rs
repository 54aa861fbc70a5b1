//! What the agent does for the whole guest when it is PID 1, before it serves.

mod device;
mod link;
mod mounts;
pub(crate) mod power;

use std::io;

use rustix::process::{Resource, Rlimit, setrlimit};

pub(crate) use device::agent_port;
pub(crate) use mounts::mount_terminals;

/// Open files that a process in the guest may have, the kernel's own default for what can be asked for (`fs.nr_open`).
const MAX_FILES: u64 = 1_048_576;

/// One part in so many of the guest's memory may be on the lists of its CPUs.
const PART_OF_MEMORY: &str = "500";

/// The guest could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    /// One step failed.
    #[error("Cannot {0}")]
    Step(String, #[source] io::Error),
    /// The VM has no device to be reached through.
    #[error(
        "The VM has neither a vsock device nor a virtio-serial port {name}; add one to its configuration"
    )]
    NoChannel { name: &'static str },
}

type Result<T> = std::result::Result<T, BootError>;

fn step(what: impl Into<String>) -> impl FnOnce(io::Error) -> BootError {
    let what = what.into();
    move |source| BootError::Step(what, source)
}

/// Mounts the kernel's file systems, takes the console, and enables cgroups and the loopback interface.
pub(crate) fn set_up() -> Result<()> {
    mounts::leave_initial_root()?;
    mounts::mount_all()?;
    mounts::take_console()?;
    mounts::set_up_cgroups()?;
    protect_from_oom();
    allow_files();
    randomize_addresses();
    bound_lists_of_free_pages();
    if let Err(error) = link::bring_up_loopback() {
        tracing::warn!(%error, "The loopback interface stays down");
    }
    Ok(())
}

/// On an emulated CPU the host boots with `norandmaps`, so that the agent lies at the addresses of its own helper
/// (see [`crate::jail::workload::fix_addresses_of_children`]). That must not hold for the workloads.
fn randomize_addresses() {
    if let Err(error) = std::fs::write("/proc/sys/kernel/randomize_va_space", "2") {
        tracing::warn!(%error, "The addresses of processes may not be random");
    }
}

/// Each CPU has a list of free pages of its own, which the kernel lets grow to an eighth of all memory since Linux 6.7, and takes back
/// only while the CPU is awake: so much of what workloads had freed stayed with an idle guest, as only what is on the common lists is
/// given back to the host. Older kernels had bounds like this one.
fn bound_lists_of_free_pages() {
    match std::fs::write("/proc/sys/vm/percpu_pagelist_high_fraction", PART_OF_MEMORY) {
        // Kernels before 5.14.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(%error, "The guest may keep free memory from the host"),
        Ok(()) => {}
    }
}

/// What the kernel allows the first process is too little for many containers, and for a database in one.
fn allow_files() {
    let limit = Rlimit { current: Some(MAX_FILES), maximum: Some(MAX_FILES) };
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "Processes can open few files");
    }
}

/// The kernel must never choose the agent when memory runs out.
fn protect_from_oom() {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-997") {
        tracing::warn!(%error, "The agent is not protected from the OOM killer");
    }
}
