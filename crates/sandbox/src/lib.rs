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
//! - `inspection.rs`: what a sandbox is now, for those who look at it.
//! - `sizing.rs`: how large the VM is, as arithmetic.
//! - `stats.rs`: what a container uses, as numbers.
//! - `agent.rs`: the client of the agent in the guest; `stdio.rs`: the processes' streams; `forward.rs`: connections to the
//!   pod's ports; `watches.rs`: the host's changes to what is watched in the guest.
//! - `intent_log.rs`, `cleanup.rs`, `sweep.rs`: what is made on the host is written down before, so that it can be undone
//!   after any crash.
//! - `timeline.rs`: where the time of a start goes.

mod agent;
mod boot;
mod cleanup;
pub mod clock;
mod command;
mod console;
mod cpuset;
mod direct;
mod disks;
mod driver;
mod error;
mod event;
mod foreseen;
mod forward;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod gone;
mod hooks;
mod host;
mod id;
mod images;
mod inspection;
mod intent_log;
mod jobs;
mod kept_log;
mod labels;
mod launch;
mod local;
mod network;
mod numa;
mod pause;
mod pinning;
mod plan;
mod pod;
mod poststop;
mod prepare;
mod process;
mod requests;
mod resize;
mod sandbox;
pub mod sizing;
mod spans;
mod state;
mod stats;
mod stdio;
mod swap;
mod sweep;
mod sys;
pub mod timeline;
mod underway;
mod vcpus;
mod watches;
mod way;

#[cfg(test)]
mod tests;

pub use agent::Requests;
pub use cleanup::cleanup;
pub use command::{
    CreateContainer, Created, ExecSpec, Exit, GuestMetrics, GuestUse, Input, Output, Parts, PidInfo,
    ProcessState, ProcessStatus, Stdio,
};
pub use console::printable;
pub use direct::{VolumeCondition, VolumeStats, VolumeUsage, direct_volumes, direct_volumes_below};
pub use error::{ErrorKind, Result, SandboxError as Error};
pub use event::{Event, EventReceiver};
pub use id::{ContainerId, ExecId, IdError, SandboxId};
pub use inspection::{ContainerInspection, ExecInspection, Inspection, ProcessInspection, SandboxStatus};
pub use intent_log::{Announced, INTENTS_FILE};
pub use kata_intent::Intent;
pub use kata_transport::{Stream, exchange};
pub use kept_log::LogReader;
pub use launch::{
    CONSOLE_FILE, CONSOLE_FILE_OLD, CONSOLE_PROTOCOL, FirstContainer, LaunchSpec, MANAGEMENT_BODY,
    MANAGEMENT_SOCKET, SHIM_LOG_FILE, SHIM_LOG_FILE_OLD, STATE_ROOT, launch,
};
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
