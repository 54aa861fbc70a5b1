//! What the owning task does when somebody wants something.

use std::sync::Arc;

use oci_spec::runtime::LinuxResources;

use crate::command::{Command, CreateContainer, Created, ExecSpec, Exit, Key, PidInfo, Reply};
use crate::driver::{Driver, Stage, Undone};
use crate::error::{Result, SandboxError as Error};
use crate::hooks::Hooks;
use crate::jobs::{Happening, Queue, Reach, SIGKILL, Site};
use crate::pause::no_processes;
use crate::process::{Container, Process};
use crate::state::{Phase, Verb};
use crate::stats::Stats;
use crate::{ContainerId, ExecId};

/// A process that is being started.
struct Begun {
    reach: Reach,
    /// What to run, if it is an added one.
    to_start: Option<Box<ExecSpec>>,
    hooks: Arc<Hooks>,
}

impl Driver {
    pub(crate) fn on_command(&mut self, command: Command) {
        match command {
            Command::Boot { hostname, reply } => self.boot(hostname, reply),
            Command::Create { request, reply } => self.create(*request, reply),
            Command::Start { key, reply } => self.start(key, reply),
            Command::Exec { container, request, reply } => {
                let result = self.exec(&container, request);
                reply.send(result).ok();
            }
            Command::State { key, reply } => {
                let pid = self.pid();
                reply.send(self.containers.state(&key, pid)).ok();
            }
            Command::Kill { key, signal, all, reply } => self.kill(&key, signal, all, reply),
            Command::Delete { key, reply } => self.delete(key, reply),
            Command::Wait { key, reply } => self.wait(&key, reply),
            Command::Pause { container, reply } => self.freeze(container, true, reply),
            Command::Resume { container, reply } => self.freeze(container, false, reply),
            Command::Pids { container, reply } => self.pids(&container, reply),
            Command::Stats { container, reply } => self.stats(&container, reply),
            Command::Update { container, resources, reply } => self.update(&container, resources, reply),
            Command::Resize { key, width, height, reply } => self.resize(&key, width, height, reply),
            Command::CloseIo { key, reply } => {
                let process = self.containers.allowing(&key, Verb::CloseIo);
                reply.send(process.map(|process| process.pumps.close_input())).ok();
            }
            Command::AgentAddress { reply } => {
                let address = self.running().and_then(|reach| reach.dialer.address().ok_or(Error::NoAddress));
                reply.send(address).ok();
            }
            Command::Interfaces { reply } => {
                self.ask_guest(reply, async |site, reach| site.interfaces(&reach).await);
            }
            Command::Routes { reply } => self.ask_guest(reply, async |_, reach| reach.agent.routes().await),
            Command::ChangeNetwork { change, reply } => {
                self.ask_guest(reply, async |site, reach| site.change_network(&reach, *change).await);
            }
            Command::PacketFilter { v6, reply } => {
                self.ask_guest(reply, async move |_, reach| reach.agent.packet_filter(v6).await);
            }
            Command::SetPacketFilter { v6, rules, reply } => {
                self.ask_guest(reply, async move |_, reach| reach.agent.set_packet_filter(v6, rules).await);
            }
            Command::VolumeStats { volume, reply } => {
                self.ask_guest(reply, async move |site, reach| site.volume_stats(&reach, &volume).await);
            }
            Command::ResizeVolume { volume, bytes, reply } => {
                self.ask_guest(reply, async move |site, reach| {
                    site.resize_volume(&reach, &volume, bytes).await
                });
            }
            Command::Shutdown { reply } => self.undo_everything(Undone::Shutdown(reply), "it is shut down"),
        }
    }

    /// A guest that does not even take a SIGKILL in time is hung: its VM is killed, so that nothing stays for ever.
    ///
    /// What is still being made is killed once it is made; is it the first container, there is nothing else in the VM,
    /// which may boot for long: then it is the VM that is killed.
    pub(crate) fn kill(&mut self, key: &Key, signal: u32, all: bool, reply: Reply<()>) {
        if signal == SIGKILL
            && let Ok(process) = self.containers.process(key)
            && process.phase == Phase::Creating
        {
            process.killers.push(reply);
            if matches!(self.stage, Stage::Starting(_)) {
                let machine = self.site.boot.borrow().machine();
                self.on_death(machine, &"its first container was killed while it was being created".into());
            }
            return;
        }
        if self.is_pause(key) {
            return self.kill_pause(key, signal, reply);
        }
        let site = self.site.clone();
        self.ask(key, Verb::Kill, reply, async move |key, reach| {
            let result = reach.agent.signal(&key, signal, all).await;
            let machine = site.boot.borrow().machine();
            match (result, machine) {
                (Err(Error::Deadline { .. }), Some(machine)) if signal == SIGKILL => {
                    tracing::warn!(container = %key.container, "The guest does not answer: its VM is killed");
                    machine.vmm.kill().await;
                    Ok(())
                }
                // Who kills what has just died has what was wanted.
                (Err(Error::Gone { .. }), _) => Err(Error::Finished { id: key.to_string() }),
                (result, _) => result,
            }
        });
    }

    fn boot(&self, hostname: Option<String>, reply: Reply<u32>) {
        if let Stage::Stopped(stopped) = &self.stage {
            reply.send(Err(Error::Gone { reason: stopped.reason.clone() })).ok();
            return;
        }
        self.spawn(async move |site: Site, queue: Queue| {
            reply.send(site.configure(hostname, &queue).await).ok();
        });
    }

    fn create(&mut self, request: CreateContainer, reply: Reply<Created>) {
        let id = request.id.clone();
        if self.containers.0.contains_key(&id) {
            reply.send(Err(Error::Exists { what: "container", id: id.to_string() })).ok();
            return;
        }
        if let Stage::Stopped(stopped) = &self.stage {
            let error = Error::Gone { reason: stopped.reason.clone() };
            self.refuse_creation(error, reply);
            return;
        }
        if !request.is_pause {
            self.site.host.foresee(&request.rootfs);
        }
        let hooks = Hooks::of(&id, &request.bundle, &request.spec);
        let container = Container::new(request.stdio.terminal, Arc::clone(&hooks), request.is_pause);
        self.containers.0.insert(id.clone(), container);
        self.spawn(async move |site: Site, queue: Queue| {
            let result = match request.is_pause {
                true => site.create_pause(request, &hooks, &queue).await.map(|()| None),
                false => Box::pin(site.create(request, &hooks, &queue)).await,
            };
            queue.report(Happening::Created { id, result, reply }).await;
        });
    }

    /// The sandbox has ended: if nothing is in it, it is undone before that is told.
    fn refuse_creation(&mut self, error: Error, reply: Reply<Created>) {
        if self.containers.0.is_empty() {
            self.undo_everything(Undone::Failed(reply, error), "it never ran");
        } else {
            reply.send(Err(error)).ok();
        }
    }

    fn start(&mut self, key: Key, reply: Reply<u32>) {
        let begun = match self.begin_start(&key) {
            Ok(begun) => begun,
            Err(error) => {
                reply.send(Err(error)).ok();
                return;
            }
        };
        let is_pause = self.is_pause(&key);
        self.spawn(async move |site: Site, queue: Queue| {
            let Begun { reach, to_start, hooks } = begun;
            let result = match to_start {
                Some(spec) => Box::pin(site.exec(&key, *spec, &reach)).await.map(Some),
                None if is_pause => site.start_pause(&key, &reach, &hooks, &queue).await.map(|()| None),
                None => site.start(&key, &reach, &hooks).await.map(|()| None),
            };
            queue.report(Happening::Started { key, result, reply }).await;
        });
    }

    fn begin_start(&mut self, key: &Key) -> Result<Begun> {
        if key.exec.is_some() {
            self.containers.allowing(&Key::new(&key.container, None), Verb::Exec)?;
        }
        self.containers.allowing(key, Verb::Start)?;
        let reach = self.running()?;
        let process = self.containers.process(key)?;
        process.phase = Phase::Starting;
        let to_start = process.to_start.take();
        Ok(Begun { reach, to_start, hooks: Arc::clone(&self.containers.container(&key.container)?.hooks) })
    }

    fn exec(&mut self, container: &ContainerId, request: Box<ExecSpec>) -> Result<()> {
        let key = Key::new(container, None);
        self.containers.allowing(&key, Verb::Exec)?;
        if self.is_pause(&key) {
            return Err(no_processes(Verb::Exec, &key));
        }
        let execs = &mut self.containers.container(container)?.execs;
        if execs.contains_key(&request.id) {
            return Err(Error::Exists { what: "process", id: request.id.to_string() });
        }
        let id: ExecId = request.id.clone();
        let mut process = Process::new(Phase::Created, request.stdio.terminal);
        process.to_start = Some(request);
        execs.insert(id, process);
        Ok(())
    }

    fn delete(&mut self, key: Key, reply: Reply<Exit>) {
        let reach = self.reach();
        let process = match self.containers.allowing(&key, Verb::Delete) {
            Ok(process) => process,
            Err(error) => {
                reply.send(Err(error)).ok();
                return;
            }
        };
        let alive = process.phase == Phase::Created;
        if alive && key.exec.is_some() {
            // Never started: nothing is anywhere but here.
            process.end(Exit::now(0));
        }
        process.phase = Phase::Deleting;
        let drain = process.pumps.drain();
        let reach = reach.filter(|_| !self.is_pause(&key));
        self.spawn(async move |site: Site, queue: Queue| {
            let result = if key.exec.is_some() {
                drain.finish(&key).await;
                Ok(())
            } else {
                let guest = reach.map(|reach| (reach.agent, alive));
                site.delete(&key.container, guest, drain).await
            };
            queue.report(Happening::Deleted { key, result, reply }).await;
        });
    }

    fn wait(&mut self, key: &Key, reply: Reply<Exit>) {
        match self.containers.process(key) {
            Err(error) => drop(reply.send(Err(error))),
            Ok(process) => match process.exit {
                Some(exit) => drop(reply.send(Ok(exit))),
                None => process.waiters.push(reply),
            },
        }
    }

    fn freeze(&mut self, container: ContainerId, freeze: bool, reply: Reply<()>) {
        let (verb, phase) =
            if freeze { (Verb::Pause, Phase::Paused) } else { (Verb::Resume, Phase::Running) };
        let key = Key::new(&container, None);
        if self.is_pause(&key) {
            return self.freeze_pause(&key, (verb, phase), reply);
        }
        let allowed = self.containers.allowing(&key, verb).map(drop);
        let reach = match allowed.and_then(|()| self.running()) {
            Ok(reach) => reach,
            Err(error) => {
                reply.send(Err(error)).ok();
                return;
            }
        };
        self.spawn(async move |_: Site, queue: Queue| {
            let result = match freeze {
                true => reach.agent.pause(container.as_str()).await,
                false => reach.agent.resume(container.as_str()).await,
            };
            queue.report(Happening::Frozen { container, phase, result, reply }).await;
        });
    }

    fn pids(&mut self, container: &ContainerId, reply: Reply<Vec<PidInfo>>) {
        let key = Key::new(container, None);
        if self.is_pause(&key) {
            return self.pids_of_pause(&key, reply);
        }
        self.ask(&key, Verb::Pids, reply, async |key, reach| reach.agent.pids(key.container.as_str()).await);
    }

    fn stats(&mut self, container: &ContainerId, reply: Reply<Stats>) {
        let key = Key::new(container, None);
        if self.is_pause(&key) {
            return self.stats_of_pause(&key, reply);
        }
        self.ask(&key, Verb::Stats, reply, async |key, reach| {
            reach.agent.stats(key.container.as_str()).await
        });
    }

    fn update(&mut self, container: &ContainerId, resources: Box<LinuxResources>, reply: Reply<()>) {
        let key = Key::new(container, None);
        if self.is_pause(&key) {
            return self.update_pause(&key, reply);
        }
        self.ask(&key, Verb::Update, reply, async move |key, reach| {
            reach.agent.update(key.container.as_str(), &resources).await
        });
    }

    fn resize(&mut self, key: &Key, width: u32, height: u32, reply: Reply<()>) {
        if self.is_pause(key) {
            reply.send(Err(no_processes(Verb::Resize, key))).ok();
            return;
        }
        if let Ok(process) = self.containers.allowing(key, Verb::Resize) {
            let is_later = key.exec.is_some() && matches!(process.phase, Phase::Created | Phase::Starting);
            if is_later {
                process.size = Some((width, height));
            }
            // Whoever resizes a terminal cannot know that its last process has just ended.
            if is_later || process.phase == Phase::Stopped {
                reply.send(Ok(())).ok();
                return;
            }
        }
        self.ask(key, Verb::Resize, reply, async move |key, reach| {
            reach.agent.resize(&key, width, height).await
        });
    }

    /// A request that changes nothing here: if it is allowed, the agent is asked, and its answer is the answer.
    fn ask<T, F>(&mut self, key: &Key, verb: Verb, reply: Reply<T>, request: impl FnOnce(Key, Reach) -> F)
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let allowed = self.containers.allowing(key, verb).map(drop);
        match allowed.and_then(|()| self.running()) {
            Err(error) => drop(reply.send(Err(error))),
            Ok(reach) => {
                let answer = request(key.clone(), reach);
                self.spawn(async move |_: Site, _: Queue| drop(reply.send(answer.await)));
            }
        }
    }

    /// A request about the sandbox as a whole, whose answer is the guest's.
    fn ask_guest<T, F>(&self, reply: Reply<T>, request: impl FnOnce(Site, Reach) -> F)
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        match self.running() {
            Err(error) => drop(reply.send(Err(error))),
            Ok(reach) => {
                let answer = request(self.site.clone(), reach);
                self.spawn(async move |_: Site, _: Queue| drop(reply.send(answer.await)));
            }
        }
    }

    fn running(&self) -> Result<Reach> {
        match &self.stage {
            Stage::Running(running) => Ok(running.reach.clone()),
            Stage::Stopped(stopped) => Err(Error::Gone { reason: stopped.reason.clone() }),
            Stage::Starting(_) => Err(Error::Starting),
        }
    }
}
