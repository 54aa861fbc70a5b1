//! What can go wrong with a sandbox, for its user.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::network::NetworkFailure;
use crate::state::{Phase, Verb};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, SandboxError>;

/// The kind of an error: what a caller's caller acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// No such container or process, or it has ended already.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// Not in this state.
    FailedPrecondition,
    /// The request cannot be right.
    InvalidArgument,
    /// It took too long.
    DeadlineExceeded,
    /// This is not implemented (by us, or by the agent in the guest).
    Unimplemented,
    /// The VM is gone or going.
    Unavailable,
    /// Anything else.
    Unknown,
}

/// A request to a sandbox failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The sandbox does not run, or no more.
    #[error("The sandbox has ended: {reason}. Delete its containers and create it anew")]
    Gone {
        /// Why, with the last lines of the guest's console where they help.
        reason: Arc<str>,
    },
    /// The sandbox's owning task has ended, because the program is ending.
    #[error("The sandbox is being shut down")]
    Closed,
    /// No container of that name.
    #[error("There is no container {id} in this sandbox")]
    NoContainer {
        /// The name.
        id: String,
    },
    /// No added process of that name.
    #[error("There is no process {exec} in the container {id}")]
    NoProcess {
        /// The container.
        id: String,
        /// The process.
        exec: String,
    },
    /// The name is taken.
    #[error("There is already a {what} {id} in this sandbox; delete it first")]
    Exists {
        /// `container` or `process`.
        what: &'static str,
        /// The name.
        id: String,
    },
    /// The request does not fit the state of its container or process.
    #[error("Cannot {verb} while {id} is {phase}")]
    NotAllowed {
        /// The request.
        verb: Verb,
        /// The container or process.
        id: String,
        /// Its state.
        phase: Phase,
    },
    /// There is nothing in the guest to ask it of.
    #[error(
        "Cannot {verb} {id}: the pod's sandbox has no processes in the guest; choose one of the pod's containers"
    )]
    Pause {
        /// The request.
        verb: Verb,
        /// The sandbox's pause container.
        id: String,
    },
    /// A signal came after the end.
    #[error("The process {id} has already finished")]
    Finished {
        /// The container or process.
        id: String,
    },
    /// The agent refused or failed.
    #[error("The agent in the guest could not {action}: {message}")]
    Agent {
        /// What it was asked for.
        action: &'static str,
        /// Its answer.
        message: String,
        /// The kind of its answer.
        kind: ErrorKind,
    },
    /// The guest did not answer in time.
    #[error("The guest did not {action} within {} s; raise the timeout in the configuration if the host is slow{console}", after.as_secs())]
    Deadline {
        /// What it was asked for.
        action: &'static str,
        /// The deadline.
        after: Duration,
        /// The last lines of its console, introduced; may be empty.
        console: String,
    },
    /// The agent in the guest lacks a request that there is no substitute for.
    #[error("The agent in the guest cannot {action}; use the guest image of this release")]
    Unsupported {
        /// What was asked for.
        action: &'static str,
    },
    /// A stream to the guest could not be opened.
    #[error("Cannot open a stream to the guest")]
    Stream(#[from] kata_transport::Error),
    /// A container's files could not be prepared or removed.
    #[error("Cannot {action} of the container {id}")]
    Files {
        /// What was tried.
        action: &'static str,
        /// The container.
        id: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A hook of the container failed.
    #[error("The container {id} cannot be made or started")]
    Hook {
        /// The container.
        id: String,
        /// Which one, and why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The specification asks for what no guest can do yet.
    #[error("The container {id} asks for {part}, which is not supported yet; remove it from its config.json")]
    Specification {
        /// The container.
        id: String,
        /// Where it stands in the specification.
        part: String,
    },
    /// The pod's network.
    #[error("Cannot set up the pod's network")]
    Network {
        /// The kind of the error.
        kind: ErrorKind,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The VM does not run yet.
    #[error("The sandbox is still starting; try again when its first container runs")]
    Starting,
    /// The specification's seccomp profile cannot be compiled.
    #[error("Cannot confine the container {id}")]
    Seccomp {
        /// The container.
        id: String,
        /// What is wrong.
        source: kata_seccomp::ProfileError,
    },
    /// No such volume.
    #[error(
        "This sandbox has no direct-assigned volume {volume:?}: `kata-runtime direct-volume add` must come before the \
         container that mounts it"
    )]
    NoVolume {
        /// Its path on the host.
        volume: PathBuf,
    },
    /// The VMM has no such thing.
    #[error("The volume {volume:?} cannot grow while it is in use: this hypervisor's disks keep their size")]
    NoResize {
        /// Its path on the host.
        volume: PathBuf,
    },
    /// A container cannot run where it is to.
    #[error("linux.resources.cpu.cpus {list:?} {problem}")]
    Cpus {
        /// What it says.
        list: String,
        /// What is wrong with that.
        problem: String,
    },
    /// The VM did not become larger or smaller.
    #[error("The VM's CPUs and memory cannot follow what its containers may use")]
    VmSize {
        /// Why not.
        source: kata_vmm::VmmError,
    },
    /// The VMM refused.
    #[error("The disk of the volume {volume:?} did not grow")]
    Volume {
        /// Its path on the host.
        volume: PathBuf,
        /// The kind of the error.
        kind: ErrorKind,
        /// Why not.
        source: kata_vmm::VmmError,
    },
    /// The sandbox's directory or log could not be made or read.
    #[error("Cannot use {} for the sandbox's state; is /run writable?", path.display())]
    State {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A living process owns a sandbox of this name.
    #[error(
        "The sandbox {id} is running already, maybe in another namespace; end it first or choose another id"
    )]
    InUse {
        /// The name.
        id: String,
    },
    /// The clean-up could not undo everything.
    #[error("Of the sandbox {id} these are left: {}; see what holds them, then repeat", left.join("; "))]
    Left {
        /// The sandbox.
        id: String,
        /// Each thing, and why it is still there.
        left: Vec<String>,
    },
}

impl SandboxError {
    pub(crate) fn hook(
        id: &crate::ContainerId,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::Hook { id: id.to_string(), source: Box::new(source) }
    }

    /// The kind of this error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Gone { .. } | Self::Closed | Self::Starting | Self::Stream(_) => ErrorKind::Unavailable,
            Self::NoContainer { .. }
            | Self::NoProcess { .. }
            | Self::NoVolume { .. }
            | Self::Finished { .. } => ErrorKind::NotFound,
            Self::Exists { .. } | Self::InUse { .. } => ErrorKind::AlreadyExists,
            Self::NotAllowed { .. } | Self::Pause { .. } => ErrorKind::FailedPrecondition,
            Self::Agent { kind, .. } | Self::Network { kind, .. } | Self::Volume { kind, .. } => *kind,
            Self::Seccomp { .. } => ErrorKind::InvalidArgument,
            Self::Deadline { .. } => ErrorKind::DeadlineExceeded,
            Self::Unsupported { .. } | Self::Specification { .. } | Self::NoResize { .. } => {
                ErrorKind::Unimplemented
            }
            Self::Cpus { .. } => ErrorKind::InvalidArgument,
            Self::VmSize { .. } => ErrorKind::FailedPrecondition,
            Self::Files { .. } | Self::Hook { .. } | Self::State { .. } | Self::Left { .. } => {
                ErrorKind::Unknown
            }
        }
    }
}

impl From<NetworkFailure> for SandboxError {
    fn from(failure: NetworkFailure) -> Self {
        Self::Network { kind: failure.kind(), source: failure.into() }
    }
}

/// An error with all its causes in one line, for where only text passes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
