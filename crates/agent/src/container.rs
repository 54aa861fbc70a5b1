//! Containers: one actor each, reached through a handle.

mod actor;
pub(crate) mod devices;
pub(crate) mod holder;
pub(crate) mod launch;
mod privilege;
mod process;
pub(crate) mod sharing;
pub(crate) mod spec;

use std::sync::Arc;

use kata_protocol::kata;
use kata_protocol::oci::{LinuxDeviceCgroup, LinuxResources, Process, Spec};
use tokio::sync::{mpsc, oneshot};

use crate::cgroup::{self, Cgroup};
use crate::id::{ContainerId, ExecId};
use crate::reaper::Exit;
use crate::signals::Signal;
use crate::stdio::ends::{Reader, Writer};
use crate::stdio::{self, Prepared, Request};
use crate::traffic;

pub(crate) use actor::{Made, Parts};

/// Requests that wait for an actor. It answers in microseconds, except while it pauses or ends a container.
const QUEUE: usize = 64;

/// Why a request to a container failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContainerError {
    /// The state does not allow it.
    #[error("Cannot {verb} container {container}: it is {state}")]
    State { container: ContainerId, verb: &'static str, state: State },
    /// No such process.
    #[error("Container {container} has no process {process}")]
    NoProcess { container: ContainerId, process: ProcessId },
    /// The name is taken.
    #[error("Container {container} already has a process {exec}; choose another exec id")]
    ProcessExists { container: ContainerId, exec: ExecId },
    /// The process has no terminal.
    #[error("Process {process} of container {container} has no terminal to resize")]
    NoTerminal { container: ContainerId, process: ProcessId },
    /// The container went away in the meantime.
    #[error("The container was removed in the meantime")]
    Removed,
    /// A signal could not be sent, or a container not be released.
    #[error("Cannot {verb} process {pid}")]
    System { verb: &'static str, pid: i32, source: std::io::Error },
    /// The cgroup failed.
    #[error(transparent)]
    Cgroup(#[from] cgroup::CgroupError),
    /// The jail failed.
    #[error(transparent)]
    Launch(#[from] launch::LaunchError),
    /// A stream failed.
    #[error(transparent)]
    Stdio(#[from] stdio::StdioError),
}

/// Result of a request to a container.
pub(crate) type Result<T> = std::result::Result<T, ContainerError>;

/// Where a container stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Its first process waits to be started.
    Created,
    /// It runs.
    Running,
    /// All its processes stand still.
    Paused,
    /// Its first process has ended.
    Stopped,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Created => "not started yet",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// One process of a container.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ProcessId {
    /// The first.
    Init,
    /// One that was added.
    Exec(ExecId),
}

impl std::fmt::Display for ProcessId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Init => f.write_str("(init)"),
            Self::Exec(exec) => exec.fmt(f),
        }
    }
}

/// Whom a signal is for.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// One process.
    One(ProcessId),
    /// Every process in the container's cgroup.
    All,
}

type Reply<T> = oneshot::Sender<Result<T>>;

/// What can be asked of a container.
#[derive(Debug)]
enum Command {
    Start(Reply<()>),
    Exec {
        exec: ExecId,
        process: Box<Process>,
        stdio: Box<(Prepared, stdio::ChildEnds)>,
        reply: Reply<i32>,
    },
    /// An exec that the actor began has come to its end.
    ExecMade {
        exec: ExecId,
        made: Result<Made>,
        reply: Reply<i32>,
    },
    Signal {
        target: Target,
        signal: Signal,
        reply: Reply<()>,
    },
    Exit {
        process: ProcessId,
        reply: Reply<Exit>,
    },
    Pause(Reply<()>),
    Resume(Reply<()>),
    Resize {
        process: ProcessId,
        rows: u16,
        columns: u16,
        reply: Reply<()>,
    },
    Stdin {
        process: ProcessId,
        reply: Reply<Arc<Writer>>,
    },
    Output {
        process: ProcessId,
        error: bool,
        reply: Reply<Arc<Reader>>,
    },
    CloseStdin {
        process: ProcessId,
        reply: Reply<()>,
    },
    Pids(Reply<Vec<kata::PidInfo>>),
    /// The first process has ended.
    InitEnded,
    Remove(Reply<()>),
}

/// The handle of a container.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    commands: mpsc::Sender<Command>,
    cgroup: Cgroup,
    common: Arc<Spec>,
    device_rules: Arc<[LinuxDeviceCgroup]>,
    pid: i32,
}

impl Container {
    /// Takes charge of a container that the jail has made.
    pub(crate) fn new(parts: Parts, init: Made) -> Self {
        let (commands, queue) = mpsc::channel(QUEUE);
        let container = Self {
            commands: commands.clone(),
            cgroup: parts.cgroup.clone(),
            common: Arc::clone(&parts.common),
            device_rules: Arc::clone(&parts.device_rules),
            pid: init.0,
        };
        tokio::spawn(actor::run(parts, init, queue, commands));
        container
    }

    /// What holds for all its processes.
    pub(crate) fn spec(&self) -> &Spec {
        &self.common
    }

    /// Its first process, by the id in the guest.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Lets the first process become the workload.
    pub(crate) async fn start(&self) -> Result<()> {
        self.ask(Command::Start).await
    }

    /// Runs another process; its id in the guest.
    pub(crate) async fn exec(
        &self,
        exec: ExecId,
        mut process: Process,
        request: Request,
        stdio: (Prepared, stdio::ChildEnds),
    ) -> Result<i32> {
        process.Terminal = request.terminal;
        spec::adapt_process(&mut process);
        let (process, stdio) = (Box::new(process), Box::new(stdio));
        self.ask(|reply| Command::Exec { exec, process, stdio, reply }).await
    }

    /// Sends a signal.
    pub(crate) async fn signal(&self, target: Target, signal: Signal) -> Result<()> {
        self.ask(|reply| Command::Signal { target, signal, reply }).await
    }

    /// The end of a process, to be waited for.
    pub(crate) async fn exit(&self, process: ProcessId) -> Result<Exit> {
        self.ask(|reply| Command::Exit { process, reply }).await
    }

    /// Stops all processes where they are.
    pub(crate) async fn pause(&self) -> Result<()> {
        self.ask(Command::Pause).await
    }

    /// Lets them go on.
    pub(crate) async fn resume(&self) -> Result<()> {
        self.ask(Command::Resume).await
    }

    /// Sets the size of a process's terminal.
    pub(crate) async fn resize(&self, process: ProcessId, rows: u16, columns: u16) -> Result<()> {
        self.ask(|reply| Command::Resize { process, rows, columns, reply }).await
    }

    /// A process's polled standard input.
    pub(crate) async fn stdin(&self, process: ProcessId) -> Result<Arc<Writer>> {
        self.ask(|reply| Command::Stdin { process, reply }).await
    }

    /// A process's polled standard output, or error.
    pub(crate) async fn output(&self, process: ProcessId, error: bool) -> Result<Arc<Reader>> {
        self.ask(|reply| Command::Output { process, error, reply }).await
    }

    /// Ends a process's polled standard input.
    pub(crate) async fn close_stdin(&self, process: ProcessId) -> Result<()> {
        self.ask(|reply| Command::CloseStdin { process, reply }).await
    }

    /// All processes of the container.
    pub(crate) async fn pids(&self) -> Result<Vec<kata::PidInfo>> {
        self.ask(Command::Pids).await
    }

    /// What the container uses; the traffic is the whole guest's.
    pub(crate) fn stats(&self) -> kata::StatsResponse {
        kata::StatsResponse { network: traffic::read(), ..cgroup::stats::read(&self.cgroup) }
    }

    /// What it has used of the CPUs, in microseconds, and uses of memory, in bytes.
    pub(crate) fn uses(&self) -> (u64, u64) {
        cgroup::stats::sums(&self.cgroup)
    }

    /// Changes its limits.
    pub(crate) fn update(&self, limits: &LinuxResources) -> Result<()> {
        Ok(self.cgroup.update(limits, &self.device_rules)?)
    }

    /// Ends all processes and takes everything away that belongs to the container.
    pub(crate) async fn remove(&self) -> Result<()> {
        self.ask(Command::Remove).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| ContainerError::Removed)?;
        answer.await.map_err(|_| ContainerError::Removed)?
    }
}
