//! The heart of the runtime: a sandbox (a pod's VM), its containers and their processes.
//!
//! [`launch`] starts a sandbox and returns a handle; everything else is asked of the handle. Inside:
//!
//! - `driver.rs`: one task owns the sandbox and takes requests (`command.rs`, handled in `requests.rs`) and news
//!   from one queue. It never waits: what takes long is a job (`jobs.rs`, `boot.rs`) that reports back.
//! - `state.rs`: the table of what is allowed when; `pod.rs`: what the containers of a pod have in common.
//! - `host.rs`: the seam to the host; `local.rs` makes real VMs and mounts, tests have their own.
//! - `pause.rs`: a pod's pause container, which is only told of.
//! - `direct.rs`: direct-assigned volumes of a sandbox that runs.
//! - `stats.rs`: what a container uses, as numbers.
//! - `agent.rs`: the client of the agent in the guest; `stdio.rs`: the processes' streams; `forward.rs`: connections to the
//!   pod's ports; `watches.rs`: the host's changes to what is watched in the guest.
//! - `intent_log.rs`, `cleanup.rs`, `sweep.rs`: what is made on the host is written down before, so that it can be undone
//!   after any crash.
//! - `timeline.rs`: where the time of a start goes.

mod agent;
mod boot;
mod cleanup;
mod command;
mod console;
mod direct;
mod disks;
mod driver;
mod error;
mod event;
mod forward;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod gone;
mod hooks;
mod host;
mod id;
mod images;
mod intent_log;
mod jobs;
mod labels;
mod launch;
mod local;
mod network;
mod pause;
mod plan;
mod pod;
mod poststop;
mod prepare;
mod process;
mod requests;
mod sandbox;
mod state;
mod stats;
mod stdio;
mod sweep;
mod sys;
pub mod timeline;
mod watches;
mod way;

#[cfg(test)]
mod tests;

pub use cleanup::cleanup;
pub use command::{
    CreateContainer, Created, ExecSpec, Exit, Input, Output, PidInfo, ProcessState, ProcessStatus, Stdio,
};
pub use direct::{VolumeCondition, VolumeStats, VolumeUsage, direct_volumes, direct_volumes_below};
pub use error::{ErrorKind, Result, SandboxError as Error};
pub use event::{Event, EventReceiver};
pub use id::{ContainerId, ExecId, IdError, SandboxId};
pub use launch::{CONSOLE_FILE, LaunchSpec, MANAGEMENT_BODY, MANAGEMENT_SOCKET, STATE_ROOT, launch};
pub use network::json::{Family, Interface, IpAddress, Route, TextError};
pub use pod::{Dns, Pod};
pub use sandbox::{Sandbox, WeakSandbox};
pub use state::{Phase, Verb};
pub use stats::{
    CpuStats, HugetlbStats, IoStats, MemoryEvents, MemoryStats, NetworkStats, PidsStats, Pressure,
    PressureTimes, RdmaStats, Stats, SwapEvents,
};
pub use sweep::sweep;
pub use timeline::Timeline;
