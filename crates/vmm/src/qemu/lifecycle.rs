//! The life of a QEMU process: start, events, end.
//!
//! One task owns the child and is the only one that kills or reaps it; one serves the control channel; one
//! keeps the last lines of standard error; a thread keeps the guest's console. [`Qemu`] is a handle that talks to them.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use command_fds::CommandFdExt;
use kata_cgroup::Cgroup;
use tokio::process::{Child, Command};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::command_line::{CommandLine, Endpoints, build};
use super::config::Profile;
use super::control::{self, Control, FAILED, Told};
use super::disks::{Disks, Layout};
use super::pinning::Placed;
use super::ports::Ports;
use super::qmp::{Client, Cont, QmpError, QueryCpusFast, QueryStatus, Quit, Stop};
use super::resize::Limits;
use super::{config, console, diagnosis, processors, stderr, tsc, version};
use crate::backing;
use crate::netns::{self, Failure};
use crate::plan::{Accelerator, AgentChannel, NetworkNamespace, VmPlan};
use crate::turns::Turns;
use crate::vmm::{Capabilities, DiskHotplug, NicHotplug, Resize, VmEvent, VmExit, VmStatus, Vmm, VmmError};

/// How long QEMU may take to answer on its control channel. It answers in milliseconds, but a loaded host may
/// keep it waiting.
const CONTROL_DEADLINE: Duration = Duration::from_secs(10);
/// How much longer until it is up, for each GiB that QEMU takes from the host before.
const PREALLOC_PATIENCE: Duration = Duration::from_secs(1);
/// How long the last events and error lines are waited for once the process is gone.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Events kept for a consumer that is busy.
const EVENT_BACKLOG: usize = 64;

/// A running QEMU.
#[derive(Debug)]
pub struct Qemu {
    pid: u32,
    agent_socket: Mutex<Option<OwnedFd>>,
    events: Mutex<Option<mpsc::Receiver<VmEvent>>>,
    control: watch::Receiver<Control>,
    ended: watch::Receiver<bool>,
    exit: watch::Receiver<Option<VmExit>>,
    kill: mpsc::Sender<()>,
    places: Places,
    deleted: broadcast::Sender<String>,
    memory_changed: broadcast::Sender<()>,
    turns: Turns,
    /// Where its threads run on the host.
    placed: Mutex<Placed>,
}

/// Where devices are that come and go, and how many CPUs and how much memory there can be.
#[derive(Debug)]
struct Places {
    ports: Ports,
    disks: Disks,
    limits: Limits,
}

/// Starts QEMU for `plan` and returns as soon as the process exists. Must be called inside a tokio runtime.
///
/// # Errors
/// A file is missing, the plan makes no command line, or the process cannot be started.
pub async fn launch(mut plan: VmPlan) -> Result<Qemu, VmmError> {
    check_files(&plan)?;
    plan.memory_backing.check(plan.memory_mib, plan.shares_memory(), Path::new(backing::MM))?;
    // A host that does not tell how large it is refuses nothing.
    let meminfo = std::fs::read_to_string(backing::MEMINFO).unwrap_or_default();
    plan.memory_backing.check_host(plan.memory_mib, &meminfo)?;
    plan.memory_backing.check_nodes(&plan.numa, Path::new(backing::MM), Path::new(backing::NODES))?;
    tell_tsc_frequency(&mut plan);
    plan.firmware = plan.firmware.or_else(|| config::small_firmware(&plan.binary));
    let (ours, qmp) = pair("control channel")?;
    let (agent_socket, agent) = match &plan.agent {
        AgentChannel::Serial => pair("agent port").map(|(ours, theirs)| (Some(ours), Some(theirs)))?,
        AgentChannel::Vsock { .. } => (None, None),
    };
    let (console, kept) = console::keep(&plan.console_log)?;
    let endpoints = Endpoints { qmp, console, agent };
    let (binary, place) = (plan.binary.clone(), (plan.netns.clone(), plan.cgroup.clone()));
    let layout = Layout::of(std::mem::take(&mut plan.disks), plan.scsi_controller)?;
    let places = Places {
        ports: Ports::of(plan.hotplug_ports, &plan.nics),
        disks: Disks::of(&layout),
        limits: Limits::of(&plan),
    };
    let profile = profile(&plan).await;
    let line = build(plan, profile, layout, endpoints)?;
    tracing::debug!(?binary, arguments = ?line.arguments, "starting QEMU");
    let child = start(binary, place, line).await?;
    Ok(Qemu::watch(child, (ours, kept), agent_socket, places))
}

async fn profile(plan: &VmPlan) -> &'static Profile {
    let version = match config::depends_on_version(plan) {
        // What keeps it from telling its version keeps it from starting.
        true => version::probe(&plan.binary).await.ok(),
        false => None,
    };
    config::profile_of(plan, version)
}

/// Names a missing file now, instead of letting QEMU fail in its own words.
fn check_files(plan: &VmPlan) -> Result<(), VmmError> {
    let mut files = vec![
        ("guest kernel", plan.kernel.as_path(), "kernel"),
        ("guest image", plan.initrd.as_path(), "initrd"),
        ("entropy source", plan.entropy_source.as_path(), "entropy_source"),
    ];
    files.extend(plan.firmware.as_deref().map(|path| ("firmware", path, "firmware")));
    for (what, path, key) in files {
        let opened = File::open(path).and_then(|file| file.metadata());
        let found = opened.and_then(|found| match found.is_dir() {
            true => Err(io::ErrorKind::IsADirectory.into()),
            false => Ok(()),
        });
        found.map_err(|source| VmmError::BootFile { what, path: path.to_owned(), key, source })?;
    }
    Ok(())
}

/// Spares an emulated guest finding out its clock's frequency, unless the plan names one.
fn tell_tsc_frequency(plan: &mut VmPlan) {
    let is_named = plan.kernel_params.iter().any(|param| param.starts_with(tsc::FREQUENCY));
    if plan.accelerator != Accelerator::Tcg || is_named {
        return;
    }
    if let Some(khz) = tsc::frequency_khz(Path::new("/proc/cpuinfo")) {
        let told = tsc::kernel_params(khz, plan.max_vcpus, &plan.kernel_params);
        plan.kernel_params.extend(told);
    }
}

fn pair(what: &'static str) -> Result<(OwnedFd, OwnedFd), VmmError> {
    let (ours, theirs) = UnixStream::pair().map_err(|source| VmmError::Socket { what, source })?;
    Ok((ours.into(), theirs.into()))
}

/// What the process begins in.
type Surroundings = (NetworkNamespace, Cgroup);

async fn start(binary: PathBuf, place: Surroundings, line: CommandLine) -> Result<Child, VmmError> {
    if !place.1.awaits_vmm() {
        return spawn(&binary, &place, line);
    }
    let path = binary.clone();
    let spawned = tokio::task::spawn_blocking(move || spawn(&binary, &place, line)).await;
    spawned.unwrap_or_else(|panic| Err(VmmError::Spawn { path, source: io::Error::other(panic) }))
}

fn spawn(binary: &Path, (netns, cgroup): &Surroundings, line: CommandLine) -> Result<Child, VmmError> {
    let mut command = Command::new(binary);
    command.args(line.arguments).env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // Not in our process group: a Ctrl-C in a terminal is for us to handle.
    command.process_group(0).kill_on_drop(true);
    // The numbers stay as they are. Mapping to chosen ones could hit the pipe by which the standard library
    // learns that `exec` failed.
    command.preserved_fds(line.descriptors.into_iter().map(|(_, fd)| fd).collect());
    let entered = cgroup.enter(&mut command).map_err(Failure::Spawn);
    let spawned = entered.and_then(|()| match netns {
        NetworkNamespace::Callers => command.spawn().map_err(Failure::Spawn),
        other => netns::spawn_in(other, command),
    });
    if let Some(refusal) = cgroup.refusal() {
        return Err(Box::new(refusal.clone()).into());
    }
    spawned.map_err(|failure| match (failure, netns) {
        (Failure::Spawn(source), _) if source.kind() == io::ErrorKind::NotFound => {
            VmmError::BinaryMissing { path: binary.to_owned() }
        }
        (Failure::Namespace(source), NetworkNamespace::At(path)) => {
            VmmError::Netns { path: path.clone(), source }
        }
        (Failure::Spawn(source) | Failure::Namespace(source), _) => {
            VmmError::Spawn { path: binary.to_owned(), source }
        }
    })
}

impl Qemu {
    /// Starts the tasks that watch a started process.
    fn watch(
        mut child: Child,
        (qmp, console): (OwnedFd, oneshot::Receiver<()>),
        agent_socket: Option<OwnedFd>,
        places: Places,
    ) -> Self {
        let pid = child.id().unwrap_or_default();
        let turns = Turns::long(pid);
        let (publisher, events) = mpsc::channel(EVENT_BACKLOG);
        let (control_state, control) = watch::channel(Control::Connecting);
        let (ended_state, ended) = watch::channel(false);
        let (exit_state, exit) = watch::channel(None);
        let (kill, kill_orders) = mpsc::channel(1);
        let deleted = broadcast::Sender::new(EVENT_BACKLOG);
        let memory_changed = broadcast::Sender::new(1);
        let told = Told {
            publisher: publisher.clone(),
            deleted: deleted.clone(),
            memory_changed: memory_changed.clone(),
            kill: kill.downgrade(),
        };
        let last_words = LastWords {
            stderr: tokio::spawn(stderr::collect(child.stderr.take(), pid)),
            control: tokio::spawn(control::serve(qmp, patience(&places.limits), control_state, told)),
            console,
        };
        let end = End { ended: ended_state, exit: exit_state, publisher };
        tokio::spawn(supervise(child, kill_orders, last_words, end));
        Self {
            pid,
            agent_socket: Mutex::new(agent_socket),
            events: Mutex::new(Some(events)),
            control,
            ended,
            exit,
            kill,
            places,
            deleted,
            memory_changed,
            turns,
            placed: Mutex::default(),
        }
    }

    /// Whether virtual CPUs have CPUs of their own. Whoever changes where they run holds it.
    pub(super) fn placed(&self) -> MutexGuard<'_, Placed> {
        self.placed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where devices are plugged in.
    pub(super) fn ports(&self) -> &Ports {
        &self.places.ports
    }

    /// The VM's disks.
    pub(super) fn disks(&self) -> &Disks {
        &self.places.disks
    }

    /// What the VM was planned to have, at boot and at most.
    pub(super) fn limits(&self) -> &Limits {
        &self.places.limits
    }

    /// That the guest has taken or given back memory, from now on.
    pub(super) fn memory_changed(&self) -> broadcast::Receiver<()> {
        self.memory_changed.subscribe()
    }

    /// The ids of devices that are gone, from now on.
    pub(super) fn deleted(&self) -> broadcast::Receiver<String> {
        self.deleted.subscribe()
    }

    /// The control channel, waited for if it is not up yet.
    pub(super) async fn client(&self) -> Result<Client, VmmError> {
        let patience = patience(self.limits());
        timeout(patience, self.connected()).await.unwrap_or_else(|_| Err(QmpError::Greeting.into()))
    }

    /// The control channel, waited for as long as there is a VMM.
    async fn connected(&self) -> Result<Client, VmmError> {
        let mut control = self.control.clone();
        let up = control.wait_for(|state| !matches!(state, Control::Connecting));
        let state = up.await.map_or(Control::Lost, |state| state.clone());
        match state {
            Control::Ready(client) => Ok(client),
            Control::Connecting | Control::Lost => match self.exit.borrow().clone() {
                Some(exit) => Err(VmmError::Gone(exit)),
                None => Err(QmpError::Greeting.into()),
            },
        }
    }
}

#[async_trait]
impl Vmm for Qemu {
    fn kind(&self) -> &'static str {
        "qemu"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { shared_directories: true, vsock: true, serial: true, pause: true }
    }

    fn pid(&self) -> u32 {
        self.pid
    }

    fn guest_works(&self) {
        self.turns.end();
    }

    async fn vcpu_threads(&self) -> Result<Vec<u32>, VmmError> {
        Ok(processors::threads(&self.client().await?.execute(QueryCpusFast {}).await?))
    }

    fn nic_hotplug(&self) -> Option<&dyn NicHotplug> {
        Some(self)
    }

    fn disk_hotplug(&self) -> Option<&dyn DiskHotplug> {
        Some(self)
    }

    fn resize(&self) -> Option<&dyn Resize> {
        Some(self)
    }

    fn take_agent_socket(&self) -> Option<OwnedFd> {
        self.agent_socket.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn take_events(&self) -> Option<mpsc::Receiver<VmEvent>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn ready(&self) -> Result<(), VmmError> {
        // Commands are answered by the main loop, which runs once all devices of the command line exist.
        self.connected().await.map(drop)
    }

    async fn status(&self) -> Result<VmStatus, VmmError> {
        let info = self.client().await?.execute(QueryStatus {}).await?;
        Ok(match info.status.as_str() {
            _ if info.running => VmStatus::Running,
            "shutdown" | "guest-panicked" => VmStatus::Stopped,
            failed if FAILED.contains(&failed) => VmStatus::Stopped,
            _ => VmStatus::Paused,
        })
    }

    async fn pause(&self) -> Result<(), VmmError> {
        self.client().await?.execute(Stop {}).await?;
        Ok(())
    }

    async fn resume(&self) -> Result<(), VmmError> {
        self.client().await?.execute(Cont {}).await?;
        Ok(())
    }

    async fn shutdown(&self, deadline: Duration) -> VmExit {
        let deadline = Instant::now() + deadline;
        let state = self.control.borrow().clone();
        if let Control::Ready(client) = state {
            let quit = async {
                // QEMU may be gone before its answer is read: what counts is the exit.
                client.execute(Quit {}).await.ok();
                self.wait().await
            };
            if let Ok(exit) = timeout_at(deadline, quit).await {
                return exit;
            }
        }
        self.kill().await
    }

    async fn kill(&self) -> VmExit {
        // A full queue means that it has been ordered, a closed one that it is done.
        self.kill.try_send(()).ok();
        self.wait().await
    }

    async fn ended(&self) {
        // Who would tell is gone when all is over.
        self.ended.clone().wait_for(|ended| *ended).await.ok();
    }

    async fn wait(&self) -> VmExit {
        let mut exit = self.exit.clone();
        let exited = exit.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone());
        exited.unwrap_or(VmExit { status: None, stderr: String::new(), cause: None, advice: None })
    }
}

/// Who knows what QEMU and its guest said before they ended.
struct LastWords {
    stderr: JoinHandle<String>,
    control: JoinHandle<()>,
    console: oneshot::Receiver<()>,
}

/// Who hears of the end of QEMU's process.
struct End {
    ended: watch::Sender<bool>,
    exit: watch::Sender<Option<VmExit>>,
    publisher: mpsc::Sender<VmEvent>,
}

/// Owns the child: kills it on order or when all handles are gone, reaps it, tells everybody.
async fn supervise(mut child: Child, mut kill_orders: mpsc::Receiver<()>, last_words: LastWords, end: End) {
    let status = tokio::select! {
        status = child.wait() => status,
        _ = kill_orders.recv() => match child.start_kill() {
            Ok(()) => child.wait().await,
            Err(error) => Err(error),
        },
    };
    if let Err(error) = &status {
        tracing::error!(%error, "QEMU's process cannot be waited for");
    }
    end.ended.send_replace(true);
    // They end by themselves now that the process is gone. Events come before the exit that follows them, and the exit is
    // explained by what the guest said last.
    let LastWords { stderr, control, console } = last_words;
    let (stderr, ..) =
        tokio::join!(timeout(LAST_WORDS, stderr), timeout(LAST_WORDS, control), timeout(LAST_WORDS, console));
    let stderr = stderr.ok().and_then(Result::ok).unwrap_or_default();
    let (cause, advice) = (diagnosis::cause(&stderr), diagnosis::advice(&stderr));
    let exit = VmExit { status: status.ok(), stderr, cause, advice };
    end.exit.send_replace(Some(exit.clone()));
    // Nobody may be listening.
    end.publisher.send(VmEvent::Exited(exit)).await.ok();
}

/// How long QEMU may take until its control channel is up.
fn patience(limits: &Limits) -> Duration {
    let gib = if limits.backing.prealloc_threads > 0 { limits.memory_mib.div_ceil(1024) } else { 0 };
    CONTROL_DEADLINE + PREALLOC_PATIENCE * gib
}
