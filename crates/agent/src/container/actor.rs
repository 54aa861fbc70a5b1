//! The task that owns a container: which request is allowed in which state, and what it does.

use std::sync::Arc;

use kata_protocol::{kata, oci};
use tokio::sync::mpsc;

use super::launch::{Launched, Launcher, Start};
use super::process::{Process, Table};
use super::{Command, ContainerError, ProcessId, Reply, Result, State, Target, spec};
use crate::cgroup::Cgroup;
use crate::id::{ContainerId, ExecId};
use crate::reaper::Exit;
use crate::signals::Signal;
use crate::stdio::{ChildEnds, Prepared, Stdio};
use crate::storage::Mounts;
use crate::task::Task;

/// A container that the jail has made, before it is started.
#[derive(Debug)]
pub(crate) struct Parts {
    /// Its name.
    pub(crate) id: ContainerId,
    /// Its cgroup.
    pub(crate) cgroup: Cgroup,
    /// Who looks for a lack of memory in it.
    pub(crate) oom: Option<Task>,
    /// What was mounted for it.
    pub(crate) mounts: Mounts,
    /// What holds for further processes too.
    pub(crate) common: Arc<oci::Spec>,
    /// The host's rules for its devices.
    pub(crate) device_rules: Arc<[oci::LinuxDeviceCgroup]>,
    /// Makes further processes.
    pub(crate) launcher: Arc<Launcher>,
    /// Starts it; taken when that has been done.
    pub(crate) start: Option<Start>,
}

/// A process that has been made: its id in the guest, its end, its streams.
pub(crate) type Made = (i32, Exit, Stdio);

struct Actor {
    parts: Parts,
    state: State,
    processes: Table,
    /// Who waits for the container to stand still, until no process is being made any more: half made in a frozen
    /// cgroup, it would never be.
    pausing: Vec<Reply<()>>,
    commands: mpsc::WeakSender<Command>,
}

/// Serves the container until it is removed.
pub(super) async fn run(
    parts: Parts,
    init: Made,
    mut queue: mpsc::Receiver<Command>,
    commands: mpsc::Sender<Command>,
) {
    tokio::spawn(announce_end(init.1.clone(), commands.clone()));
    let (pid, exit, stdio) = init;
    let processes = Table::new(Process { pid, exit, stdio });
    let pausing = Vec::new();
    let mut actor =
        Actor { parts, state: State::Created, processes, pausing, commands: commands.downgrade() };
    drop(commands);
    while let Some(command) = queue.recv().await {
        if let Command::Remove(reply) = command {
            let removed = actor.remove().await;
            let done = removed.is_ok();
            answer(reply, removed);
            if done {
                return;
            }
        } else {
            actor.handle(command).await;
        }
    }
}

async fn announce_end(mut exit: Exit, commands: mpsc::Sender<Command>) {
    exit.wait().await;
    // The container may be gone by now.
    let _ = commands.send(Command::InitEnded).await;
}

/// Who asked may have left.
fn answer<T>(reply: Reply<T>, result: Result<T>) {
    let _ = reply.send(result);
}

impl Actor {
    async fn handle(&mut self, command: Command) {
        match command {
            Command::Start(reply) => answer(reply, self.start()),
            Command::Exec { exec, process, stdio, reply } => self.exec(exec, *process, *stdio, reply),
            Command::ExecMade { exec, made, reply } => {
                match made {
                    Ok(made) if reply.is_closed() => self.give_up(&exec, &made),
                    made => answer(reply, self.exec_made(&exec, made)),
                }
                self.pause().await;
            }
            Command::Signal { target, signal, reply } => answer(reply, self.signal(target, signal)),
            Command::Exit { process, reply } => {
                answer(reply, self.get(&process).map(|found| found.exit.clone()));
            }
            Command::Pause(reply) => {
                self.pausing.push(reply);
                self.pause().await;
            }
            Command::Resume(reply) => answer(reply, self.resume().await),
            Command::Resize { process, rows, columns, reply } => {
                answer(reply, self.resize(process, rows, columns));
            }
            Command::Stdin { process, reply } => {
                answer(reply, self.get(&process).and_then(|found| Ok(found.stdio.stdin()?)));
            }
            Command::Output { process, error, reply } => {
                let pick = |found: &Process| if error { found.stdio.stderr() } else { found.stdio.stdout() };
                answer(reply, self.get(&process).and_then(|found| Ok(pick(found)?)));
            }
            Command::CloseStdin { process, reply } => answer(reply, self.close_stdin(&process)),
            Command::Pids(reply) => answer(reply, Ok(self.pids())),
            Command::InitEnded => self.init_ended(),
            Command::Remove(_) => unreachable!("the loop keeps it, as it ends the actor"),
        }
    }

    /// Refuses what the state does not allow.
    fn allow(&self, verb: &'static str, states: &[State]) -> Result<()> {
        // The notice of the end may still be in the queue.
        let ended = self.processes.init().exit.code().is_some();
        let state = match self.state {
            _ if ended => State::Stopped,
            State::Running if !self.pausing.is_empty() => State::Paused,
            state => state,
        };
        if states.contains(&state) {
            return Ok(());
        }
        Err(ContainerError::State { container: self.parts.id.clone(), verb, state })
    }

    fn get(&self, process: &ProcessId) -> Result<&Process> {
        let missing =
            || ContainerError::NoProcess { container: self.parts.id.clone(), process: process.clone() };
        self.processes.get(process).ok_or_else(missing)
    }

    fn start(&mut self) -> Result<()> {
        self.allow("start", &[State::Created])?;
        let pid = self.processes.init().pid;
        if let Some(start) = self.parts.start.take() {
            start.go().map_err(|source| ContainerError::System { verb: "start", pid, source })?;
        }
        self.state = State::Running;
        tracing::debug!(container = %self.parts.id, pid, "Started");
        Ok(())
    }

    /// Begins an exec; the actor stays free meanwhile, so that many can be made at once.
    fn exec(&mut self, exec: ExecId, process: oci::Process, stdio: (Prepared, ChildEnds), reply: Reply<i32>) {
        if let Err(error) = self.allow("run a process in", &[State::Running]) {
            return answer(reply, Err(error));
        }
        if !self.processes.reserve(&exec) {
            let container = self.parts.id.clone();
            return answer(reply, Err(ContainerError::ProcessExists { container, exec }));
        }
        let launcher = Arc::clone(&self.parts.launcher);
        let place = (self.processes.init().pid, self.parts.cgroup.clone());
        let commands = self.commands.clone();
        let plan = spec::of_added(&self.parts.common, process);
        tokio::spawn(async move {
            let made = make_exec(&launcher, place, plan, stdio).await;
            if let Some(commands) = commands.upgrade() {
                // If the container is gone, so is the process.
                let _ = commands.send(Command::ExecMade { exec, made, reply }).await;
            }
        });
    }

    fn exec_made(&mut self, exec: &ExecId, made: Result<Made>) -> Result<i32> {
        match made {
            Ok((pid, exit, stdio)) => {
                self.processes.fill(exec, Process { pid, exit, stdio });
                tracing::debug!(container = %self.parts.id, %exec, pid, "Added");
                Ok(pid)
            }
            Err(error) => {
                self.processes.release(exec);
                // It may have failed because the container ended.
                self.allow("run a process in", &[State::Running, State::Paused])?;
                Err(error)
            }
        }
    }

    /// Whoever wanted it has been told that it was not made in time.
    fn give_up(&mut self, exec: &ExecId, (pid, exit, _): &Made) {
        self.processes.release(exec);
        if exit.code().is_none()
            && let Err(error) = Signal::KILL.send(*pid)
        {
            tracing::warn!(container = %self.parts.id, %exec, pid, %error, "A process that nobody waits for is left");
        }
    }

    fn signal(&self, target: Target, signal: Signal) -> Result<()> {
        match target {
            Target::All if signal == Signal::KILL => Ok(self.parts.cgroup.kill()?),
            Target::All => {
                self.parts.cgroup.signal(signal);
                Ok(())
            }
            Target::One(process) => {
                let found = self.get(&process)?;
                if found.exit.code().is_some() {
                    return Err(ContainerError::NoProcess { container: self.parts.id.clone(), process });
                }
                let pid = found.pid;
                let sent = signal.send(pid);
                sent.map_err(|source| ContainerError::System { verb: "signal", pid, source })
            }
        }
    }

    /// Answers all who asked for a pause, as soon as that is possible.
    async fn pause(&mut self) {
        // Who has given up has been told that it is not paused.
        self.pausing.retain(|reply| !reply.is_closed());
        if self.pausing.is_empty() || self.processes.is_making() {
            return;
        }
        for reply in std::mem::take(&mut self.pausing) {
            answer(reply, self.freeze().await);
        }
    }

    async fn freeze(&mut self) -> Result<()> {
        self.allow("pause", &[State::Running])?;
        if let Err(error) = self.parts.cgroup.freeze().await {
            // Half frozen is worse than running.
            self.parts.cgroup.thaw().await?;
            return Err(error.into());
        }
        self.state = State::Paused;
        Ok(())
    }

    async fn resume(&mut self) -> Result<()> {
        self.allow("resume", &[State::Paused])?;
        // Those that wait for a pause would have it after this.
        for reply in std::mem::take(&mut self.pausing) {
            answer(reply, self.allow("pause", &[]));
        }
        self.parts.cgroup.thaw().await?;
        self.state = State::Running;
        Ok(())
    }

    fn resize(&self, process: ProcessId, rows: u16, columns: u16) -> Result<()> {
        let found = self.get(&process)?;
        let pid = found.pid;
        let Some(terminal) = found.stdio.terminal() else {
            return Err(ContainerError::NoTerminal { container: self.parts.id.clone(), process });
        };
        let resized = terminal.resize(rows, columns);
        resized.map_err(|source| ContainerError::System { verb: "resize the terminal of", pid, source })
    }

    fn close_stdin(&mut self, process: &ProcessId) -> Result<()> {
        self.get(process)?;
        if let Some(found) = self.processes.get_mut(process) {
            found.stdio.close_stdin();
        }
        Ok(())
    }

    fn pids(&self) -> Vec<kata::PidInfo> {
        let names = self.processes.names();
        let info = |pid| kata::PidInfo {
            pid,
            exec_id: names.get(&pid).cloned().unwrap_or_default(),
            ..Default::default()
        };
        self.parts.cgroup.pids().into_iter().map(info).collect()
    }

    /// With a pid namespace of its own the kernel has ended the rest; without, the agent does.
    fn init_ended(&mut self) {
        self.state = State::Stopped;
        let status = self.processes.init().exit.code();
        tracing::debug!(container = %self.parts.id, status, "Ended");
        if let Err(error) = self.parts.cgroup.kill() {
            tracing::warn!(container = %self.parts.id, %error, "Processes may be left");
        }
    }

    async fn remove(&mut self) -> Result<()> {
        self.parts.cgroup.remove().await?;
        drop(self.parts.oom.take());
        // They have ended; that they are gone from the list of processes, too, is part of nothing being left.
        for mut exit in self.processes.exits() {
            exit.wait().await;
        }
        self.parts.mounts.undo().await;
        tracing::debug!(container = %self.parts.id, "Removed");
        Ok(())
    }
}

async fn make_exec(
    launcher: &Launcher,
    (init, cgroup): (i32, Cgroup),
    plan: oci::Spec,
    (prepared, ends): (Prepared, ChildEnds),
) -> Result<Made> {
    let size = plan.Process.ConsoleSize.clone().into_option();
    let Launched { pid, exit, terminal, .. } = launcher.exec(&plan, (init, &cgroup), ends).await?;
    Ok((pid, exit, prepared.connect(terminal, size)?))
}
