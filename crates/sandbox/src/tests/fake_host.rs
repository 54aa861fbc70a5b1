//! A host that makes nothing, and a VM that is two ends of a socket pair.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kata_intent::Intents;
use kata_network::{Model, Rates, Request};
use kata_protocol::agent::Storage;
use kata_storage::RootfsMount;
use kata_transport::Dialer;
use kata_vmm::{
    Affinity, Capabilities, Disk, DiskAddress, DiskHotplug, Nic, NicHotplug, Resize, VmEvent, VmExit,
    VmStatus, Vmm,
};
use tokio::sync::{mpsc, watch};

use super::fake_agent::FakeAgent;
use crate::ContainerId;
use crate::cpuset::Cpus;
use crate::direct::Assigned;
use crate::error::{Result, SandboxError as Error};
use crate::hooks::Poststop;
use crate::host::{BootError, Daemon, DaemonEnd, Files, Host, Machine, SharedFiles, Sources, Way};
use crate::intent_log::IntentLog;
use crate::network::{Cards, NetworkFailure};
use crate::poststop::{self, OwedHooks};
use crate::sizing::{Rule, Size, Sizing};
use crate::swap::SwapDisk;
use crate::timeline::Recorder;
use crate::way::BySerial;

/// The VMM's process.
pub(super) const PID: u32 = 4711;
pub(super) const DAEMON_PID: u32 = 4243;

/// What the VM has at boot.
pub(super) const SIZE: Size = Size { vcpus: 1, memory_mib: 256 };

/// What is wrong with a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    /// The VMM cannot be started.
    NoVmm,
    /// systemd is waited for as long as it may take.
    SilentSystemd,
    /// The guest never comes up.
    Silent,
    /// The guest comes up when the test says so.
    Late,
    /// The VMM has its devices when the test says so.
    Unequipped,
    /// Containers' files cannot be prepared.
    NoFiles,
    /// Containers' files cannot be removed, the first time.
    StuckFiles,
    /// The agent refuses to make containers.
    Refusing,
    /// The agent makes containers for ever.
    Hanging,
    /// The agent takes no signals.
    Deaf,
    /// The agent never tells its metrics.
    Mute,
    /// The agent has only upstream's requests.
    Foreign,
}

/// Everything that a test may do to the machine.
pub(super) struct Levers {
    events: Mutex<Option<mpsc::Sender<VmEvent>>>,
    exit: watch::Sender<Option<VmExit>>,
    daemon: watch::Sender<bool>,
    equipped: watch::Sender<bool>,
    pub(super) nics: Mutex<Vec<Nic>>,
    /// How often a card found no port, once there are none.
    pub(super) portless: watch::Sender<Option<u32>>,
    pub(super) resized: Mutex<Vec<String>>,
    /// What the VM can have.
    pub(super) most: Mutex<Size>,
    /// What the guest keeps whatever it is asked to give back.
    pub(super) kept: Mutex<Size>,
    /// So many changes of affinity fail.
    pub(super) unpinned: Mutex<u32>,
    /// Where the VM is counted, and the threads of its CPUs.
    pub(super) cgroup: Mutex<kata_cgroup::Cgroup>,
    pub(super) vcpu_threads: Mutex<Vec<u32>>,
    /// The guest's end of the serial port until the guest opens it.
    guest: Mutex<Option<UnixStream>>,
    /// What ends the carrier: a handle on the host's end.
    carrier: Mutex<Option<UnixStream>>,
    /// The VMM waits for what the host does not give.
    pub(super) is_stuck: std::sync::atomic::AtomicBool,
    /// The guest has a disk that it writes to.
    pub(super) writes: std::sync::atomic::AtomicBool,
}

impl Levers {
    /// The VMM ends: the carrier breaks, the event comes.
    pub(super) fn die(&self, status: i32) {
        let exit = VmExit {
            status: Some(ExitStatus::from_raw(status)),
            stderr: String::new(),
            cause: None,
            advice: None,
        };
        if self.exit.send_if_modified(|now| now.replace(exit.clone()).is_none()) {
            self.guest.lock().unwrap().take();
            if let Some(carrier) = self.carrier.lock().unwrap().take() {
                carrier.shutdown(std::net::Shutdown::Both).ok();
            }
            if let Some(events) = self.events.lock().unwrap().take() {
                events.try_send(VmEvent::Exited(exit)).unwrap();
            }
        }
    }

    /// The connections to the guest break, and the VM lives on.
    pub(super) fn cut(&self) {
        self.carrier.lock().unwrap().take().unwrap().shutdown(std::net::Shutdown::Both).unwrap();
    }

    /// virtiofsd ends.
    pub(super) fn end_daemon(&self) {
        self.daemon.send_replace(true);
    }

    /// The VMM has its devices.
    pub(super) fn equip(&self) {
        self.equipped.send_replace(true);
    }

    pub(super) fn is_dead(&self) -> bool {
        self.exit.borrow().is_some()
    }

    async fn dead(&self) -> VmExit {
        let mut exit = self.exit.subscribe();
        let dead = exit.wait_for(Option::is_some).await.unwrap().clone();
        dead.unwrap()
    }
}

/// A host that writes down what it is asked for.
pub(super) struct FakeHost {
    flaws: Vec<Flaw>,
    agent: Arc<FakeAgent>,
    pub(super) levers: Arc<Levers>,
    asked: Mutex<Vec<String>>,
    /// The sources of root file systems, one line each.
    pub(super) foreseen: Mutex<Vec<String>>,
    log: Arc<IntentLog>,
    /// With the shared files.
    dir: PathBuf,
    hooks: OwedHooks,
    /// What the next container may swap to.
    pub(super) swap: Mutex<Option<SwapDisk>>,
    /// The pod's network namespace, if it has one.
    pub(super) netns: Mutex<Option<PathBuf>>,
}

impl FakeHost {
    /// Keeps its intent log in `dir`.
    pub(super) fn new(flaws: &[Flaw], dir: &Path) -> (Arc<Self>, Arc<FakeAgent>) {
        let log = Arc::new(IntentLog::open(dir).unwrap());
        let agent = Arc::new(FakeAgent::new(flaws));
        let levers = Levers {
            events: Mutex::default(),
            exit: watch::Sender::new(None),
            daemon: watch::Sender::new(false),
            equipped: watch::Sender::new(!flaws.contains(&Flaw::Unequipped)),
            nics: Mutex::default(),
            portless: watch::Sender::default(),
            resized: Mutex::default(),
            most: Mutex::new(SIZE),
            kept: Mutex::new(Size { vcpus: 0, memory_mib: 0 }),
            unpinned: Mutex::default(),
            cgroup: Mutex::default(),
            vcpu_threads: Mutex::default(),
            guest: Mutex::default(),
            carrier: Mutex::default(),
            is_stuck: std::sync::atomic::AtomicBool::default(),
            writes: std::sync::atomic::AtomicBool::default(),
        };
        let host = Self {
            flaws: flaws.to_vec(),
            agent: agent.clone(),
            levers: Arc::new(levers),
            asked: Mutex::default(),
            foreseen: Mutex::default(),
            hooks: OwedHooks::new(Arc::clone(&log)),
            swap: Mutex::default(),
            netns: Mutex::default(),
            dir: dir.to_owned(),
            log,
        };
        (Arc::new(host), agent)
    }

    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// The guest comes up.
    pub(super) fn wake_guest(&self) {
        let guest = self.levers.guest.lock().unwrap().take().expect("the VM was started");
        self.agent.serve(guest, self.flaws.contains(&Flaw::Foreign));
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaws.contains(&flaw)
    }

    fn note(&self, what: String) {
        self.asked.lock().unwrap().push(what);
    }
}

#[async_trait]
impl Host for FakeHost {
    async fn boot(&self, _recorder: &Recorder) -> std::result::Result<(Machine, Box<dyn Way>), BootError> {
        self.note("boot".to_owned());
        if self.has(Flaw::NoVmm) {
            return Err("There is no QEMU".into());
        }
        if self.has(Flaw::SilentSystemd) {
            let silence = std::future::pending::<()>();
            tokio::time::timeout(kata_cgroup::SCOPES_PATIENCE, silence).await.unwrap_err();
            self.note("no scope".to_owned());
            return Err("Cannot start the scope".into());
        }
        let (host, guest) = UnixStream::pair().unwrap();
        *self.levers.carrier.lock().unwrap() = Some(host.try_clone().unwrap());
        *self.levers.guest.lock().unwrap() = Some(guest);
        let (events, receiver) = mpsc::channel(8);
        *self.levers.events.lock().unwrap() = Some(events);
        let dialer = Dialer::serial(OwnedFd::from(host)).unwrap();
        if !self.has(Flaw::Silent) && !self.has(Flaw::Late) {
            self.wake_guest();
        }
        let netns = self.netns.lock().unwrap().clone();
        let cards = match netns {
            Some(netns) => Some(cards(netns, Arc::<IntentLog>::clone(&self.log)).await.unwrap()),
            None => None,
        };
        let vmm = FakeVmm {
            agent: self.agent.clone(),
            levers: self.levers.clone(),
            events: Mutex::new(Some(receiver)),
        };
        let daemon: Arc<dyn Daemon> = Arc::new(FakeDaemon(self.levers.clone()));
        let machine = Machine {
            vmm: Box::new(vmm),
            parts: "/usr/bin/qemu".to_owned(),
            most: *self.levers.most.lock().unwrap(),
            network: kata_network::GuestNetwork::default(),
            netns: None,
            cards,
            daemon: Some(daemon),
            cgroup: self.levers.cgroup.lock().unwrap().clone(),
            files: Some(SharedFiles { dir: self.dir.clone(), daemon: u32::MAX }),
        };
        Ok((machine, Box::new(BySerial { dialer })))
    }

    fn sizing(&self) -> Sizing {
        let mut config = kata_config::Config::built_in(4);
        config.hypervisor.default_memory_mib = SIZE.memory_mib;
        config.hypervisor.overhead_memory_mib = 0;
        Sizing::new(Rule::of(&config), None)
    }

    fn pins_vcpus(&self) -> bool {
        true
    }

    fn online_cpus(&self) -> Cpus {
        (0..8).collect()
    }

    fn guest_hook_path(&self) -> String {
        String::new()
    }

    fn sandbox_storages(&self) -> Vec<Storage> {
        vec![Storage { driver: "virtio-fs".to_owned(), ..Default::default() }]
    }

    fn offers_swap(&self, _: &SwapDisk) {}

    fn swaps(&self, disk: &SwapDisk) {
        self.note(format!("swaps to {}", disk.address));
    }

    async fn pod_memory(&self, pause: &ContainerId, _: Sources) -> Result<Vec<Storage>> {
        self.note(format!("memory {pause}"));
        Ok(vec![Storage { driver: "ephemeral".to_owned(), ..Default::default() }])
    }

    async fn attach(&self, container: &ContainerId, sources: Sources, _: &Arc<Machine>) -> Result<Files> {
        self.note(format!("attach {container}"));
        if self.has(Flaw::NoFiles) {
            let source = "there is no such layer".into();
            return Err(Error::Files { action: "prepare the files", id: container.to_string(), source });
        }
        let swap = self.swap.lock().unwrap().take();
        Ok(Files { spec: sources.spec, swap, ..Files::default() })
    }

    fn foresee(&self, rootfs: &[RootfsMount]) {
        let sources: Vec<_> = rootfs.iter().map(|mount| mount.source.display().to_string()).collect();
        self.foreseen.lock().unwrap().push(sources.join(" "));
    }

    fn assigned(&self, volume: &Path) -> Option<Assigned> {
        let assigned = || Assigned { disk: Some("disk-1".to_owned()), guest_path: "/guest/volume".into() };
        (volume == Path::new("/volume")).then(assigned)
    }

    fn confine(&self, _: &mut oci_spec::runtime::Process) {}

    async fn detach(&self, container: &ContainerId) -> Result<()> {
        self.note(format!("detach {container}"));
        let detached = self.asked().iter().filter(|asked| asked.starts_with("detach")).count();
        if self.has(Flaw::StuckFiles) && detached == 1 {
            let source = "the root file system is busy".into();
            return Err(Error::Files { action: "remove the files", id: container.to_string(), source });
        }
        Ok(())
    }

    fn owe_hooks(&self, container: &ContainerId, hooks: Poststop) -> Result<()> {
        self.hooks.owe(container, hooks).unwrap();
        Ok(())
    }

    async fn run_owed_hooks(&self, container: &ContainerId) {
        self.hooks.run(container).await;
    }

    async fn writes_to_disks(&self) -> bool {
        self.levers.writes.load(std::sync::atomic::Ordering::Relaxed)
    }

    async fn undo(&self) -> Result<()> {
        self.note("undo".to_owned());
        for (id, hooks) in self.hooks.take() {
            poststop::run(&self.log, id, &hooks).await.unwrap();
        }
        Ok(())
    }
}

async fn cards(netns: PathBuf, intents: Arc<dyn Intents>) -> std::result::Result<Cards, NetworkFailure> {
    let request =
        Request { netns, model: Model::TcFilter, queues: 1, vhost: false, rates: Rates::default(), intents };
    Cards::start(request, Vec::new()).await
}

struct FakeVmm {
    agent: Arc<FakeAgent>,
    levers: Arc<Levers>,
    events: Mutex<Option<mpsc::Receiver<VmEvent>>>,
}

#[async_trait]
impl Vmm for FakeVmm {
    fn guest_works(&self) {}

    async fn vcpu_threads(&self) -> std::result::Result<Vec<u32>, kata_vmm::VmmError> {
        Ok(self.levers.vcpu_threads.lock().unwrap().clone())
    }

    fn kind(&self) -> &'static str {
        "fake"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { shared_directories: true, vsock: false, serial: true, pause: false }
    }

    fn pid(&self) -> u32 {
        PID
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
        None
    }

    fn take_events(&self) -> Option<mpsc::Receiver<VmEvent>> {
        self.events.lock().unwrap().take()
    }

    async fn ready(&self) -> std::result::Result<(), kata_vmm::VmmError> {
        self.levers.equipped.subscribe().wait_for(|equipped| *equipped).await.unwrap();
        Ok(())
    }

    async fn status(&self) -> std::result::Result<VmStatus, kata_vmm::VmmError> {
        Ok(VmStatus::Running)
    }

    async fn pause(&self) -> std::result::Result<(), kata_vmm::VmmError> {
        Ok(())
    }

    async fn resume(&self) -> std::result::Result<(), kata_vmm::VmmError> {
        Ok(())
    }

    async fn shutdown(&self, _deadline: Duration) -> VmExit {
        if self.levers.is_stuck.load(std::sync::atomic::Ordering::Relaxed) {
            return std::future::pending().await;
        }
        self.levers.die(0);
        self.levers.dead().await
    }

    async fn kill(&self) -> VmExit {
        self.levers.die(9);
        self.levers.dead().await
    }

    async fn ended(&self) {
        self.levers.dead().await;
    }

    async fn wait(&self) -> VmExit {
        self.levers.dead().await
    }
}

/// Its cards are descriptors that nobody reads.
#[async_trait]
impl NicHotplug for FakeVmm {
    async fn add_nic(&self, nic: Nic) -> std::result::Result<(), kata_vmm::VmmError> {
        let is_portless = self.levers.portless.send_if_modified(|count| {
            *count = count.map(|count| count + 1);
            count.is_some()
        });
        if is_portless {
            return Err(kata_vmm::VmmError::NoPort { count: 1 });
        }
        self.levers.nics.lock().unwrap().push(nic);
        Ok(())
    }

    async fn remove_nic(&self, id: &str) -> std::result::Result<(), kata_vmm::VmmError> {
        self.levers.nics.lock().unwrap().retain(|nic| nic.id != id);
        Ok(())
    }
}

/// Its disks are told of, and keep their first MiB.
#[async_trait]
impl DiskHotplug for FakeVmm {
    async fn add_disk(&self, _: Disk) -> std::result::Result<DiskAddress, kata_vmm::VmmError> {
        Ok(DiskAddress::Pci("02/00".to_owned()))
    }

    async fn remove_disk(&self, _: &str) -> std::result::Result<(), kata_vmm::VmmError> {
        Ok(())
    }

    async fn resize_disk(&self, id: &str, bytes: u64) -> std::result::Result<(), kata_vmm::VmmError> {
        let present = 1 << 20;
        if bytes < present {
            return Err(kata_vmm::VmmError::DiskShrinks { id: id.to_owned(), present, wanted: bytes });
        }
        self.levers.resized.lock().unwrap().push(format!("{id} {bytes}"));
        Ok(())
    }

    fn disk_address(&self, _: &str) -> Option<DiskAddress> {
        None
    }
}

/// Its guest gives everything back at once.
#[async_trait]
impl Resize for FakeVmm {
    async fn set_vcpus(&self, vcpus: u32) -> std::result::Result<u32, kata_vmm::VmmError> {
        self.agent.note(format!("vCPUs {vcpus}"));
        if vcpus < self.levers.kept.lock().unwrap().vcpus {
            return Err(kata_vmm::VmmError::VcpuInUse { id: "cpu1".into(), deadline: Duration::ZERO });
        }
        Ok(vcpus)
    }

    async fn set_affinity(&self, affinity: &Affinity) -> std::result::Result<bool, kata_vmm::VmmError> {
        self.agent.note(format!("Pin {} {:?}", affinity.each.unwrap_or(0), affinity.cpus));
        let mut unpinned = self.levers.unpinned.lock().unwrap();
        if *unpinned > 0 {
            *unpinned -= 1;
            return Err(kata_vmm::VmmError::MemorySize { mib: 0, min: 0, max: 0 });
        }
        Ok(true)
    }

    async fn request_memory(&self, mib: u32) -> std::result::Result<u32, kata_vmm::VmmError> {
        self.agent.note(format!("memory {mib}"));
        let present = self.levers.kept.lock().unwrap().memory_mib;
        if mib < present {
            let patience = Duration::ZERO;
            return Err(kata_vmm::VmmError::MemoryKept { present, wanted: mib, patience });
        }
        Ok(mib)
    }

    async fn memory_settled(&self, _: Duration) -> std::result::Result<u32, kata_vmm::VmmError> {
        Ok(self.levers.kept.lock().unwrap().memory_mib)
    }
}

struct FakeDaemon(Arc<Levers>);

#[async_trait]
impl Daemon for FakeDaemon {
    fn program(&self) -> PathBuf {
        "/usr/libexec/virtiofsd".into()
    }

    fn pid(&self) -> u32 {
        DAEMON_PID
    }

    async fn wait(&self) -> DaemonEnd {
        let mut daemon = self.0.daemon.subscribe();
        let clean = tokio::select! {
            ended = daemon.wait_for(|ended| *ended) => ended.is_err(),
            _ = self.0.dead() => true,
        };
        DaemonEnd { how: format!("virtiofsd exited with status {}", i32::from(!clean)), clean }
    }
}
