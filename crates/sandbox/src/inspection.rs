//! What a sandbox is now, for those who look at it (`kata-runtime list` and `inspect`). Made only when somebody asks; the
//! guest is not asked.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::command::{Exit, Key, ProcessState, ProcessStatus};
use crate::driver::{Driver, Stage};
use crate::sizing::SizePlan;

/// Where in its life a sandbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxStatus {
    /// The VM comes up.
    Starting,
    /// The guest takes requests.
    Running,
    /// There is no VM any more.
    Stopped,
}

/// A sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// Its id.
    pub id: String,
    /// Where in its life it is.
    pub status: SandboxStatus,
    /// Why it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The VMM's process; 0 before there is one.
    pub pid: u32,
    /// How large its VM is, and why. Absent if it comes from a runtime that does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<SizePlan>,
    /// Its containers, by age.
    pub containers: Vec<ContainerInspection>,
}

/// A container of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerInspection {
    /// Its id.
    pub id: String,
    /// The directory of its `config.json`.
    pub bundle: PathBuf,
    /// When it was made, in nanoseconds since 1970.
    pub created_ns: u64,
    /// It is the pod's pause container, of which nothing is in the guest.
    pub pause: bool,
    /// Its first process.
    #[serde(flatten)]
    pub process: ProcessInspection,
    /// The processes that were added, by id.
    pub execs: Vec<ExecInspection>,
}

/// An added process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecInspection {
    /// Its id.
    pub id: String,
    /// What it does.
    #[serde(flatten)]
    pub process: ProcessInspection,
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInspection {
    /// `created`, `running`, `paused` or `stopped`.
    pub status: String,
    /// It has a terminal.
    pub terminal: bool,
    /// How it ended, once it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<u32>,
    /// When, in nanoseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exited_ns: Option<u64>,
}

impl From<ProcessState> for ProcessInspection {
    fn from(state: ProcessState) -> Self {
        let status = match state.status {
            ProcessStatus::Created => "created",
            ProcessStatus::Running => "running",
            ProcessStatus::Paused => "paused",
            ProcessStatus::Stopped => "stopped",
        };
        Self {
            status: status.to_owned(),
            terminal: state.terminal,
            exit_status: state.exit.map(|exit| exit.status),
            exited_ns: state.exit.map(|Exit { at, .. }| nanos(at)),
        }
    }
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl Driver {
    /// All that the host knows.
    pub(crate) fn inspection(&mut self) -> Inspection {
        let (status, reason) = match &self.stage {
            Stage::Starting(_) => (SandboxStatus::Starting, None),
            Stage::Running(_) => (SandboxStatus::Running, None),
            Stage::Stopped(stopped) => (SandboxStatus::Stopped, Some(stopped.reason.to_string())),
        };
        let pid = self.pid();
        let keys: Vec<_> = self.containers.0.iter().map(|(id, made)| (id.clone(), execs(made))).collect();
        let mut containers: Vec<_> = keys
            .into_iter()
            .filter_map(|(id, execs)| {
                let process = self.containers.state(&Key::new(&id, None), pid).ok()?.into();
                let execs = execs.into_iter().filter_map(|exec| {
                    let process = self.containers.state(&Key::new(&id, Some(&exec)), pid).ok()?.into();
                    Some(ExecInspection { id: exec.to_string(), process })
                });
                let execs = execs.collect();
                let made = self.containers.container(&id).ok()?;
                let (bundle, created_ns, pause) = (made.bundle.clone(), nanos(made.created), made.is_pause);
                Some(ContainerInspection { id: id.to_string(), bundle, created_ns, pause, process, execs })
            })
            .collect();
        containers.sort_by(|one, other| (one.created_ns, &one.id).cmp(&(other.created_ns, &other.id)));
        let size = Some(self.sizing.plan().clone());
        Inspection { id: self.site.id.to_string(), status, reason, pid, size, containers }
    }
}

fn execs(container: &crate::process::Container) -> Vec<crate::ExecId> {
    let mut ids: Vec<_> = container.execs.keys().cloned().collect();
    ids.sort_by(|one, other| one.as_str().cmp(other.as_str()));
    ids
}
