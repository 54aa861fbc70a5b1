//! The long operations: each runs as a task of its own and reports to the owning task when it is done.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kata_network::GuestNetwork;
use kata_protocol::agent as grpc;
use kata_protocol::kata;
use kata_protocol::oci_convert;
use kata_trace::Open;
use kata_transport::Dialer;
use protobuf::MessageField;
use tokio::sync::{OnceCell, mpsc, watch};
use tokio::time::{Instant, timeout};

use crate::agent::{Agent, Deadlines, Requests, Started};
use crate::boot::SPAWN_PATIENCE;
use crate::command::{CreateContainer, Created, ExecSpec, Exit, Key, Reply, Stdio};
use crate::driver::Message;
use crate::error::{ErrorKind, Result, SandboxError as Error, chain};
use crate::gone::{Gone, NEWS_PATIENCE};
use crate::hooks::Hooks;
use crate::host::{Files, Host, Machine, Sources};
use crate::network::json::Interface;
use crate::network::{Change, NetworkFailure};
use crate::pause::Shared;
use crate::sizing::Update;
use crate::spans::Traced;
use crate::state::Phase;
use crate::stdio::{Drain, Pumps, Streams};
use crate::swap::SwapDisk;
use crate::timeline::{Moment, Recorder, phase};
use crate::{ContainerId, SandboxId};

/// How long the VMM may take to quit before it is killed.
const QUIT_PATIENCE: Duration = Duration::from_secs(2);

/// How long a killed VMM may take to end. One that waits for storage of the host may never.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// What the guest's random number generator is seeded with, in bytes.
const ENTROPY: usize = 64;

/// A correction of the guest's clock that took longer is made again, so many times at most.
const CLOCK_ERROR: Duration = Duration::from_millis(20);
const CLOCK_CORRECTIONS: usize = 10;

/// How far the VM has got.
#[derive(Clone)]
pub(crate) enum Boot {
    /// Nothing runs yet.
    Pending,
    /// The VMM's process runs.
    Spawned(Arc<Machine>),
    /// The agent can be spoken to, even if it only hears it later.
    Reachable(Box<Reach>),
    /// It did not start; what may run of it is being killed.
    Failed(Option<Arc<Machine>>),
}

/// The way into the guest.
#[derive(Clone)]
pub(crate) struct Reach {
    pub(crate) machine: Arc<Machine>,
    pub(crate) agent: Agent,
    pub(crate) dialer: Dialer,
}

/// Seconds since 1970, and nanoseconds.
fn now() -> (i64, i64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (i64::try_from(now.as_secs()).unwrap_or(0), i64::from(now.subsec_nanos()))
}

/// What a job reports.
pub(crate) enum Happening {
    /// The VMM's process runs.
    Spawned(Arc<Machine>),
    /// The VM has ended, or will not start, for this reason.
    Died { machine: Option<Arc<Machine>>, reason: Arc<str> },
    /// The guest is configured.
    SandboxStarted(Reach),
    /// A container was made, or could not be.
    Created { id: ContainerId, result: Result<Made>, reply: Reply<Created> },
    /// A container's limits were changed, or stay as they were.
    Updated { container: ContainerId, update: Update, is_done: bool },
    /// A process was started, or could not be.
    Started { key: Key, result: Result<Option<Pumps>>, reply: Reply<u32> },
    /// A process ended, and its output is delivered.
    Exited { key: Key, exit: Exit },
    /// A process of this container was killed for want of memory.
    OutOfMemory(ContainerId),
    /// A container was frozen or thawed, or could not be.
    Frozen { container: ContainerId, phase: Phase, result: Result<()>, reply: Reply<()> },
    /// A process was removed, or could not be.
    Deleted { key: Key, result: Result<()>, reply: Reply<Exit> },
    /// The pause container has outlived the VM and the other containers.
    Outlived,
    /// Everything is undone, or something is left.
    TornDown(Result<()>),
}

/// A container that was made: its first process's streams, and where that is; `None` if nothing of it is in the guest.
pub(crate) type Made = Option<(Pumps, Agent)>;

/// What jobs work with. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) id: SandboxId,
    pub(crate) host: Arc<dyn Host>,
    pub(crate) boot: watch::Sender<Boot>,
    pub(crate) gone: Gone,
    /// Whether the guest is configured; who asks for that or for the first container does it.
    pub(crate) started: Arc<OnceCell<()>>,
    pub(crate) recorder: Recorder,
    pub(crate) deadlines: Deadlines,
    pub(crate) console: Arc<std::path::Path>,
    /// Where requests to the agent are counted.
    pub(crate) requests: Arc<Requests>,
}

/// A container whose files are ready.
struct Prepared<'a> {
    id: &'a ContainerId,
    files: Files,
    network: GuestNetwork,
    stdio: Stdio,
}

/// What a sandbox is started with.
pub(crate) struct First<'a> {
    pub(crate) hostname: Option<String>,
    pub(crate) network: &'a GuestNetwork,
    pub(crate) container: &'a mut Option<kata::ContainerRequest>,
    pub(crate) pod: Option<Shared>,
}

/// The queue of the owning task, as jobs see it: only handles on the sandbox keep that task alive.
#[derive(Clone)]
pub(crate) struct Queue(pub(crate) mpsc::WeakSender<Message>);

impl Queue {
    pub(crate) async fn report(&self, happening: Happening) {
        // When the owning task is gone, nobody has any interest left.
        if let Some(queue) = self.0.upgrade() {
            queue.send(Message::Happened(happening)).await.ok();
        }
    }
}

impl Site {
    /// The way into the guest, as soon as there is one.
    pub(crate) async fn reach(&self) -> Result<Reach> {
        let mut boot = self.boot.subscribe();
        let reached = self.gone.unless(boot.wait_for(|boot| matches!(boot, Boot::Reachable(_)))).await?;
        match reached.as_deref() {
            Ok(Boot::Reachable(reach)) => Ok(Reach::clone(reach)),
            _ => Err(Error::Closed),
        }
    }

    /// Waits until the VM has its devices. Its daemons have set themselves up then: virtiofsd copies the mounts of
    /// the share into its own namespace in two steps, and what is mounted between them never reaches it.
    pub(crate) async fn devices(&self) -> Result<Arc<Machine>> {
        let mut boot = self.boot.subscribe();
        let ready = async {
            let boot = boot.wait_for(|boot| matches!(boot, Boot::Spawned(_) | Boot::Reachable(_))).await;
            match boot.ok().and_then(|boot| boot.machine()) {
                Some(machine) => machine.vmm.ready().await.map(|()| machine).map_err(|error| chain(&error)),
                None => Err("its owner is gone".to_owned()),
            }
        };
        match self.gone.unless(ready).await? {
            Ok(machine) => Ok(machine),
            // What has ended tells more than the VMM's silence.
            Err(silence) => Err(match timeout(NEWS_PATIENCE, self.gone.wait()).await {
                Ok(gone) => gone,
                Err(_) => Error::Gone { reason: silence.into() },
            }),
        }
    }

    /// Makes a container; the first one with everything else that the guest needs.
    pub(crate) async fn create(self, request: CreateContainer, hooks: &Hooks, queue: &Queue) -> Result<Made> {
        let id = request.id.clone();
        let made = Box::pin(async {
            let machine = self.devices().await?;
            self.run_first_hooks(&id, hooks, &machine).await?;
            let network = self.network(&machine).await?;
            let begun = Moment::now();
            let sources = Sources { bundle: request.bundle, rootfs: request.rootfs, spec: request.spec };
            let files = self.gone.unless(self.host.attach(&id, sources, &machine)).await??;
            self.recorder.since(phase::FILES, begun);
            let reach = self.reach().await?;
            let prepared = Prepared { id: &id, files, network, stdio: request.stdio };
            self.create_in_guest(prepared, reach, queue).await
        })
        .await;
        if made.is_err() {
            self.give_up(&id).await;
        }
        made
    }

    /// The hooks that come before a container is made; those that come after it is gone are owed from here on.
    pub(crate) async fn run_first_hooks(
        &self,
        id: &ContainerId,
        hooks: &Hooks,
        machine: &Machine,
    ) -> Result<()> {
        if let Some(hooks) = hooks.poststop(id) {
            self.host.owe_hooks(id, hooks)?;
        }
        hooks.before_create(machine.vmm.pid()).await.map_err(|source| Error::hook(id, source))
    }

    /// Removes what there is of a container that could not be made.
    pub(crate) async fn give_up(&self, id: &ContainerId) {
        if let Err(error) = self.detach(id).await {
            // The creation's error is the one to tell; the intent log still knows what is left.
            tracing::warn!(container = %id, error = chain(&error), "Files of a failed container are left");
        }
    }

    async fn create_in_guest(&self, container: Prepared<'_>, reach: Reach, queue: &Queue) -> Result<Made> {
        let Prepared { id, files, network, stdio } = container;
        if let Some(part) = oci_convert::unsupported(&files.spec) {
            return Err(Error::Specification { id: id.to_string(), part });
        }
        let streams = self.gone.unless(Streams::open(&reach.dialer, (&stdio).into())).await??;
        let request = kata::ContainerRequest {
            container_id: id.to_string(),
            oci: MessageField::some(oci_convert::spec_to_grpc(&files.spec)),
            storages: files.storages,
            devices: files.devices,
            stdio: MessageField::some(streams.names().clone()),
            ..Default::default()
        };
        let mut request = Some(request);
        let first = First {
            hostname: files.spec.hostname().clone(),
            network: &network,
            container: &mut request,
            pod: None,
        };
        // If the start itself fails, the VM goes.
        self.start_sandbox_once(&reach, first, queue).await?;
        let made = self.make_in_guest(&reach, request, files.swap.as_ref()).await;
        if made.is_err() {
            // A disk that the guest is still busy with must not go before it has let go of it.
            let may_write = self.host.writes_to_disks().await;
            if let Err(error) = reach.agent.remove(id.as_str(), may_write).await {
                // Most often there is none: the guest has undone what it refused.
                tracing::debug!(container = %id, error = chain(&error), "Not removed after its creation failed");
            }
        }
        made?;
        let pumps = match reach.agent.is_foreign() {
            true => Pumps::poll(stdio, &reach.agent, &Key::new(id, None)),
            false => Pumps::start(stdio, streams),
        };
        Ok(Some((pumps, reach.agent)))
    }

    /// What is left to do when the sandbox runs. After a failure there may be a container, or one that is being made.
    async fn make_in_guest(
        &self,
        reach: &Reach,
        request: Option<kata::ContainerRequest>,
        swap: Option<&SwapDisk>,
    ) -> Result<()> {
        if let Some(request) = request {
            self.update_network(reach).await?;
            reach.agent.create(&request).await?;
        }
        if let Some(disk) = swap {
            self.host.offers_swap(disk);
            reach.agent.swap_to(&disk.address).await?;
            self.host.swaps(disk);
        }
        Ok(())
    }

    /// Has the guest configured as soon as it is up, without any container; the VM's process.
    pub(crate) async fn configure(self, hostname: Option<String>, queue: &Queue) -> Result<u32> {
        let reach = self.reach().await?;
        let network = self.network(&reach.machine).await?;
        let first = First { hostname, network: &network, container: &mut None, pod: None };
        self.start_sandbox_once(&reach, first, queue).await?;
        Ok(reach.machine.vmm.pid())
    }

    /// Starts the sandbox unless it is, and then takes the container along.
    pub(crate) async fn start_sandbox_once(
        &self,
        reach: &Reach,
        first: First<'_>,
        queue: &Queue,
    ) -> Result<()> {
        let start = async || {
            let network = first.network.clone();
            self.start_sandbox(reach, first).await?;
            if let Some(cards) = &reach.machine.cards {
                cards.follow(Arc::clone(&reach.machine), reach.agent.clone(), network).await;
            }
            queue.report(Happening::SandboxStarted(reach.clone())).await;
            Ok(())
        };
        self.started.get_or_try_init(start).await.copied()
    }

    /// The one batched request.
    async fn start_sandbox(&self, reach: &Reach, first: First<'_>) -> Result<()> {
        let First { hostname: name, network, container, pod } = first;
        let Shared { spec: pod, memory } = pod.unwrap_or_default();
        let (now_sec, now_nsec) = now();
        let sandbox = grpc::CreateSandboxRequest {
            hostname: hostname(name),
            sandbox_id: self.id.to_string(),
            storages: self.host.sandbox_storages().into_iter().chain(memory).collect(),
            guest_hook_path: self.host.guest_hook_path(),
            ..Default::default()
        };
        let network = network.clone();
        let request = kata::StartSandboxRequest {
            sandbox: MessageField::some(sandbox),
            interfaces: network.interfaces,
            routes: MessageField::some(grpc::Routes { Routes: network.routes, ..Default::default() }),
            neighbors: MessageField::some(grpc::ARPNeighbors {
                ARPNeighbors: network.neighbors,
                ..Default::default()
            }),
            container: container.take().into(),
            now_sec,
            now_nsec,
            entropy: entropy(),
            pod: pod.into(),
            ..Default::default()
        };
        // What it holds is too much to be carried about in each future above.
        let started = Box::pin(self.request_start(reach, &request)).await?;
        self.recorder.edit(|timeline| timeline.agent_version = started.version);
        self.recorder.save();
        if reach.dialer.is_buffered() {
            self.correct_clock(reach.agent.clone());
        }
        Ok(())
    }

    /// The guest has booted while the request waited for it, and its clock is late by that. By the way of the correction it
    /// is late again, and the first one that a guest takes is slow.
    fn correct_clock(&self, agent: Agent) {
        let gone = self.gone.clone();
        tokio::spawn(async move {
            for _ in 0..CLOCK_CORRECTIONS {
                let (told, (seconds, nanoseconds)) = (Instant::now(), now());
                match gone.unless(agent.set_clock(seconds, nanoseconds)).await {
                    Ok(Ok(())) if told.elapsed() > CLOCK_ERROR => {}
                    Ok(Err(error)) => {
                        return tracing::warn!(
                            error = chain(&error),
                            "The guest's clock is late by the time of its boot"
                        );
                    }
                    Ok(Ok(())) | Err(_) => return,
                }
            }
        });
    }

    /// Sends it: a span of its own, below which the agent's are.
    async fn request_start(&self, reach: &Reach, request: &kata::StartSandboxRequest) -> Result<Started> {
        let span = self.recorder.traced().map(Traced::open_start);
        let context = span.as_ref().and_then(Open::context);
        let sent = Moment::now();
        let started = kata_trace::scope(context, reach.agent.start_sandbox(request)).await;
        let answered = Moment::now();
        if let Some(span) = span {
            span.end(started.as_ref().err().map(|error| chain(error)));
        }
        let started = started?;
        self.recorder.note(phase::START_SANDBOX, sent, answered);
        self.recorder.guest(&started.phases, answered);
        if let Some(context) = context {
            self.follow_spans(reach, &started.phases, (context, answered));
        }
        Ok(started)
    }

    /// The pod's network as it is now: cards for what has come are plugged in.
    pub(crate) async fn network(&self, machine: &Arc<Machine>) -> Result<GuestNetwork> {
        match &machine.cards {
            None => Ok(machine.network.clone()),
            Some(cards) => Ok(self.gone.unless(cards.refresh(Arc::clone(machine))).await??),
        }
    }

    /// The same for a guest that has been told of it before: it is told what has changed.
    pub(crate) async fn update_network(&self, reach: &Reach) -> Result<()> {
        match &reach.machine.cards {
            None => Ok(()),
            Some(cards) => self.gone.unless(cards.update()).await?,
        }
    }

    /// The guest's interfaces, and what each is connected to.
    pub(crate) async fn interfaces(self, reach: &Reach) -> Result<Vec<Interface>> {
        let mut interfaces = reach.agent.interfaces().await?;
        if let Some(cards) = &reach.machine.cards {
            let mut connections = self.gone.unless(cards.connections()).await??;
            // What stands on a card in the guest may have the card's address; the card comes first.
            for interface in interfaces.iter_mut().filter(|interface| interface.kind.is_empty()) {
                interface.device = connections.remove(&interface.mac).unwrap_or_default();
            }
        }
        Ok(interfaces)
    }

    /// Changes the pod's network by hand.
    pub(crate) async fn change_network(self, reach: &Reach, change: Change) -> Result<()> {
        match &reach.machine.cards {
            None => Err(NetworkFailure::NoCards.into()),
            Some(cards) => self.gone.unless(cards.change(change)).await?,
        }
    }

    /// Starts a container's first process. Docker gives a container its network between its creation and this.
    pub(crate) async fn start(self, key: &Key, reach: &Reach, hooks: &Hooks) -> Result<()> {
        let begun = Moment::now();
        self.update_network(reach).await?;
        reach.agent.start(key.container.as_str()).await?;
        reach.machine.vmm.guest_works();
        self.recorder.since(phase::STARTED, begun);
        self.recorder.save();
        let started = hooks.after_start(reach.machine.vmm.pid()).await;
        if started.is_err()
            && let Err(error) = reach.agent.signal(key, SIGKILL, true).await
        {
            tracing::warn!(container = %key.container, error = chain(&error), "Not killed after a failed hook");
        }
        started.map_err(|source| Error::hook(&key.container, source))
    }

    /// Starts an added process.
    pub(crate) async fn exec(self, key: &Key, mut spec: ExecSpec, reach: &Reach) -> Result<Pumps> {
        self.host.confine(&mut spec.process);
        let streams = self.gone.unless(Streams::open(&reach.dialer, (&spec.stdio).into())).await??;
        let request = kata::ExecRequest {
            container_id: key.container.to_string(),
            exec_id: spec.id.to_string(),
            process: MessageField::some(oci_convert::process_to_grpc(&spec.process)),
            stdio: MessageField::some(streams.names().clone()),
            ..Default::default()
        };
        reach.agent.exec(&request).await?;
        Ok(match reach.agent.is_foreign() {
            true => Pumps::poll(spec.stdio, &reach.agent, key),
            false => Pumps::start(spec.stdio, streams),
        })
    }

    /// Reports each lack of memory, until the sandbox ends or the agent knows no such request.
    pub(crate) async fn watch_memory(self, agent: Agent, queue: Queue) {
        loop {
            match agent.out_of_memory().await {
                Ok(container) => {
                    if let Ok(container) = container.parse() {
                        queue.report(Happening::OutOfMemory(container)).await;
                    }
                }
                Err(error) if is_lost(&error) => return self.lost(&error, &queue).await,
                Err(_) => return,
            }
        }
    }

    /// Waits for a process's end and for the delivery of its output, and reports it. Not if the sandbox ends before: that is
    /// everybody's end, and not for this job to report.
    pub(crate) async fn watch(self, key: Key, agent: Agent, drain: Drain, queue: Queue) {
        let exit = match agent.wait(&key).await {
            Ok(status) => Exit::now(status),
            Err(Error::Gone { .. } | Error::Closed) => return,
            Err(error) if is_lost(&error) => return self.lost(&error, &queue).await,
            Err(error) => {
                tracing::warn!(process = %key, error = chain(&error), "The end of a process is unknown");
                Exit::now(Exit::UNKNOWN)
            }
        };
        drain.finish(&key).await;
        queue.report(Happening::Exited { key, exit }).await;
    }

    /// The connection to the agent broke, and the VM lives: nobody can reach what is in it any more.
    async fn lost(&self, error: &Error, queue: &Queue) {
        let machine = self.boot.borrow().machine();
        // Most often it is the VM's end, which is told with its cause.
        if let Some(machine) = &machine
            && timeout(NEWS_PATIENCE, machine.vmm.ended()).await.is_ok()
        {
            return;
        }
        let reason = format!("its agent cannot be reached any more: {}", chain(error)).into();
        queue.report(Happening::Died { machine, reason }).await;
    }

    /// Removes a container in the guest, if there is still a guest, and its files on the host.
    pub(crate) async fn delete(
        self,
        id: &ContainerId,
        guest: Option<(Agent, bool)>,
        drain: Drain,
    ) -> Result<()> {
        let key = Key::new(id, None);
        if let Some((agent, alive)) = guest {
            if alive && let Err(error) = agent.signal(&key, SIGKILL, true).await {
                tracing::debug!(container = %id, error = chain(&error), "Not killed before its removal");
            }
            if let Err(error) = agent.remove(id.as_str(), self.host.writes_to_disks().await).await {
                // The host's side must go all the same: what stays in the guest ends with it.
                tracing::warn!(container = %id, error = chain(&error), "Not removed in the guest");
            }
        }
        drain.finish(&key).await;
        self.detach(id).await
    }

    /// Removes a container's files; then it is gone, and its last hooks run.
    async fn detach(&self, id: &ContainerId) -> Result<()> {
        self.host.detach(id).await?;
        self.host.run_owed_hooks(id).await;
        Ok(())
    }

    /// Ends the VM and undoes everything.
    pub(crate) async fn tear_down(self) -> Result<()> {
        let mut boot = self.boot.subscribe();
        // A start that is under way has to get to a point where it can be undone. If it takes longer than it may, the
        // processes are found by what the intent log says.
        timeout(SPAWN_PATIENCE, boot.wait_for(|boot| !matches!(boot, Boot::Pending))).await.ok();
        let reach = match &*boot.borrow() {
            Boot::Reachable(reach) => Some(reach.agent.clone()),
            Boot::Pending | Boot::Spawned(_) | Boot::Failed(_) => None,
        };
        if let Some(agent) = reach
            && self.host.writes_to_disks().await
        {
            agent.flush().await;
        }
        let machine = boot.borrow().machine();
        if let Some(machine) = machine
            && timeout(QUIT_PATIENCE + KILL_PATIENCE, machine.vmm.shutdown(QUIT_PATIENCE)).await.is_err()
        {
            tracing::warn!(sandbox = %self.id, "The VMM does not end although it was killed; storage of the host may hang");
        }
        self.host.undo().await
    }
}

/// Whether the connection to the agent broke, and the sandbox has not ended.
fn is_lost(error: &Error) -> bool {
    matches!(error, Error::Agent { kind: ErrorKind::Unavailable, .. })
}

impl Boot {
    pub(crate) fn machine(&self) -> Option<Arc<Machine>> {
        match self {
            Self::Pending | Self::Failed(None) => None,
            Self::Spawned(machine) | Self::Failed(Some(machine)) => Some(Arc::clone(machine)),
            Self::Reachable(reach) => Some(Arc::clone(&reach.machine)),
        }
    }
}

/// The signal that cannot be refused.
pub(crate) const SIGKILL: u32 = 9;

/// From the host's generator; empty if it cannot be asked, as the guest has a virtio-rng device as well.
fn entropy() -> Vec<u8> {
    let mut bytes = vec![0; ENTROPY];
    match rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()) {
        Ok(n) => bytes.truncate(n),
        Err(_) => bytes.clear(),
    }
    bytes
}

/// The guest's name: the given one, or else the host's, as a new UTS namespace would have it under runc.
fn hostname(given: Option<String>) -> String {
    let given = given.filter(|name| !name.is_empty());
    given.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
}
