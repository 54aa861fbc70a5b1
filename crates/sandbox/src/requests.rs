//! What the owning task does when somebody wants something.

use std::sync::Arc;

use kata_protocol::ports;
use oci_spec::runtime::LinuxResources;

use crate::command::{Command, CreateContainer, Created, ExecSpec, Exit, Key, Parts, PidInfo, Reply};
use crate::cpuset::{self, Cpus};
use crate::driver::{Driver, Stage, Undone};
use crate::error::{Result, SandboxError as Error};
use crate::hooks::Hooks;
use crate::jobs::{Happening, Queue, Reach, SIGKILL, Site};
use crate::pause::no_processes;
use crate::process::{Container, Process};
use crate::sizing::Limits;
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
                self.ask_guest(reply, async |site, reach| site.agent_address(reach.dialer));
            }
            Command::UnconfiguredAgent { reply } => self.unconfigured_agent(reply),
            Command::Console { reply } => {
                self.ask_guest(reply, async |_, reach| match reach.agent.is_foreign() {
                    true => Err(Error::Unsupported { action: "give a shell by way of the shim" }),
                    false => Ok(reach.dialer.connect(ports::CONSOLE).await?.stream),
                });
            }
            Command::GuestLogLevel { level, reply } => {
                self.ask_guest(reply, async move |_, reach| reach.agent.log_level(level).await);
            }
            Command::Inspect { reply } => {
                let inspection = self.inspection();
                reply.send(Ok(inspection)).ok();
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
            Command::Parts { reply } => drop(reply.send(Ok(self.parts()))),
            Command::GuestMetrics { families, patience, reply } => {
                self.ask_guest(reply, async move |_, reach| reach.agent.metrics(families, patience).await);
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
        let ended = self.containers.process(key).map(|process| process.ended());
        self.ask(key, Verb::Kill, reply, async move |key, reach| {
            let sent = async move {
                let result = reach.agent.signal(&key, signal, all).await;
                let machine = site.boot.borrow().machine();
                match (result, machine) {
                    (Err(Error::Deadline { .. }), Some(machine)) if signal == SIGKILL => {
                        tracing::warn!(container = %key.container, "The guest does not answer: its VM is killed");
                        machine.vmm.kill().await;
                        Ok(())
                    }
                    // It has died with its VM, which is what was wanted.
                    (Err(Error::Gone { .. }), _) => Ok(()),
                    (result, _) => result,
                }
            };
            // Not ended half-way: a request that is given up while it is written ends the connection.
            let sent = tokio::spawn(kata_trace::scope(kata_trace::current(), sent));
            tokio::select! {
                biased;
                result = sent => result.unwrap_or(Err(Error::Closed)),
                // The news of its end has overtaken the answer.
                () = ended? => Ok(()),
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

    fn unconfigured_agent(&self, reply: Reply<String>) {
        self.spawn(async move |site: Site, _: Queue| {
            let reached = site.reach().await;
            reply.send(reached.and_then(|reach| site.agent_address(reach.dialer))).ok();
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
        let cpus = match self.cpus(cpuset::of_spec(&request.spec)) {
            Ok(cpus) => cpus,
            Err(error) => return self.refuse_creation(error, reply),
        };
        if !request.is_pause {
            self.site.host.foresee(&request.rootfs);
        }
        let hooks = Hooks::of(&id, &request.bundle, &request.spec);
        let container = Container::new(&request, Arc::clone(&hooks));
        if !request.is_pause {
            self.sizing.demand().add(id.as_str(), Limits::of_spec(&request.spec));
            self.pinning.set(&id, cpus);
        }
        self.containers.0.insert(id.clone(), container);
        // The VM was made for the first one.
        let change = self.change_of_size();
        self.spawn(async move |site: Site, queue: Queue| {
            let create = async {
                if let Some(change) = change {
                    change.grow().await?;
                }
                match request.is_pause {
                    true => site.create_pause(request, &hooks, &queue).await.map(|()| None),
                    false => Box::pin(site.create(request, &hooks, &queue)).await,
                }
            };
            let result = create.await;
            queue.report(Happening::Created { id, result, reply }).await;
        });
    }

    /// If nothing is in a sandbox that never ran, it is undone before that is told.
    pub(crate) fn refuse_creation(&mut self, error: Error, reply: Reply<Created>) {
        let never_ran = !matches!(self.stage, Stage::Running(_));
        if never_ran && self.containers.0.is_empty() {
            self.undo_everything(Undone::Failed(reply, error), "its first container could not be created");
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

    /// What is still being made is removed once it is made: nobody may ask again.
    pub(crate) fn delete(&mut self, key: Key, reply: Reply<Exit>) {
        if key.exec.is_none()
            && let Ok(container) = self.containers.container(&key.container)
            && container.init.phase == Phase::Creating
        {
            container.removers.push(reply);
            return;
        }
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

    fn update(&mut self, container: &ContainerId, mut resources: Box<LinuxResources>, reply: Reply<()>) {
        let key = Key::new(container, None);
        if self.is_pause(&key) {
            return self.update_pause(&key, reply);
        }
        let allowed = self.containers.allowing(&key, Verb::Update).map(drop);
        let allowed = allowed.and_then(|()| Ok((self.running()?, self.cpus(cpuset::named(&resources))?)));
        let (reach, cpus) = match allowed {
            Ok(allowed) => allowed,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let update = self.sizing.demand().ask(container.as_str(), &resources);
        let change = self.change_of_size();
        let pinning = self.pinning.clone();
        cpuset::keep_from_guest(&mut resources);
        let container = container.clone();
        self.spawn(async move |_: Site, queue: Queue| {
            let updated = async {
                if let Some(change) = &change {
                    change.grow().await?;
                }
                reach.agent.update(container.as_str(), &resources).await
            };
            let updated = updated.await;
            if let (Ok(()), Some(cpus)) = (&updated, cpus) {
                pinning.set(&container, Some(cpus));
            }
            // Others may have changed meanwhile: the VM fits what is known then.
            queue.report(Happening::Updated { container, update, is_done: updated.is_ok() }).await;
            reply.send(updated).ok();
        });
    }

    /// Those CPUs of the host that a container names.
    fn cpus(&self, named: Option<&str>) -> Result<Option<Cpus>> {
        named.map(|list| cpuset::on_host(list, || self.site.host.online_cpus())).transpose()
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

    fn parts(&self) -> Parts {
        let alive = self.containers.0.iter().filter(|(_, container)| {
            !container.is_pause && matches!(container.init.phase, Phase::Running | Phase::Paused)
        });
        let containers = alive.map(|(id, _)| id.clone()).collect();
        let machine = self.machine();
        let daemon = machine.and_then(|machine| machine.daemon.as_ref());
        let (vmm, daemon) = (machine.map(|machine| machine.vmm.pid()), daemon.map(|daemon| daemon.pid()));
        Parts { vmm, daemon, containers }
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
