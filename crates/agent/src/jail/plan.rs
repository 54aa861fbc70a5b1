//! What the agent tells the jail, and what the jail answers.

use std::path::PathBuf;

use oci_spec::runtime::Process;
use serde::{Deserialize, Serialize};

/// Where `libcontainer` looks for cgroups.
pub(crate) const CGROUP_MOUNT: &str = "/sys/fs/cgroup";

/// One job.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Plan {
    /// Make a container; its process waits for the notify socket.
    Create(Create),
    /// Run a process in a running container.
    Exec(Box<Exec>),
}

/// What both jobs need.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Place {
    /// The container.
    pub(crate) container_id: String,
    /// Where `libcontainer` keeps its state, one folder per container.
    pub(crate) state_dir: PathBuf,
    /// The socket that is sent the terminal, if the process has one.
    pub(crate) console: Option<PathBuf>,
    /// The cgroup v2 hierarchy, unless it is mounted at [`CGROUP_MOUNT`].
    pub(crate) cgroup_root: Option<PathBuf>,
}

/// See [`Plan::Create`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Create {
    /// Where.
    pub(crate) place: Place,
    /// The folder with the container's `config.json`.
    pub(crate) bundle: PathBuf,
    /// The container's root file system.
    pub(crate) root: PathBuf,
    /// Where its process begins.
    pub(crate) cwd: PathBuf,
}

/// See [`Plan::Exec`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Exec {
    /// Where.
    pub(crate) place: Place,
    /// What to run.
    pub(crate) process: Process,
}

/// How it went.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// The process is there.
    Started {
        /// Its id in the agent's pid namespace.
        pid: i32,
        /// When the jail began, in microseconds since the guest's kernel started.
        began: u64,
    },
    /// It is not.
    Failed {
        /// Why, for people.
        message: String,
    },
}
