//! The real host: VMs, shared directories and their daemons.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use kata_cgroup::{Cgroup, CgroupError, Request as CgroupRequest, Systemd};
use kata_config::{Hypervisor, SharedFs};
use kata_intent::{Intent, Intents};
use kata_network::Request;
use kata_protocol::agent::Storage;
use kata_protocol::guest;
use kata_storage::RootfsMount;
use kata_storage::daemon;
use kata_storage::nydus::nydusd;
use kata_storage::sandbox_mounts::SandboxMount;
use kata_storage::share::{ContainerFiles, SharedDirectory};
use kata_storage::virtiofsd;
use kata_storage::volumes;
use kata_vmm::{MemoryHotplug, Share, ShareBackend, VmPlan, Vmm};
use oci_spec::runtime::Process;
use tokio::sync::{Mutex, OnceCell, SetOnce};
use tokio::time::timeout;

use crate::cleanup::replay;
use crate::cpuset::Cpus;
use crate::direct::{Assigned, Assigning, Claimed, direct_volumes};
use crate::disks::{Disks, Growth, Manner, Roots, Wanted};
use crate::error::{Result, SandboxError as Error};
use crate::foreseen::{Foreseen, is_on_disks};
use crate::gone::NEWS_PATIENCE;
use crate::hooks::Poststop;
use crate::host::{BootError, Daemon, DaemonEnd, Files, Host, Machine, SharedFiles, Sources, Way};
use crate::images::Images;
use crate::intent_log::IntentLog;
use crate::labels::Labels;
use crate::launch::{CONSOLE_FILE, FirstContainer, LaunchSpec};
use crate::network::{self, Card, Cards, Connected, NetworkFailure, Place};
use crate::plan::{Parts, choose_accelerator, memory_hotplug, shared_directory, vm_plan};
use crate::poststop::OwedHooks;
use crate::prepare::{Preparation, memory};
use crate::sizing::{Size, Sizing};
use crate::swap::{self, Swap, SwapDisk};
use crate::timeline::{Moment, Recorder, phase};
use crate::underway::Underway;
use crate::{ContainerId, cpuset, numa, pod, way};

/// Where shared directories are, below it.
const RUN: &str = "/run";

/// The kernel's list of the CPUs that run.
const ONLINE_CPUS: &str = "/sys/devices/system/cpu/online";

/// What the VMM and virtiofsd may need beyond the guest's memory, as in the usual RuntimeClass.
const OVERHEAD_MIB: u64 = 160;

/// How long the VM waits for the request for its first container. containerd sends it at once: it is there before
/// virtiofsd runs.
const ROOT_PATIENCE: Duration = Duration::from_secs(1);
/// The same where the VM may turn out to need no shared directory: it has nothing else to do. Before the VM must be there
/// (`SPAWN_PATIENCE`).
const ONLY_ROOT_PATIENCE: Duration = Duration::from_secs(10);

/// A container that needs files of the host is in a VM that was made for one that does not.
#[derive(Debug, thiserror::Error)]
#[error(
    "The VM has no shared directory: it was started for a container whose root file system is on disks and that binds \
     nothing; has a hook added a mount, or is a second container to be in it?"
)]
struct NothingShared;

/// Makes what one sandbox needs on this machine.
pub(crate) struct LocalHost {
    spec: LaunchSpec,
    /// The first container's root file system, as soon as it is known.
    first_root: SetOnce<Vec<RootfsMount>>,
    dir: PathBuf,
    log: Arc<IntentLog>,
    underway: Underway,
    share: OnceCell<Arc<SharedDirectory>>,
    /// Done when the guest's own mounts are in the share.
    sandbox_mounts: OnceCell<()>,
    /// The containers' files, each of which only one operation at a time works on.
    files: Mutex<HashMap<ContainerId, Arc<std::sync::Mutex<ContainerFiles>>>>,
    hooks: OwedHooks,
    volumes: Arc<Assigning>,
    disks: Arc<Disks>,
    growth: Growth,
    preparation: Arc<Preparation>,
    swap: Swap,
    /// Whether the VM was started with a shared directory.
    shares: SetOnce<bool>,
    /// If nydusd shares the files.
    images: Option<Images>,
    /// The host's cgroups, once this process is in them.
    cgroup: SetOnce<Cgroup>,
    /// The VM, from the first container on: who takes disks out needs it.
    machine: std::sync::Mutex<Weak<Machine>>,
}

impl LocalHost {
    /// `dir` is the sandbox's state directory, with `log` in it.
    pub(crate) fn new(spec: LaunchSpec, dir: PathBuf, log: Arc<IntentLog>) -> Self {
        let hooks = OwedHooks::new(Arc::clone(&log));
        let volumes = direct_volumes(&spec.state_root);
        let volumes = Assigning::new(volumes, spec.id.as_str(), Arc::<IntentLog>::clone(&log));
        let disks = Disks::new(Manner::of(&spec.config.hypervisor.block_devices));
        let preparation = Preparation::of(&spec);
        let images = (spec.config.hypervisor.shared_fs == SharedFs::VirtioFsNydus).then(|| Images::new(&dir));
        Self {
            spec,
            first_root: SetOnce::new(),
            dir,
            log,
            underway: Underway::default(),
            share: OnceCell::new(),
            sandbox_mounts: OnceCell::new(),
            files: Mutex::default(),
            hooks,
            volumes: Arc::new(volumes),
            disks: Arc::new(disks),
            growth: Growth::default(),
            preparation: Arc::new(preparation),
            swap: Swap::default(),
            shares: SetOnce::new(),
            images,
            cgroup: SetOnce::new(),
            machine: std::sync::Mutex::default(),
        }
    }

    /// Ports for network cards, disks and memory. Whatever the network, there is one for a controller of disks.
    fn ports(&self, place: &Place, cards: usize) -> u8 {
        let more = self.spec.config.hypervisor.block_devices.ports;
        let memory = u8::from(memory_hotplug(&self.spec.config.hypervisor) == MemoryHotplug::VirtioMem);
        let swap = u8::from(self.spec.config.hypervisor.memory.has_swap);
        let devices = more.saturating_add(memory).saturating_add(swap);
        place.ports(cards).max(1).saturating_add(devices).min(network::MOST_PORTS)
    }

    /// What the first container needs of the VM from the start.
    async fn foreseen(&self) -> std::result::Result<Foreseen, BootError> {
        let disks = Arc::clone(&self.disks);
        let id: ContainerId = self.spec.id.as_str().parse()?;
        let rootfs = self.first_root().await.to_vec();
        let sources = Sources { bundle: self.spec.bundle.clone(), rootfs, spec: self.spec.spec.clone() };
        let layers = self.has_disks().then_some(Path::new(guest::LAYERS_DIR));
        let roots = self.roots(layers);
        let work = move || Foreseen::of(&id, sources, roots, &disks);
        Ok(self.underway.join(work).await?)
    }

    /// Whether a VM without a shared directory may do: its only container binds nothing of the host's, as far as that is
    /// known without its root file system.
    fn may_share_nothing(&self) -> bool {
        let mounts = self.spec.spec.mounts().as_deref().unwrap_or_default();
        self.spec.first == FirstContainer::Alone
            && self.spec.config.runtime.sandbox_bind_mounts.is_empty()
            && !volumes::may_bind_files(mounts)
    }

    /// Whether the VM has a shared directory, or will have.
    fn shares(&self) -> bool {
        self.shares.get().copied().unwrap_or(true)
    }

    /// Root file systems may be on disks.
    fn has_disks(&self) -> bool {
        !self.spec.config.hypervisor.block_devices.disabled
    }

    fn roots<'a>(&self, layers: Option<&'a Path>) -> Roots<'a> {
        let guest_pull = self.spec.config.runtime.force_guest_pull;
        Roots { layers, guest_pull, nydus: self.images.is_some() }
    }

    /// The first container's root file system; empty if nothing of it can be a disk, or if it is not known in time. Its
    /// disks are plugged in later then.
    async fn first_root(&self) -> &[RootfsMount] {
        let may_be = self.has_disks() && !self.spec.config.runtime.force_guest_pull;
        if self.spec.first == FirstContainer::Later || !may_be {
            return &[];
        }
        let patience = if self.may_share_nothing() { ONLY_ROOT_PATIENCE } else { ROOT_PATIENCE };
        timeout(patience, self.first_root.wait()).await.map_or(&[], Vec::as_slice)
    }

    /// What of a container is on disks, or made by the guest alone.
    async fn wanted(&self, container: &ContainerId, mut sources: Sources) -> Result<(Sources, Wanted)> {
        let layers = self.has_disks().then(|| self.disks.layers());
        let roots = self.roots(None);
        let container = container.clone();
        self.underway
            .run(move || {
                let roots = Roots { layers: layers.as_deref(), ..roots };
                match Wanted::of(&container, &mut sources, roots) {
                    Ok(wanted) => Ok((sources, wanted)),
                    Err(source) => Err(unprepared(&container, source)),
                }
            })
            .await
    }

    /// The VMM has it now, and a name could only outlive the container.
    async fn forget_layer(
        &self,
        container: &ContainerId,
        files: Arc<std::sync::Mutex<ContainerFiles>>,
    ) -> Result<()> {
        let id = container.clone();
        let work = move || {
            let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
            files.forget_layer().map_err(|source| unprepared(&id, source.into()))
        };
        self.underway.run(work).await
    }

    /// A container's direct-assigned volumes, from now on this sandbox's.
    async fn claim(&self, container: &ContainerId, sources: Sources) -> Result<(Sources, Vec<Claimed>)> {
        let (volumes, container) = (Arc::clone(&self.volumes), container.clone());
        self.underway
            .run(move || match volumes.claim(&sources.spec, &sources.bundle) {
                Ok(claimed) => Ok((sources, claimed)),
                Err(source) => Err(unprepared(&container, source.into())),
            })
            .await
    }

    /// The disk that the VM needs besides those it has, if this container may swap so much.
    async fn swap_disk(
        &self,
        container: &ContainerId,
        bytes: u64,
        machine: &Machine,
    ) -> std::result::Result<Option<SwapDisk>, BootError> {
        let Some((id, bytes)) = self.swap.want(container, bytes) else { return Ok(None) };
        let dir = self.spec.config.hypervisor.memory.swap_dir.clone();
        let file = self.underway.join(move || kata_storage::swap::create(&dir, bytes)).await??;
        let address = self.disks.plug_swap(id.clone(), file, machine.vmm.disk_hotplug()).await?;
        let disk = SwapDisk { id, address, bytes };
        self.swap.plugged(container, &disk);
        Ok(Some(disk))
    }

    /// The shared directory, made by whoever needs it first.
    async fn share(&self) -> std::result::Result<Arc<SharedDirectory>, BootError> {
        let made = self.share.get_or_try_init(async || {
            let (id, log) = (self.spec.id.to_string(), Arc::clone(&self.log));
            let work = move || SharedDirectory::create(Path::new(RUN), &id, log);
            Ok::<_, BootError>(Arc::new(self.underway.join(work).await??))
        });
        made.await.cloned()
    }

    /// Shares what the configuration has for the guest itself, once, when virtiofsd stands.
    async fn share_with_guest(&self, share: &Arc<SharedDirectory>) -> std::result::Result<(), BootError> {
        let named = &self.spec.config.runtime.sandbox_bind_mounts;
        if named.is_empty() {
            return Ok(());
        }
        let made = self.sandbox_mounts.get_or_try_init(async || {
            let mounts: Vec<_> = named
                .iter()
                .map(|mount| SandboxMount { source: mount.path.clone(), read_only: mount.read_only })
                .collect();
            let share = Arc::clone(share);
            let work = move || share.mount_for_guest(&mounts);
            Ok::<_, BootError>(self.underway.join(work).await??)
        });
        made.await.copied()
    }
}

/// How many files the daemon of the shared directory may have open, if it holds a descriptor for each.
fn shared_files(vm: &Hypervisor) -> Option<u64> {
    (vm.shared_fs == SharedFs::VirtioFs).then(|| virtiofsd::files_of_guest(&vm.virtio_fs_extra_args))
}

impl LocalHost {
    /// Makes the host's cgroups, and goes where what this process starts is to be.
    async fn enter_cgroup(&self) -> std::result::Result<Cgroup, BootError> {
        let path = self.spec.spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone());
        let memory = u64::from(self.spec.sizing.plan().boot.size.memory_mib) + OVERHEAD_MIB;
        let (id, log) = (self.spec.id.to_string(), Arc::clone(&self.log));
        let sandbox_only = self.spec.config.runtime.sandbox_cgroup_only;
        // The kernel takes some milliseconds to move a process with threads, and so does systemd.
        let work = move || {
            let systemd = Systemd::of_host();
            let (cgroups_path, memory, systemd) = (path.as_deref(), memory << 20, systemd.as_ref());
            let request = CgroupRequest { cgroups_path, id: &id, memory, sandbox_only, systemd };
            let cgroup = Cgroup::make(request, log)?;
            cgroup.join();
            Ok::<_, CgroupError>(cgroup)
        };
        let cgroup = self.underway.join(work).await??;
        self.cgroup.set(cgroup.clone()).ok();
        Ok(cgroup)
    }

    /// What shows the shared directory to the guest: a daemon, or the VMM itself.
    async fn exporter(&self) -> std::result::Result<(Option<daemon::Daemon>, Share), BootError> {
        let share = self.share().await?;
        let log: Arc<dyn Intents> = Arc::<IntentLog>::clone(&self.log);
        let vm = &self.spec.config.hypervisor;
        let started = match vm.shared_fs {
            SharedFs::VirtioFs => Some(virtiofsd::spawn(&self.virtiofsd(&share), log)?),
            SharedFs::VirtioFsNydus => Some(nydusd::start(&self.nydusd(&share), log).await?),
            SharedFs::Virtio9p => None,
        };
        let (daemon, backend) = match started {
            Some((daemon, socket)) => {
                (Some(daemon), ShareBackend::VhostUser { socket, queue_size: vm.virtio_fs_queue_size })
            }
            None => (None, ShareBackend::NineP { dir: share.exported_dir() }),
        };
        Ok((daemon, Share { tag: guest::SHARE_TAG.to_owned(), backend }))
    }

    /// What the VM is started with for its first container, and what shows it the shared directory, if it needs one.
    async fn first_things(
        &self,
    ) -> std::result::Result<(Foreseen, Option<daemon::Daemon>, Option<Share>), BootError> {
        if !self.may_share_nothing() {
            let (daemon, share) = self.exporter().await?;
            return Ok((self.foreseen().await?, daemon, Some(share)));
        }
        let foreseen = self.foreseen().await?;
        if foreseen.is_on_disks {
            return Ok((foreseen, None, None));
        }
        let (daemon, share) = self.exporter().await?;
        Ok((foreseen, daemon, Some(share)))
    }

    /// The VMM's end of its socket is connected before it listens.
    fn virtiofsd(&self, share: &SharedDirectory) -> virtiofsd::DaemonPlan {
        let vm = &self.spec.config.hypervisor;
        virtiofsd::DaemonPlan {
            binary: vm.virtio_fs_daemon.clone(),
            shared_dir: share.exported_dir(),
            socket_dir: share.root().to_owned(),
            cache: vm.virtio_fs_cache.clone(),
            seccomp: !vm.disable_seccomp,
            debug: vm.enable_debug,
            extra_args: vm.virtio_fs_extra_args.clone(),
        }
    }

    fn nydusd(&self, share: &SharedDirectory) -> nydusd::NydusdPlan {
        let vm = &self.spec.config.hypervisor;
        nydusd::NydusdPlan {
            binary: vm.virtio_fs_daemon.clone(),
            shared_dir: share.exported_dir(),
            socket_dir: self.dir.clone(),
            debug: vm.enable_debug,
            extra_args: vm.virtio_fs_extra_args.clone(),
        }
    }

    /// Starts the VMM's process.
    async fn start_vm(&self, plan: VmPlan) -> std::result::Result<Box<dyn Vmm>, BootError> {
        let announced = self.log.will(Intent::Process {
            argv_token: format!("sandbox-{}", self.spec.id),
            exe: plan.binary.clone(),
        })?;
        match kata_vmm::launch(plan).await {
            Ok(vmm) => Ok(vmm),
            Err(error) => {
                self.log.done(announced);
                Err(error.into())
            }
        }
    }
}

#[async_trait]
impl Daemon for daemon::Daemon {
    fn program(&self) -> PathBuf {
        self.binary().to_owned()
    }

    fn pid(&self) -> u32 {
        Self::pid(self)
    }

    async fn wait(&self) -> DaemonEnd {
        let exit = Self::wait(self).await;
        let clean = exit.status.is_some_and(|status| status.success());
        DaemonEnd { how: exit.to_string(), clean }
    }
}

#[async_trait]
impl Host for LocalHost {
    async fn boot(&self, recorder: &Recorder) -> std::result::Result<(Machine, Box<dyn Way>), BootError> {
        let begun = Moment::now();
        let choice = choose_accelerator(&self.spec.config)?;
        recorder.edit(|timeline| {
            timeline.accelerator = Some(choice.accelerator.to_string());
            timeline.accelerator_reason = Some(choice.reason.clone());
        });
        let cgroup = self.enter_cgroup().await?;
        let (foreseen, daemon, share) = self.first_things().await?;
        self.shares.set(share.is_some()).ok();
        let shared = if daemon.is_some() { phase::SHARE } else { phase::SHARE_WITHOUT_DAEMON };
        let begun = recorder.since(shared, begun);
        let place = Place::of(&self.spec.spec);
        let log: Arc<dyn Intents> = Arc::<IntentLog>::clone(&self.log);
        let Connected { nics, guest, cards, request } =
            network::connect(place.clone(), &self.spec.config, Arc::clone(&log)).await?;
        let begun = recorder.since(phase::NETWORK, begun);
        let (prepared, agent) = way::prepare()?;
        let (size, most) = (self.spec.sizing.plan().boot.size, self.spec.sizing.plan().most);
        let parts = Parts {
            size,
            most,
            numa: numa::nodes(&self.spec.config, choice.accelerator, (size, most)).await?,
            accelerator: choice.accelerator,
            agent,
            doorbell_port: prepared.doorbell_port(),
            shared_files: daemon.as_ref().and_then(|_| shared_files(&self.spec.config.hypervisor)),
            shares: share.into_iter().collect(),
            cgroup: cgroup.clone(),
            hotplug_ports: self.ports(&place, nics.len()),
            disks: foreseen.disks,
            nics,
            netns: place.of_vmm(),
            console_log: self.dir.join(CONSOLE_FILE),
        };
        let plan = vm_plan(&self.spec.id, &self.spec.config, parts)?;
        let most = Size { vcpus: plan.max_vcpus, memory_mib: plan.most_memory_mib() };
        let vmm = self.start_vm(plan).await?;
        recorder.edit(|timeline| timeline.vmm = Some(vmm.kind().to_owned()));
        recorder.since(phase::VMM, begun);
        let request = request.or_else(|| network::of_own(&place, vmm.pid(), &self.spec.config, log));
        let cards = match request {
            Some(request) => follow(request, cards, &*vmm).await?,
            None => None,
        };
        let way = prepared.into_way(&*vmm)?;
        let parts = boot_parts(&self.spec.config.hypervisor);
        let netns = place.of_pod();
        // Who watches files is told what the host changes where virtiofsd shares them: with 9p the guest's kernel does not
        // ask, and it cannot tell nydusd's files by where they are on the host.
        let dir = self.share().await?.writable_dir();
        let watched = daemon.as_ref().filter(|_| self.images.is_none());
        let files = watched.map(|daemon| SharedFiles { dir, daemon: daemon.pid() });
        let daemon = daemon.map(|daemon| Arc::new(daemon) as Arc<dyn Daemon>);
        Ok((Machine { vmm, parts, most, daemon, cgroup, files, network: guest, netns, cards }, way))
    }

    fn foresee(&self, rootfs: &[RootfsMount]) {
        // The later ones come to a VM that runs.
        self.first_root.set(rootfs.to_vec()).ok();
    }

    fn sizing(&self) -> Sizing {
        self.spec.sizing.clone()
    }

    fn pins_vcpus(&self) -> bool {
        self.spec.config.runtime.enable_vcpus_pinning
    }

    fn online_cpus(&self) -> Cpus {
        // A kernel of a single CPU has no list.
        fs::read_to_string(ONLINE_CPUS)
            .ok()
            .and_then(|list| cpuset::parse(&list))
            .unwrap_or_else(|| [0].into())
    }

    fn guest_hook_path(&self) -> String {
        self.spec.config.hypervisor.guest_hook_path.clone()
    }

    fn sandbox_storages(&self) -> Vec<Storage> {
        let share = self.shares().then(|| shared_directory(&self.spec.config.hypervisor));
        let of_pod = self.spec.pod.as_ref().map(|_| memory(&pod::memory()));
        share.into_iter().chain(of_pod).collect()
    }

    async fn attach(
        &self,
        container: &ContainerId,
        mut sources: Sources,
        machine: &Arc<Machine>,
    ) -> Result<Files> {
        let failed = |source| unprepared(container, source);
        *self.machine.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(machine);
        if let Some(pod) = &self.spec.pod {
            pod.share(&self.dir, &mut sources.spec).map_err(|error| failed(error.into()))?;
        }
        Labels::of(&self.spec.config).confine_container(&mut sources.spec);
        cpuset::keep_spec_from_guest(&mut sources.spec);
        let vm = &self.spec.config.hypervisor;
        let swap = swap::limit(&mut sources.spec, vm.memory.has_swap, vm.default_memory_mib);
        let swap = swap.map_err(|error| failed(error.into()))?;
        let (sources, wanted) = self.wanted(container, sources).await?;
        if !self.shares() && !is_on_disks(&wanted, &sources.spec) {
            return Err(failed(NothingShared.into()));
        }
        let (sources, volumes) = self.claim(container, sources).await?;
        let share = self.share().await.map_err(failed)?;
        if self.shares() {
            self.share_with_guest(&share).await.map_err(failed)?;
        }
        let files = share.container(container.as_str()).map_err(|error| failed(error.into()))?;
        let files = Arc::new(std::sync::Mutex::new(files));
        self.files.lock().await.insert(container.clone(), Arc::clone(&files));
        for Claimed { volume, guest_path, .. } in &volumes {
            let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
            files.assign(volume.clone(), guest_path.clone());
        }
        let (preparation, id, of_container) =
            (Arc::clone(&self.preparation), container.clone(), Arc::clone(&files));
        let (mut prepared, wanted) = self
            .underway
            .run(move || {
                let mut files = of_container.lock().unwrap_or_else(PoisonError::into_inner);
                let prepared = preparation.prepare(&mut files, &id, sources, wanted);
                prepared.map_err(|source| unprepared(&id, source))
            })
            .await?;
        let told = wanted.attach(container, &self.disks, machine.vmm.disk_hotplug()).await;
        let told = told.map_err(|error| failed(error.into()))?;
        self.growth.follow(&self.disks, machine);
        prepared.storages.extend(told.storages);
        if wanted.is_limited() {
            self.forget_layer(container, files).await?;
        }
        if let (Some(images), Some(image)) = (&self.images, wanted.image()) {
            images.mount(container, image).await.map_err(|error| failed(error.into()))?;
        }
        let attached =
            self.volumes.attach(container, &volumes, &self.disks, machine.vmm.disk_hotplug()).await;
        prepared.storages.extend(attached.map_err(|error| failed(error.into()))?);
        prepared.devices = told.devices;
        prepared.swap = self.swap_disk(container, swap, machine).await.map_err(failed)?;
        Ok(prepared)
    }

    fn offers_swap(&self, disk: &SwapDisk) {
        self.swap.offered(disk);
    }

    fn swaps(&self, disk: &SwapDisk) {
        self.swap.add(disk.bytes);
    }

    async fn pod_memory(&self, pause: &ContainerId, sources: Sources) -> Result<Vec<Storage>> {
        let failed = |source| unprepared(pause, source);
        let share = self.share().await.map_err(failed)?;
        let memories = self.underway.join(move || {
            let mounts = sources.spec.mounts().as_deref().unwrap_or_default();
            share.memories(mounts, &sources.bundle)
        });
        let memories = memories.await.map_err(|error| failed(error.into()))?;
        let memories = memories.map_err(|error| failed(error.into()))?;
        Ok(memories.iter().map(memory).collect())
    }

    fn assigned(&self, volume: &Path) -> Option<Assigned> {
        self.volumes.assigned(volume)
    }

    fn confine(&self, process: &mut Process) {
        Labels::of(&self.spec.config).confine(process);
    }

    async fn detach(&self, container: &ContainerId) -> Result<()> {
        let machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        let vm = machine.as_ref().and_then(|machine| machine.vmm.disk_hotplug());
        self.disks.detach(container, vm).await;
        if let Some(disk) = self.swap.forget(container) {
            self.disks.unplug_swap(&disk, vm).await;
        }
        if let Some(images) = &self.images {
            images.unmount(container).await;
        }
        let Some(files) = self.files.lock().await.get(container).cloned() else { return Ok(()) };
        let id = container.to_string();
        self.underway
            .run(move || {
                let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
                files.remove().map_err(|error| Error::Files {
                    action: "remove the files",
                    id,
                    source: error.into(),
                })
            })
            .await?;
        self.files.lock().await.remove(container);
        Ok(())
    }

    fn owe_hooks(&self, container: &ContainerId, hooks: Poststop) -> Result<()> {
        let owed = self.hooks.owe(container, hooks);
        owed.map_err(|source| Error::State { path: self.dir.clone(), source })
    }

    async fn run_owed_hooks(&self, container: &ContainerId) {
        self.hooks.run(container).await;
    }

    async fn writes_to_disks(&self) -> bool {
        self.disks.are_written()
    }

    async fn undo(&self) -> Result<()> {
        if let Some(cgroup) = self.cgroup.get().cloned() {
            self.underway
                .run(move || {
                    cgroup.leave();
                    Ok(())
                })
                .await?;
        }
        self.underway.end(&self.log).await;
        // What is still owed after an attempt that failed is in the log only.
        let log = Arc::clone(&self.log);
        let path = self.dir.clone();
        let owed = self
            .underway
            .run(move || log.pending_hooks().map_err(|source| Error::State { path, source }))
            .await;
        let owed = owed.unwrap_or_else(|_| self.hooks.take());
        replay(Arc::clone(&self.log), &self.dir, &self.spec.id, owed).await
    }
}

fn unprepared(container: &ContainerId, source: BootError) -> Error {
    Error::Files { action: "prepare the files", id: container.to_string(), source }
}

/// A VMM that has ended takes its namespace along: that is told by its own end, which says more.
async fn follow(
    request: Request,
    cards: Vec<Card>,
    vmm: &dyn Vmm,
) -> std::result::Result<Option<Cards>, NetworkFailure> {
    match Cards::start(request, cards).await {
        Err(_) if timeout(NEWS_PATIENCE, vmm.wait()).await.is_ok() => Ok(None),
        started => started.map(Some),
    }
}

/// What an error of the VMM may be about.
fn boot_parts(vm: &Hypervisor) -> String {
    let initrd = vm.initrd.as_deref().unwrap_or(Path::new("none"));
    format!("{} with kernel {} and initrd {}", vm.path.display(), vm.kernel.display(), initrd.display())
}
