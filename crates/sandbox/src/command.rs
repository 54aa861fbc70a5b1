//! What can be asked of a sandbox: the requests with their answers, as one closed enum.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use kata_storage::RootfsMount;
use kata_transport::Stream;
use oci_spec::runtime::{LinuxResources, Process, Spec};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use crate::direct::VolumeStats;
use crate::error::Result;
use crate::inspection::Inspection;
use crate::network::Change;
use crate::network::json::{Interface, Route};
use crate::state::Phase;
use crate::stats::Stats;
use crate::{ContainerId, ExecId};

/// Bytes from the host to a process.
pub type Input = Box<dyn AsyncRead + Send + Unpin>;
/// Bytes from a process to the host.
pub type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// The streams of a new process. Bytes are copied as they are, both ways, with back-pressure.
#[derive(Default)]
pub struct Stdio {
    /// The process has a terminal: `stdout` carries all output, `stderr` is not used.
    pub terminal: bool,
    /// Read until end-of-file, which closes the process's standard input. `None`: it is empty.
    pub stdin: Option<Input>,
    /// `None`: the output is thrown away.
    pub stdout: Option<Output>,
    /// `None`: the output is thrown away.
    pub stderr: Option<Output>,
}

impl fmt::Debug for Stdio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stdio")
            .field("terminal", &self.terminal)
            .field("stdin", &self.stdin.is_some())
            .field("stdout", &self.stdout.is_some())
            .field("stderr", &self.stderr.is_some())
            .finish()
    }
}

/// A container to make.
#[derive(Debug)]
pub struct CreateContainer {
    /// Its name.
    pub id: ContainerId,
    /// The directory of its `config.json`.
    pub bundle: PathBuf,
    /// What its root file system is made of; empty: `root.path` of `spec` has it already.
    pub rootfs: Vec<RootfsMount>,
    /// Its `config.json`.
    pub spec: Spec,
    /// Its first process's streams.
    pub stdio: Stdio,
    /// It is the pod's pause container: a sandbox that begins with it has no process for it, and no files.
    pub is_pause: bool,
}

/// A process to add to a container.
#[derive(Debug)]
pub struct ExecSpec {
    /// Its name.
    pub id: ExecId,
    /// What to run.
    pub process: Process,
    /// Its streams.
    pub stdio: Stdio,
}

/// A container was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Created {
    /// The process on the host that stands for the container: its VM.
    pub pid: u32,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code, or 128 and the signal that ended it; 137 if its VM died.
    pub status: u32,
    /// When the host learnt of it.
    pub at: SystemTime,
}

impl Exit {
    /// 128 + SIGKILL.
    pub(crate) const KILLED: u32 = 137;

    /// The guest could not tell.
    pub(crate) const UNKNOWN: u32 = 255;

    pub(crate) fn now(status: u32) -> Self {
        Self { status, at: SystemTime::now() }
    }
}

/// Where in its life a process is, for callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessStatus {
    /// Made, not started.
    Created,
    /// Running.
    Running,
    /// Its container is frozen.
    Paused,
    /// Ended.
    Stopped,
}

impl From<Phase> for ProcessStatus {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Creating | Phase::Created | Phase::Starting => Self::Created,
            Phase::Running => Self::Running,
            Phase::Paused => Self::Paused,
            Phase::Stopped | Phase::Deleting => Self::Stopped,
        }
    }
}

/// A process as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessState {
    /// Where in its life.
    pub status: ProcessStatus,
    /// The process on the host that stands for it: its VM.
    pub pid: u32,
    /// How it ended, once it has.
    pub exit: Option<Exit>,
    /// It has a terminal.
    pub terminal: bool,
}

/// A process in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PidInfo {
    /// Its number in the guest; that of the VMM on the host for a pause container, of which nothing is in the guest.
    pub pid: u32,
    /// The added process that it is, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<String>,
}

/// What a sandbox is made of, as far as it can be measured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parts {
    /// The VMM's process on the host, while it lives.
    pub vmm: Option<u32>,
    /// The process that shares files with the VM, if any.
    pub daemon: Option<u32>,
    /// The containers with processes in the guest.
    pub containers: Vec<ContainerId>,
}

/// The figures of agent and guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuestMetrics {
    /// Prometheus text, as the guest says it: it is not to be trusted.
    pub text: String,
    /// What its containers use, unless its agent does not say.
    pub containers: Option<GuestUse>,
}

/// What a guest's containers use, all together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GuestUse {
    /// CPU time of those that are there.
    pub cpu: Duration,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

/// One process of a sandbox: the first of a container, or an added one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) container: ContainerId,
    pub(crate) exec: Option<ExecId>,
}

impl Key {
    pub(crate) fn new(container: &ContainerId, exec: Option<&ExecId>) -> Self {
        Self { container: container.clone(), exec: exec.cloned() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.exec {
            Some(exec) => write!(f, "{}/{exec}", self.container),
            None => write!(f, "{}", self.container),
        }
    }
}

/// Where an answer goes. The asker may have given up meanwhile; an answer that nobody waits for is dropped.
pub(crate) type Reply<T> = oneshot::Sender<Result<T>>;

/// A request to the task that owns the sandbox.
#[derive(Debug)]
pub(crate) enum Command {
    Boot { hostname: Option<String>, reply: Reply<u32> },
    Create { request: Box<CreateContainer>, reply: Reply<Created> },
    Start { key: Key, reply: Reply<u32> },
    Exec { container: ContainerId, request: Box<ExecSpec>, reply: Reply<()> },
    State { key: Key, reply: Reply<ProcessState> },
    Kill { key: Key, signal: u32, all: bool, reply: Reply<()> },
    Delete { key: Key, reply: Reply<Exit> },
    Wait { key: Key, reply: Reply<Exit> },
    Pause { container: ContainerId, reply: Reply<()> },
    Resume { container: ContainerId, reply: Reply<()> },
    Pids { container: ContainerId, reply: Reply<Vec<PidInfo>> },
    Stats { container: ContainerId, reply: Reply<Stats> },
    Update { container: ContainerId, resources: Box<LinuxResources>, reply: Reply<()> },
    Resize { key: Key, width: u32, height: u32, reply: Reply<()> },
    CloseIo { key: Key, reply: Reply<()> },
    AgentAddress { reply: Reply<String> },
    UnconfiguredAgent { reply: Reply<String> },
    Console { reply: Reply<Stream> },
    GuestLogLevel { level: Option<String>, reply: Reply<String> },
    Inspect { reply: Reply<Inspection> },
    Interfaces { reply: Reply<Vec<Interface>> },
    Routes { reply: Reply<Vec<Route>> },
    ChangeNetwork { change: Box<Change>, reply: Reply<()> },
    PacketFilter { v6: bool, reply: Reply<Vec<u8>> },
    SetPacketFilter { v6: bool, rules: Vec<u8>, reply: Reply<Vec<u8>> },
    Parts { reply: Reply<Parts> },
    GuestMetrics { families: Vec<String>, patience: Duration, reply: Reply<GuestMetrics> },
    VolumeStats { volume: PathBuf, reply: Reply<VolumeStats> },
    ResizeVolume { volume: PathBuf, bytes: u64, reply: Reply<()> },
    Shutdown { reply: Reply<()> },
}
