//! The task that owns a sandbox: takes requests and news from one queue, one at a time, and never waits for
//! anything but the next. What takes long runs as a job (`jobs.rs`) and comes back as news.

use std::sync::Arc;

use kata_trace::Context;
use tokio::sync::{mpsc, oneshot};

use crate::command::{Command, Created, Exit, Key, Reply};
use crate::error::{Result, SandboxError as Error};
use crate::event::Event;
use crate::gone::Announcer;
use crate::host::Machine;
use crate::jobs::{Happening, Made, Queue, Reach, SIGKILL, Site};
use crate::pinning::Pinning;
use crate::process::Containers;
use crate::resize::Sizer;
use crate::sizing::Sizing;
use crate::state::Phase;
use crate::stdio::Pumps;

/// Everything that comes through the queue.
pub(crate) enum Message {
    /// Somebody wants something, for this span if anybody traces it.
    Command(Command, Option<Context>),
    /// A job has news.
    Happened(Happening),
}

/// Where in its life the sandbox is; each state holds what there is in it.
pub(crate) enum Stage {
    /// The VM comes up; the guest is not configured yet.
    Starting(Starting),
    /// The guest is configured and takes requests.
    Running(Box<Running>),
    /// There is no VM any more, or never was.
    Stopped(Stopped),
}

/// A half-made sandbox.
#[derive(Default)]
pub(crate) struct Starting {
    machine: Option<Arc<Machine>>,
}

/// A running sandbox.
pub(crate) struct Running {
    pub(crate) reach: Reach,
    /// Whether somebody waits for news of a lack of memory, and for connections to the pod's ports.
    is_attended: bool,
}

/// A sandbox that has ended.
pub(crate) struct Stopped {
    pub(crate) reason: Arc<str>,
    /// What the containers' host process was.
    pid: u32,
}

/// How far undoing everything has got.
enum Undoing {
    No,
    /// Under way, for these.
    Busy(Vec<Undone>),
    Yes,
}

/// Who waits until everything is undone.
pub(crate) enum Undone {
    /// Who asked for it.
    Shutdown(Reply<()>),
    /// Whose container could not be created, so that the sandbox never came to life.
    Failed(Reply<Created>, Error),
}

/// The owning task's state.
pub(crate) struct Driver {
    pub(crate) stage: Stage,
    pub(crate) containers: Containers,
    pub(crate) site: Site,
    events: mpsc::UnboundedSender<Event>,
    announcer: Announcer,
    queue: Queue,
    undoing: Undoing,
    /// How large the VM is to be.
    pub(crate) sizing: Sizing,
    /// Who changes the VM's size, from the first change on.
    pub(crate) sizer: Option<Sizer>,
    /// Where on the host it runs.
    pub(crate) pinning: Pinning,
    /// Dropped when only the pause container is left of a dead VM's containers; `None` as long as nobody waits for that.
    pub(crate) others: Option<oneshot::Sender<()>>,
    /// What the jobs are for that are being begun.
    span: Option<Context>,
}

impl Driver {
    pub(crate) fn new(
        site: Site,
        announcer: Announcer,
        events: mpsc::UnboundedSender<Event>,
        queue: Queue,
    ) -> Self {
        Self {
            stage: Stage::Starting(Starting::default()),
            containers: Containers::default(),
            sizing: site.host.sizing(),
            pinning: Pinning::new(site.host.pins_vcpus()),
            site,
            events,
            announcer,
            queue,
            undoing: Undoing::No,
            sizer: None,
            others: None,
            span: None,
        }
    }

    /// Owns the sandbox as long as there is a handle on it; then its VM has no more right to live.
    pub(crate) async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        while let Some(message) = messages.recv().await {
            match message {
                Message::Command(command, span) => {
                    self.span = span;
                    self.on_command(command);
                    self.span = None;
                }
                Message::Happened(happening) => self.on_happening(happening),
            }
        }
        self.announcer.announce(&"nobody holds it any more".into());
        let machine = self.site.boot.borrow().machine();
        if let Some(machine) = machine {
            machine.vmm.kill().await;
        }
    }

    fn on_happening(&mut self, happening: Happening) {
        match happening {
            Happening::Spawned(machine) => {
                if let Stage::Starting(starting) = &mut self.stage {
                    starting.machine = Some(machine);
                }
            }
            Happening::Died { machine, reason } => self.on_death(machine, &reason),
            Happening::SandboxStarted(reach) => {
                if matches!(self.stage, Stage::Starting(_)) {
                    self.stage = Stage::Running(Box::new(Running { reach, is_attended: false }));
                }
            }
            Happening::Created { id, result, reply } => match result {
                Ok(made) => self.on_created(&Key::new(&id, None), made, reply),
                Err(error) => {
                    if let Some(mut container) = self.containers.0.remove(&id) {
                        self.sizing.demand().remove(id.as_str());
                        self.unpin(&id);
                        container.init.end(Exit::now(Exit::KILLED));
                        for remover in container.removers {
                            remover.send(Err(Error::NoContainer { id: id.to_string() })).ok();
                        }
                        self.fit();
                    }
                    self.refuse_creation(error, reply);
                }
            },
            Happening::Updated { container, update, is_done } => {
                self.sizing.demand().settle(container.as_str(), update, is_done);
                self.fit();
                self.repin();
            }
            Happening::Started { key, result, reply } => self.on_started(&key, result, reply),
            Happening::Exited { key, exit } => self.on_exit(&key, exit),
            Happening::Frozen { container, phase, result, reply } => {
                if result.is_ok()
                    && let Ok(container) = self.containers.container(&container)
                    && container.init.phase.is_alive()
                {
                    container.init.phase = phase;
                }
                reply.send(result).ok();
            }
            Happening::OutOfMemory(container) => {
                if self.containers.0.contains_key(&container) {
                    self.tell(Event::OutOfMemory { container });
                }
            }
            Happening::Deleted { key, result, reply } => self.on_deleted(&key, result, reply),
            Happening::Outlived => self.end_processes(),
            Happening::TornDown(result) => self.on_torn_down(result),
        }
        if self.others.is_some() && !self.has_others() {
            self.others = None;
        }
    }

    /// It is made: whoever has wanted it removed meanwhile has it removed.
    fn on_created(&mut self, key: &Key, made: Made, reply: Reply<Created>) {
        self.settle_creation(key, made, reply);
        let container = self.containers.container(&key.container);
        for remover in container.map(|made| std::mem::take(&mut made.removers)).unwrap_or_default() {
            self.delete(key.clone(), remover);
        }
    }

    fn settle_creation(&mut self, key: &Key, made: Made, reply: Reply<Created>) {
        let pid = self.pid();
        let Ok(process) = self.containers.process(key) else { return };
        let watched = made.map(|(pumps, agent)| {
            let drain = pumps.drain();
            process.pumps = pumps;
            (agent, drain)
        });
        process.phase = Phase::Created;
        let killers = std::mem::take(&mut process.killers);
        if let Stage::Stopped(stopped) = &self.stage {
            // The VM died between the guest's answer and this moment.
            let reason = Arc::clone(&stopped.reason);
            self.finish(key, Exit::now(Exit::KILLED), true);
            reply.send(Err(Error::Gone { reason })).ok();
            killers.into_iter().for_each(|killer| drop(killer.send(Ok(()))));
            return;
        }
        reply.send(Ok(Created { pid })).ok();
        self.repin();
        for killer in killers {
            self.kill(key, SIGKILL, true, killer);
        }
        let Some((agent, drain)) = watched else { return };
        let key = key.clone();
        self.spawn(async move |site: Site, queue| site.watch(key, agent, drain, queue).await);
    }

    fn on_started(&mut self, key: &Key, result: Result<Option<Pumps>>, reply: Reply<u32>) {
        let (pid, reach) = (self.pid(), self.reach());
        let Ok(process) = self.containers.process(key) else {
            reply.send(Err(Error::Closed)).ok();
            return;
        };
        let pumps = match result {
            Ok(pumps) => pumps,
            Err(error) => {
                if process.phase == Phase::Starting {
                    // A first process can be started again; an added one was used up.
                    process.phase = Phase::Created;
                    if key.exec.is_some() {
                        process.end(Exit::now(Exit::UNKNOWN));
                    }
                }
                self.settle_early_exit(key);
                reply.send(Err(error)).ok();
                return;
            }
        };
        if process.phase == Phase::Starting {
            process.phase = Phase::Running;
        }
        reply.send(Ok(pid)).ok();
        if let Some(pumps) = pumps {
            let drain = pumps.drain();
            process.pumps = pumps;
            let size = process.size.take();
            let Some(Reach { agent, .. }) = reach else { return };
            let key = key.clone();
            self.spawn(async move |site: Site, queue| {
                if let Some((width, height)) = size
                    && let Err(error) = agent.resize(&key, width, height).await
                {
                    tracing::debug!(process = %key, %error, "Its terminal keeps its first size");
                }
                site.watch(key, agent, drain, queue).await;
            });
        }
        self.settle_early_exit(key);
        self.attend();
    }

    /// Begins with the first process that runs: before, it would only be in the way.
    fn attend(&mut self) {
        let Stage::Running(running) = &mut self.stage else { return };
        if !std::mem::replace(&mut running.is_attended, true) {
            let reach = running.reach.clone();
            let agent = reach.agent.clone();
            let sharing = reach.clone();
            self.spawn(async move |site: Site, queue| site.watch_memory(agent, queue).await);
            self.spawn(async move |site: Site, _| site.carry_changes(sharing).await);
            self.spawn(async move |site: Site, _| site.forward_ports(reach).await);
        }
    }

    /// The answer to a start and the news of an end travel apart; the end is told after the start.
    pub(crate) fn on_exit(&mut self, key: &Key, exit: Exit) {
        match self.containers.process(key) {
            Ok(process) if process.phase == Phase::Starting => process.early_exit = Some(exit),
            Ok(_) => self.finish(key, exit, true),
            // Removed meanwhile, which told of its end.
            Err(_) => {}
        }
    }

    fn settle_early_exit(&mut self, key: &Key) {
        if let Ok(process) = self.containers.process(key)
            && let Some(exit) = process.early_exit.take()
        {
            self.finish(key, exit, true);
        }
    }

    /// A process's end: noted once, told to who waits and, if it was known to run, to everybody.
    pub(crate) fn finish(&mut self, key: &Key, exit: Exit, known: bool) {
        let pid = self.pid();
        let Ok(process) = self.containers.process(key) else { return };
        if process.exit.is_some() {
            return;
        }
        process.end(exit);
        if known {
            let Key { container, exec } = key.clone();
            self.tell(Event::Exited { container, exec, pid, exit });
        }
    }

    fn on_deleted(&mut self, key: &Key, result: Result<()>, reply: Reply<Exit>) {
        // A container that was never started ended by being removed.
        self.finish(key, Exit::now(Exit::KILLED), key.exec.is_none());
        let Ok(process) = self.containers.process(key) else { return };
        let exit = process.exit.unwrap_or_else(|| Exit::now(Exit::KILLED));
        if let Err(error) = result {
            process.phase = Phase::Stopped;
            reply.send(Err(error)).ok();
            return;
        }
        if let Some(exec) = &key.exec {
            if let Ok(container) = self.containers.container(&key.container) {
                container.execs.remove(exec);
            }
        } else {
            self.finish_execs(key);
            self.containers.0.remove(&key.container);
            self.sizing.demand().remove(key.container.as_str());
            self.unpin(&key.container);
            self.fit();
        }
        reply.send(Ok(exit)).ok();
    }

    /// Lets the VM follow what its containers may use.
    fn fit(&mut self) {
        if self.sizer.is_some()
            && let Some(change) = self.change_of_size()
        {
            change.fit();
        }
    }

    /// Added processes end with their container.
    fn finish_execs(&mut self, key: &Key) {
        let living = self.containers.living();
        for (exec, known) in living.into_iter().filter(|(exec, _)| exec.container == key.container) {
            self.finish(&exec, Exit::now(Exit::KILLED), known);
        }
    }

    pub(crate) fn on_death(&mut self, machine: Option<Arc<Machine>>, reason: &Arc<str>) {
        if !matches!(self.stage, Stage::Stopped(_)) {
            self.tell(Event::VmDied { reason: Arc::clone(reason) });
            if machine.as_ref().is_some_and(|machine| machine.cgroup.shortage().is_some()) {
                self.tell_lack_of_memory();
            }
            self.end(reason);
            self.end_pause_last();
        }
        if let Some(machine) = machine {
            // Whichever of its processes went first, the VMM must not stay.
            self.spawn(async move |_, _| drop(machine.vmm.kill().await));
        }
    }

    /// The host's kernel has killed the VM: that was the end of its containers.
    fn tell_lack_of_memory(&self) {
        for (key, _) in self.containers.living() {
            if key.exec.is_none() {
                self.tell(Event::OutOfMemory { container: key.container });
            }
        }
    }

    /// The sandbox has ended.
    fn end(&mut self, reason: &Arc<str>) {
        let pid = self.pid();
        self.stage = Stage::Stopped(Stopped { reason: Arc::clone(reason), pid });
        self.announcer.announce(reason);
    }

    /// With the sandbox everything has ended that ran in it.
    pub(crate) fn end_processes(&mut self) {
        for (key, known) in self.containers.living() {
            self.finish(&key, Exit::now(Exit::KILLED), known);
        }
    }

    /// Ends the VM, removes everything from the host, then answers.
    pub(crate) fn undo_everything(&mut self, then: Undone, reason: &str) {
        match &mut self.undoing {
            Undoing::Busy(waiting) => waiting.push(then),
            Undoing::Yes => then.answer(Ok(())),
            Undoing::No => {
                self.undoing = Undoing::Busy(vec![then]);
                if !matches!(self.stage, Stage::Stopped(_)) {
                    self.end(&reason.into());
                }
                self.end_processes();
                self.spawn(async |site: Site, queue: Queue| {
                    queue.report(Happening::TornDown(site.tear_down().await)).await;
                });
            }
        }
    }

    fn on_torn_down(&mut self, result: Result<()>) {
        let next = if result.is_ok() { Undoing::Yes } else { Undoing::No };
        let Undoing::Busy(waiting) = std::mem::replace(&mut self.undoing, next) else { return };
        let mut waiting = waiting.into_iter();
        if let Some(first) = waiting.next() {
            first.answer(result);
        }
        // If something is left, the next one tries again.
        for other in waiting {
            self.undo_everything(other, "it is shut down");
        }
    }

    fn tell(&self, event: Event) {
        // Nobody need listen.
        self.events.send(event).ok();
    }

    /// The way into the guest, if the sandbox runs.
    pub(crate) fn reach(&self) -> Option<Reach> {
        match &self.stage {
            Stage::Running(running) => Some(running.reach.clone()),
            Stage::Starting(_) | Stage::Stopped(_) => None,
        }
    }

    /// The process on the host that stands for what runs in the guest: the VMM. 0 before there is one.
    pub(crate) fn pid(&self) -> u32 {
        match &self.stage {
            Stage::Stopped(stopped) => stopped.pid,
            Stage::Starting(_) | Stage::Running(_) => self.machine().map_or(0, |machine| machine.vmm.pid()),
        }
    }

    /// The VM, while it is thought to live.
    pub(crate) fn machine(&self) -> Option<&Machine> {
        match &self.stage {
            Stage::Starting(starting) => starting.machine.as_deref(),
            Stage::Running(running) => Some(&running.reach.machine),
            Stage::Stopped(_) => None,
        }
    }

    /// Runs a job.
    pub(crate) fn spawn<F>(&self, job: impl FnOnce(Site, Queue) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let job = job(self.site.clone(), self.queue.clone());
        match self.span {
            Some(_) => drop(tokio::spawn(kata_trace::scope(self.span, job))),
            None => drop(tokio::spawn(job)),
        }
    }
}

impl Undone {
    fn answer(self, result: Result<()>) {
        match self {
            Self::Shutdown(reply) => drop(reply.send(result)),
            Self::Failed(reply, error) => {
                if let Err(left) = result {
                    tracing::warn!(error = crate::error::chain(&left), "A failed start has left something");
                }
                drop(reply.send(Err(error)));
            }
        }
    }
}
