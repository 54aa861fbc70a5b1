//! What the task service needs of a sandbox: the seam between containerd's words and ours. The product has
//! one implementation ([`crate::kata`]); tests have another.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::api::Mount;
use containerd_shim_protos::{cgroups, cgroups_v2};
use kata_sandbox::{FirstContainer, Pod};
use oci_spec::runtime::{LinuxResources, Process, Spec};

use crate::events::Ended;
use crate::ledger::Key;
use crate::stdio::{Input, Output};

/// A failure that the caller may see: which kind (containerd's clients act on it), and the whole chain as text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Failure {
    /// The kind.
    pub(crate) kind: Kind,
    /// The text, with its causes.
    pub(crate) text: String,
}

/// containerd's kinds of errors, as far as we use them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No such container, process, or no longer.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// Not in this state.
    FailedPrecondition,
    /// The request cannot be right.
    InvalidArgument,
    /// It took too long.
    DeadlineExceeded,
    /// We do not have that.
    Unimplemented,
    /// The VM is gone or going.
    Unavailable,
    /// Anything else.
    Unknown,
}

impl Failure {
    /// A failure without causes.
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    /// A failure with an error's whole chain.
    #[must_use]
    pub(crate) fn of(kind: Kind, error: &(dyn std::error::Error + 'static)) -> Self {
        Self { kind, text: crate::chain::text(error) }
    }
}

/// The streams of a new process.
#[derive(Default)]
pub(crate) struct Stdio {
    /// It has a terminal.
    pub(crate) terminal: bool,
    /// From containerd.
    pub(crate) stdin: Option<Input>,
    /// To containerd.
    pub(crate) stdout: Option<Output>,
    /// To containerd.
    pub(crate) stderr: Option<Output>,
}

/// A container to make.
pub(crate) struct NewContainer {
    /// Its id.
    pub(crate) id: String,
    /// Its bundle.
    pub(crate) bundle: PathBuf,
    /// Its root file system, as containerd describes it.
    pub(crate) rootfs: Vec<Mount>,
    /// Its `config.json`.
    pub(crate) spec: Spec,
    /// Its first process's streams.
    pub(crate) stdio: Stdio,
    /// It is a pod's pause container, of which nothing need be in the guest.
    pub(crate) is_pause: bool,
}

/// Where in its life a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// Made, not started.
    Created,
    /// Running.
    Running,
    /// Its container is paused.
    Paused,
    /// Ended.
    Stopped,
}

/// Answer to `State`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    /// Where in its life.
    pub(crate) status: Status,
    /// The process id that containerd knows.
    pub(crate) pid: u32,
    /// How it ended, if it did.
    pub(crate) ended: Option<Ended>,
}

/// A process in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GuestProcess {
    /// The guest's number for it.
    pub(crate) pid: u32,
    /// The exec that it is, or empty.
    pub(crate) exec: String,
}

/// A container's consumption, in the message of the host's kind of cgroups.
pub(crate) enum Metrics {
    /// `io.containerd.cgroups.v1`.
    V1(Box<cgroups::metrics::Metrics>),
    /// `io.containerd.cgroups.v2`.
    V2(Box<cgroups_v2::metrics::Metrics>),
}

/// A sandbox to launch for the Sandbox API.
pub(crate) struct NewSandbox {
    /// Its bundle.
    pub(crate) bundle: PathBuf,
    /// What it shall be: the bundle's `config.json`, if there is one, with what the request says.
    pub(crate) spec: Spec,
    /// What its containers have in common, if it is a pod of Kubernetes'.
    pub(crate) pod: Option<Pod>,
    /// How a container of this specification comes.
    pub(crate) first: FirstContainer,
}

/// Launches sandboxes.
#[async_trait]
pub(crate) trait Launcher: Send + Sync {
    /// Has the VM started; it boots when this returns.
    async fn launch(&self, sandbox: NewSandbox) -> Result<Arc<dyn Backend>, Failure>;
}

/// A sandbox with its containers.
#[async_trait]
pub(crate) trait Backend: Send + Sync {
    /// Waits until the guest is up, without any container; the answer is the process id that containerd shall know.
    async fn boot(&self) -> Result<u32, Failure>;
    /// Waits until the VM is gone although nobody asked for that, or never came up: why. `None`: somebody did ask.
    async fn died(&self) -> Option<String>;
    /// What there is to know about the sandbox, by name, for people.
    fn about(&self) -> HashMap<String, String>;
    /// What the sandbox as a whole costs the host.
    async fn cost(&self) -> Result<Metrics, Failure>;
    /// Ends the VM and removes what the sandbox made; its containers can still be looked at and deleted. May be called
    /// again.
    async fn stop(&self) -> Result<(), Failure>;
    /// Makes a container; the answer is the process id that containerd shall know.
    async fn create(&self, container: NewContainer) -> Result<u32, Failure>;
    /// Makes another process in a container.
    async fn exec(&self, key: &Key, process: Process, stdio: Stdio) -> Result<(), Failure>;
    /// Starts a process.
    async fn start(&self, key: &Key) -> Result<u32, Failure>;
    /// Looks at a process.
    async fn state(&self, key: &Key) -> Result<State, Failure>;
    /// Sends a signal to a process, or with `all` to every process of the container.
    async fn kill(&self, key: &Key, signal: u32, all: bool) -> Result<(), Failure>;
    /// Forgets a process that has ended or was never started; the first process takes its container along.
    async fn delete(&self, key: &Key) -> Result<Ended, Failure>;
    /// Waits for a process's end.
    async fn wait(&self, key: &Key) -> Result<Ended, Failure>;
    /// Freezes a container.
    async fn pause(&self, container: &str) -> Result<(), Failure>;
    /// Thaws a container.
    async fn resume(&self, container: &str) -> Result<(), Failure>;
    /// A container's processes.
    async fn pids(&self, container: &str) -> Result<Vec<GuestProcess>, Failure>;
    /// A container's consumption.
    async fn stats(&self, container: &str) -> Result<Metrics, Failure>;
    /// Changes a container's limits; what is not given stays.
    async fn update(&self, container: &str, resources: LinuxResources) -> Result<(), Failure>;
    /// Tells a process's terminal its size in characters.
    async fn resize(&self, key: &Key, width: u32, height: u32) -> Result<(), Failure>;
    /// [`stop`](Self::stop), with everything that was known about it; may be called again.
    async fn shutdown(&self) -> Result<(), Failure>;
}
