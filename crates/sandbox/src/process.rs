//! What the owning task knows of a process and of a container.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use crate::command::{CreateContainer, ExecSpec, Exit, Key, ProcessState, ProcessStatus, Reply};
use crate::error::{Result, SandboxError as Error};
use crate::hooks::Hooks;
use crate::state::{Phase, Verb};
use crate::stdio::Pumps;
use crate::{ContainerId, ExecId};

/// One process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) phase: Phase,
    pub(crate) terminal: bool,
    pub(crate) exit: Option<Exit>,
    /// Its end, learnt of before the answer to its start.
    pub(crate) early_exit: Option<Exit>,
    /// Who waits for its end.
    pub(crate) waiters: Vec<Reply<Exit>>,
    /// Who wants it killed while it is being made.
    pub(crate) killers: Vec<Reply<()>>,
    /// Gone at its end.
    life: Option<watch::Sender<()>>,
    /// Its streams, once they are copied.
    pub(crate) pumps: Pumps,
    /// What to run, until it is started.
    pub(crate) to_start: Option<Box<ExecSpec>>,
    /// A terminal's size that was asked for before there was a process.
    pub(crate) size: Option<(u32, u32)>,
}

/// A container: its first process and those that were added.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) init: Process,
    pub(crate) execs: HashMap<ExecId, Process>,
    pub(crate) hooks: Arc<Hooks>,
    /// It is the pod's pause container, of which nothing is in the guest (`pause.rs`).
    pub(crate) is_pause: bool,
    /// The directory of its `config.json`.
    pub(crate) bundle: PathBuf,
    /// When it was asked for.
    pub(crate) created: SystemTime,
    /// Who wants it removed while it is being made.
    pub(crate) removers: Vec<Reply<Exit>>,
}

impl Process {
    pub(crate) fn new(phase: Phase, terminal: bool) -> Self {
        Self {
            phase,
            terminal,
            exit: None,
            early_exit: None,
            waiters: Vec::new(),
            killers: Vec::new(),
            life: Some(watch::Sender::new(())),
            pumps: Pumps::default(),
            to_start: None,
            size: None,
        }
    }

    /// Ready once it has ended.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let life = self.life.as_ref().map(watch::Sender::subscribe);
        async move {
            if let Some(mut life) = life {
                // Nothing is ever sent: it changes by going.
                life.changed().await.ok();
            }
        }
    }

    /// Notes its end and tells those who wait for it.
    pub(crate) fn end(&mut self, exit: Exit) {
        self.exit = Some(exit);
        self.life = None;
        if self.phase != Phase::Deleting {
            self.phase = Phase::Stopped;
        }
        for waiter in self.waiters.drain(..) {
            // Who waited may have gone.
            waiter.send(Ok(exit)).ok();
        }
        for killer in self.killers.drain(..) {
            killer.send(Ok(())).ok();
        }
    }
}

impl Container {
    pub(crate) fn new(request: &CreateContainer, hooks: Arc<Hooks>) -> Self {
        Self {
            init: Process::new(Phase::Creating, request.stdio.terminal),
            execs: HashMap::new(),
            hooks,
            is_pause: request.is_pause,
            bundle: request.bundle.clone(),
            created: SystemTime::now(),
            removers: Vec::new(),
        }
    }
}

/// The containers of a sandbox.
#[derive(Debug, Default)]
pub(crate) struct Containers(pub(crate) HashMap<ContainerId, Container>);

impl Containers {
    pub(crate) fn container(&mut self, id: &ContainerId) -> Result<&mut Container> {
        self.0.get_mut(id).ok_or_else(|| Error::NoContainer { id: id.to_string() })
    }

    pub(crate) fn process(&mut self, key: &Key) -> Result<&mut Process> {
        let container = self.container(&key.container)?;
        match &key.exec {
            None => Ok(&mut container.init),
            Some(exec) => container
                .execs
                .get_mut(exec)
                .ok_or_else(|| Error::NoProcess { id: key.container.to_string(), exec: exec.to_string() }),
        }
    }

    /// Whether nothing of this container is in the guest.
    pub(crate) fn is_pause(&self, id: &ContainerId) -> bool {
        self.0.get(id).is_some_and(|container| container.is_pause)
    }

    /// The process, if `verb` may be asked of it now.
    pub(crate) fn allowing(&mut self, key: &Key, verb: Verb) -> Result<&mut Process> {
        let process = self.process(key)?;
        let phase = process.phase;
        if phase.allows(verb) {
            return Ok(process);
        }
        if verb == Verb::Kill && matches!(phase, Phase::Stopped | Phase::Deleting) {
            return Err(Error::Finished { id: key.to_string() });
        }
        Err(Error::NotAllowed { verb, id: key.to_string(), phase })
    }

    pub(crate) fn state(&mut self, key: &Key, pid: u32) -> Result<ProcessState> {
        let frozen = self.container(&key.container)?.init.phase == Phase::Paused;
        let process = self.process(key)?;
        let status = match process.phase.into() {
            // Freezing a container freezes its added processes.
            ProcessStatus::Running if frozen => ProcessStatus::Paused,
            status => status,
        };
        Ok(ProcessState { status, pid, exit: process.exit, terminal: process.terminal })
    }

    /// Every process that has not ended, with whether anybody was told that it runs.
    pub(crate) fn living(&self) -> Vec<(Key, bool)> {
        let mut keys = Vec::new();
        for (id, container) in &self.0 {
            if container.init.phase.is_alive() {
                keys.push((Key::new(id, None), true));
            }
            for (exec, process) in &container.execs {
                if process.phase.is_alive() {
                    keys.push((Key::new(id, Some(exec)), process.phase != Phase::Created));
                }
            }
        }
        keys
    }
}
