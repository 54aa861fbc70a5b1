//! The sandbox inside the guest: its containers, mounts and settings.

mod making;
mod oom;
mod parts;
mod stale;
mod volumes;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use kata_protocol::agent::{CreateSandboxRequest, Device, Storage};
use kata_protocol::oci::{Process, Spec};
use tokio::sync::Notify;

use crate::cgroup::{Cgroup, Hierarchy};
use crate::clock::Stopwatch;
use crate::container::devices::{self, DeviceError};
use crate::container::holder;
use crate::container::launch::{Launcher, Start, Verb};
use crate::container::sharing::{self, First};
use crate::container::spec::{self, GuestSysctls, Surroundings};
use crate::container::{Container, ContainerError, Made, Parts};
use crate::hooks::{self, GuestHooks, HookError};
use crate::id::ContainerId;
use crate::image::{self, PullError, PullOptions};
use crate::logging;
use crate::network::{Network, NetworkError};
use crate::reaper::Reaper;
use crate::resources;
use crate::stdio::ports::StdioPorts;
use crate::stdio::{ChildEnds, Prepared, Request, Target};
use crate::storage::{self, Mounts, Volumes};
use crate::swap;

use crate::watches::Watches;
use making::Containers;
use oom::OomEvents;
use stale::Stale;

pub(crate) use making::CallOff;

/// The guest's resolver configuration, for containers that share it.
const RESOLV_CONF: &str = "/run/kata-containers/sandbox/resolv.conf";

/// Why a request to the sandbox failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    /// No such container.
    #[error("There is no container {id}")]
    NoContainer { id: ContainerId },
    /// The name is taken.
    #[error("There already is a container {id}; remove it first or choose another id")]
    Exists { id: ContainerId },
    /// No cgroup v2.
    #[error("There is no writable cgroup v2 hierarchy; mount one and name it in KATA_AGENT_CGROUP_ROOT")]
    NoCgroups,
    /// Nobody waits for it, or it was removed before it was there.
    #[error("The container {id} is not wanted any more: its creation was called off")]
    CalledOff { id: ContainerId },
    /// The host asks for something that this agent has not.
    #[error("{what} is not supported by this agent; leave it out")]
    Unsupported { what: &'static str },
    /// Of the agent's own log.
    #[error("{level:?} is no log level; say error, warn, info, debug or trace")]
    LogLevel { level: String },
    /// The guest is not the agent's.
    #[error("{what} belongs to the host on which this agent runs without a VM")]
    NotOwned { what: &'static str },
    /// A setting of the guest was refused.
    #[error("Cannot set {what}")]
    Setting { what: String, source: io::Error },
    /// The container's specification.
    #[error(transparent)]
    Spec(#[from] spec::SpecError),
    /// Nor can its user namespace be shared.
    #[error(transparent)]
    Ids(#[from] sharing::OtherIds),
    /// A device of the container.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The container.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// A hook.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// A mount.
    #[error(transparent)]
    Storage(#[from] storage::StorageError),
    /// An image that is to be pulled.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// A directory in shared memory.
    #[error(transparent)]
    Part(#[from] parts::PartError),
    /// A volume that cannot become larger.
    #[error(transparent)]
    Growth(#[from] storage::growth::GrowthError),
    /// A volume that cannot be asked.
    #[error(transparent)]
    Usage(#[from] storage::usage::UsageError),
    /// The network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// What the guest cannot swap to.
    #[error(transparent)]
    Swap(#[from] swap::SwapError),
    /// CPUs or memory that come and go.
    #[error(transparent)]
    Resource(#[from] resources::ResourceError),
}

/// Result of a request to the sandbox.
pub(crate) type Result<T> = std::result::Result<T, SandboxError>;

/// A container to be made.
#[derive(Debug)]
pub(crate) struct NewContainer {
    /// Its name.
    pub(crate) id: ContainerId,
    /// The host's specification, with the guest's paths.
    pub(crate) spec: Spec,
    /// What is mounted for it first.
    pub(crate) storages: Vec<Storage>,
    /// Disks that are devices in it.
    pub(crate) devices: Vec<Device>,
    /// Where its first process's streams lead.
    pub(crate) stdio: Request,
    /// It joins the sandbox's pid namespace.
    pub(crate) shares_pids: bool,
    /// Says when it is not wanted any more.
    pub(crate) call_off: CallOff,
}

/// What the agent is made with.
#[derive(Debug)]
pub(crate) struct Setup {
    /// What the agent says.
    pub(crate) log: logging::Control,
    /// The agent is PID 1: the whole guest is the sandbox's.
    pub(crate) owns_guest: bool,
    /// The network namespace is the sandbox's.
    pub(crate) owns_network: bool,
    /// Bytes that a stdio pipe holds.
    pub(crate) pipe_size: usize,
    /// Within this time a device that a request names must appear.
    pub(crate) hotplug_timeout: Duration,
    /// How images are pulled.
    pub(crate) pull: PullOptions,
    /// Where cgroups are.
    pub(crate) hierarchy: Option<Hierarchy>,
    /// Learns the end of processes.
    pub(crate) reaper: Reaper,
    /// Where raw stdio streams arrive.
    pub(crate) ports: StdioPorts,
}

/// The sandbox.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) owns_guest: bool,
    pub(crate) log: logging::Control,
    pub(crate) oom: OomEvents,
    /// What is watched of the host's files.
    pub(crate) watches: Watches,
    /// None if it is not the agent's to change.
    network: Option<Network>,
    pipe_size: usize,
    hotplug_timeout: Duration,
    pull: PullOptions,
    hierarchy: Option<Hierarchy>,
    launcher: Arc<Launcher>,
    reaper: Reaper,
    /// For every container; none until the sandbox is configured.
    hooks: OnceLock<GuestHooks>,
    ports: StdioPorts,
    containers: Containers,
    mounts: Mutex<Mounts>,
    volumes: Volumes,
    /// Mount points of containers' storages that the sandbox holds, too.
    kept: Mutex<BTreeSet<String>>,
    stale: Stale,
    /// Whose namespaces the others share.
    first: Mutex<Option<First>>,
    /// What the containers share of a sandbox that was started without one: none of them is the first then.
    pod: OnceLock<Spec>,
    /// What then keeps the namespaces; none until a container shares any, or the pod says which.
    holder: tokio::sync::Mutex<Option<Container>>,
    power_off: Notify,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is complete before anything can panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Agent {
    /// An empty sandbox.
    pub(crate) fn new(setup: Setup) -> Self {
        Self {
            owns_guest: setup.owns_guest,
            log: setup.log,
            oom: OomEvents::default(),
            watches: Watches::default(),
            network: setup.owns_network.then(Network::owned),
            pipe_size: setup.pipe_size,
            hotplug_timeout: setup.hotplug_timeout,
            pull: setup.pull,
            hierarchy: setup.hierarchy,
            launcher: Arc::new(Launcher::new(setup.reaper.clone())),
            reaper: setup.reaper,
            hooks: OnceLock::new(),
            ports: setup.ports,
            containers: Containers::default(),
            mounts: Mutex::default(),
            volumes: Volumes::default(),
            kept: Mutex::default(),
            stale: Stale::default(),
            first: Mutex::default(),
            pod: OnceLock::new(),
            holder: tokio::sync::Mutex::default(),
            power_off: Notify::new(),
        }
    }

    /// Configures the sandbox as a whole.
    pub(crate) async fn configure(&self, request: CreateSandboxRequest) -> Result<()> {
        if !request.kernel_modules.is_empty() {
            return Err(SandboxError::Unsupported { what: "Loading kernel modules" });
        }
        if !request.guest_hook_path.is_empty() {
            let hooks = GuestHooks::below(Path::new(&request.guest_hook_path))?;
            // A sandbox is configured once.
            let _ = self.hooks.set(hooks);
        }
        if self.owns_guest && !request.hostname.is_empty() {
            let set = nix::unistd::sethostname(&request.hostname);
            set.map_err(|errno| SandboxError::Setting {
                what: "the host name".into(),
                source: errno.into(),
            })?;
        }
        if self.owns_guest && !request.dns.is_empty() {
            let lines = request.dns.join("\n") + "\n";
            write_below(Path::new(RESOLV_CONF), &lines)
                .map_err(|source| SandboxError::Setting { what: "the name servers".into(), source })?;
        }
        let mounted = self.volumes.mount(request.storages, self.hotplug_timeout).await?;
        locked(&self.mounts).extend(mounted);
        Ok(())
    }

    /// The guest's network, to be changed.
    pub(crate) fn network(&self) -> Result<&Network> {
        self.network.as_ref().ok_or(SandboxError::NotOwned { what: "The network" })
    }

    /// The rules of the guest's packet filter.
    pub(crate) async fn packet_filter(&self, v6: bool) -> Result<Vec<u8>> {
        let rules = self.network()?.packet_filter(&self.reaper, v6).await;
        Ok(rules.map_err(NetworkError::from)?)
    }

    /// Sets the rules of the guest's packet filter.
    pub(crate) async fn set_packet_filter(&self, v6: bool, rules: &[u8]) -> Result<Vec<u8>> {
        let answer = self.network()?.set_packet_filter(&self.reaper, v6, rules).await;
        Ok(answer.map_err(NetworkError::from)?)
    }

    /// Sets the guest's time of day.
    pub(crate) fn set_clock(&self, seconds: i64, nanoseconds: i64) -> Result<()> {
        if !self.owns_guest {
            return Err(SandboxError::NotOwned { what: "The clock" });
        }
        crate::clock::set(seconds, nanoseconds)
            .map_err(|source| SandboxError::Setting { what: "the clock".into(), source })
    }

    /// Takes CPUs and memory into use that were added to the guest; waits until there is enough, if it is asked to.
    pub(crate) async fn change_resources(&self, wanted: resources::Wanted, waits: bool) -> Result<()> {
        if !self.owns_guest {
            return Err(SandboxError::NotOwned { what: "The number of CPUs" });
        }
        let files = resources::Files::default();
        match waits {
            true => Ok(files.reach(wanted, self.hotplug_timeout).await?),
            false => Ok(files.change(wanted).await?),
        }
    }

    /// Tells the guest's kernel of memory at these addresses.
    pub(crate) fn tell_of_memory(&self, addresses: &[u64]) -> Result<()> {
        if !self.owns_guest {
            return Err(SandboxError::NotOwned { what: "The memory" });
        }
        Ok(resources::Files::default().tell_of(addresses)?)
    }

    /// Swaps to a disk of the guest, by the slots on the way to it.
    pub(crate) async fn swap_to_disk(&self, slots: &[u32]) -> Result<()> {
        let disk = swap::of_slots(slots).map_err(swap::SwapError::from)?;
        self.may_swap()?;
        Ok(swap::to_disk(disk, self.hotplug_timeout).await?)
    }

    /// Swaps to a file or device of the guest.
    pub(crate) async fn swap_to_path(&self, path: &str) -> Result<()> {
        self.may_swap()?;
        Ok(swap::to_path(path, self.hotplug_timeout).await?)
    }

    fn may_swap(&self) -> Result<()> {
        if self.owns_guest { Ok(()) } else { Err(SandboxError::NotOwned { what: "Swap" }) }
    }

    /// Makes a container, not started; its first process's id. One that is called off meanwhile leaves nothing.
    pub(crate) async fn create(&self, new: NewContainer, watch: &mut Stopwatch) -> Result<i32> {
        let (id, call_off) = (new.id.clone(), new.call_off.clone());
        let _under_way = self.containers.reserve(&id, &call_off)?;
        let made = match self.hold_namespaces(&new, watch).await {
            Ok(()) => self.make(new, watch).await,
            Err(error) => Err(error),
        };
        match made {
            Ok((container, pid)) => {
                self.containers.put(&id, container.clone());
                if !call_off.is_told() {
                    return Ok(pid);
                }
                self.take_away(&id, &container).await?;
            }
            Err(error) => {
                self.containers.forget(&id);
                if !call_off.is_told() {
                    return Err(error);
                }
            }
        }
        Err(SandboxError::CalledOff { id })
    }

    /// The sandbox has been started without a container: those that come are equal, and any may end before the others.
    /// `pod` is what they share; if it is empty, the first one that shares anything says what.
    pub(crate) fn stand_alone(&self, pod: Spec) {
        // A sandbox is started once.
        let _ = self.pod.set(pod);
    }

    /// Makes the holder of what the pod has said that its containers share, unless there is one.
    pub(crate) async fn hold_for_pod(&self, watch: &mut Stopwatch) -> Result<()> {
        let Some(spec) = self.pod.get().and_then(holder::of_pod) else { return Ok(()) };
        let mut there = self.holder.lock().await;
        match there.is_some() {
            true => Ok(()),
            false => self.hold(spec, &mut there, watch).await,
        }
    }

    /// Makes the holder, if this is the first container that shares anything and no other holds it.
    async fn hold_namespaces(&self, new: &NewContainer, watch: &mut Stopwatch) -> Result<()> {
        let Some(pod) = self.pod.get() else { return Ok(()) };
        let mut there = self.holder.lock().await;
        if there.is_some() {
            return Ok(());
        }
        let spec = holder::of_pod(pod).or_else(|| holder::of_first(&new.spec, new.shares_pids));
        match spec {
            Some(spec) => self.hold(spec, &mut there, watch).await,
            None => Ok(()),
        }
    }

    async fn hold(&self, mut spec: Spec, there: &mut Option<Container>, watch: &mut Stopwatch) -> Result<()> {
        if self.owns_guest {
            holder::spare(&mut spec);
        }
        holder::make_root().map_err(|source| SandboxError::Setting {
            what: "the root of the namespaces' holder".into(),
            source,
        })?;
        let id = ContainerId::of_holder();
        let null = Target::Null;
        let stdio = Request { terminal: false, stdin: null, stdout: null, stderr: null };
        let holder = NewContainer {
            id: id.clone(),
            spec,
            storages: Vec::new(),
            devices: Vec::new(),
            stdio,
            shares_pids: false,
            call_off: CallOff::default(),
        };
        let (container, pid) = self.make(holder, watch).await?;
        // Otherwise it would end as what was never started.
        container.start().await?;
        *locked(&self.first) = Some(First { id, pid, spec: Arc::new(container.spec().clone()) });
        *there = Some(container);
        watch.lap("hold namespaces");
        Ok(())
    }

    /// The container of that name.
    pub(crate) fn container(&self, id: &ContainerId) -> Result<Container> {
        self.containers.made(id).ok_or_else(|| SandboxError::NoContainer { id: id.clone() })
    }

    /// What all containers have used of the CPUs, in microseconds, and use of memory, in bytes.
    pub(crate) fn containers_use(&self) -> (u64, u64) {
        let all = self.containers.all();
        let each = all.iter().map(Container::uses);
        each.fold((0, 0), |(cpu, memory), (more_cpu, more)| (cpu + more_cpu, memory + more))
    }

    /// Lets a container's first process become the workload.
    pub(crate) async fn start(&self, id: &ContainerId) -> Result<()> {
        let container = self.container(id)?;
        container.start().await?;
        if let Some(hooks) = self.hooks.get() {
            hooks.poststart(&self.reaper, container.spec(), container.pid()).await?;
        }
        Ok(())
    }

    /// Runs a process in a container; its id in the guest.
    pub(crate) async fn exec(
        &self,
        id: &ContainerId,
        exec: crate::id::ExecId,
        process: Process,
        request: Request,
    ) -> Result<i32> {
        let container = self.container(id)?;
        let stdio = self.prepare(request).await?;
        Ok(container.exec(exec, process, request, stdio).await?)
    }

    /// Ends a container and takes it away. If it is still being made, that is called off, and nothing of it is left when
    /// this returns.
    pub(crate) async fn remove(&self, id: &ContainerId) -> Result<()> {
        let was_called_off = self.containers.call_off(id).await;
        match self.containers.made(id) {
            Some(container) => self.take_away(id, &container).await,
            None if was_called_off => Ok(()),
            None => Err(SandboxError::NoContainer { id: id.clone() }),
        }
    }

    async fn take_away(&self, id: &ContainerId, container: &Container) -> Result<()> {
        container.remove().await?;
        self.containers.forget(id);
        if self.owns_guest {
            self.stale.add([hooks::bundle(container.spec()).to_owned()]);
            self.stale.look_later();
        }
        locked(&self.first).take_if(|first| first.id == *id);
        if let Some(hooks) = self.hooks.get()
            && let Err(error) = hooks.poststop(&self.reaper, container.spec()).await
        {
            tracing::warn!(container = %id, error = crate::report::chain(&error), "A hook failed");
        }
        Ok(())
    }

    /// Ends all containers and takes the sandbox's mounts away.
    pub(crate) async fn clear(&self) {
        for id in self.containers.ids() {
            if let Err(error) = self.remove(&id).await {
                tracing::warn!(container = %id, error = crate::report::chain(&error), "A container is left");
            }
        }
        if let Some(holder) = self.holder.lock().await.take() {
            locked(&self.first).take();
            if let Err(error) = holder.remove().await {
                tracing::warn!(error = crate::report::chain(&error), "The holder of the namespaces is left");
            }
        }
        let mut mounts = std::mem::take(&mut *locked(&self.mounts));
        mounts.undo().await;
    }

    /// Asks for the end of the guest.
    pub(crate) fn request_power_off(&self) {
        self.power_off.notify_one();
    }

    /// Waits until the end of the guest is asked for.
    pub(crate) async fn power_off_requested(&self) {
        self.power_off.notified().await;
    }

    async fn prepare(&self, request: Request) -> Result<(Prepared, ChildEnds)> {
        let prepared = Prepared::new(request, &self.ports, self.pipe_size).await;
        Ok(prepared.map_err(ContainerError::from)?)
    }

    /// Mounts a container's storages. What is shared stays until the sandbox ends: it is for containers yet to come.
    async fn mount(&self, storages: Vec<Storage>, call_off: &CallOff) -> Result<Mounts> {
        let is_new =
            |storage: &&Storage| storage.shared && !locked(&self.kept).contains(&storage.mount_point);
        let shared: Vec<Storage> = storages.iter().filter(is_new).cloned().collect();
        for mut storage in shared {
            storage::take_no_pages(&mut storage);
            let mount_point = storage.mount_point.clone();
            let mounted = self.volumes.mount(vec![storage], self.hotplug_timeout).await?;
            locked(&self.mounts).extend(mounted);
            locked(&self.kept).insert(mount_point);
        }
        let mut mounts = self.volumes.mount(storages.clone(), self.hotplug_timeout).await?;
        let filled = match parts::make(&storages) {
            Ok(()) => self.pull(&storages, call_off).await,
            Err(error) => Err(error.into()),
        };
        if filled.is_err() {
            mounts.undo().await;
        }
        filled.map(|()| mounts)
    }

    /// Pulls those that are images.
    async fn pull(&self, storages: &[Storage], call_off: &CallOff) -> Result<()> {
        for storage in storages.iter().filter(|storage| image::is_pulled(storage)) {
            self.pull.pull(&self.reaper, storage, call_off.told()).await?;
        }
        Ok(())
    }

    async fn make(&self, mut new: NewContainer, watch: &mut Stopwatch) -> Result<(Container, i32)> {
        let hierarchy = self.hierarchy.as_ref().ok_or(SandboxError::NoCgroups)?;
        if self.owns_guest {
            self.stale.add(spec::shared_layers(&new.storages));
            if new.storages.iter().any(image::is_pulled) {
                image::use_resolver(&new.spec);
            }
        }
        storage::note_places(&mut new.storages, &new.spec);
        let mut mounts = self.mount(std::mem::take(&mut new.storages), &new.call_off).await?;
        watch.lap("mount storages");
        let cgroup = hierarchy.container(new.id.as_str());
        let device_rules = new.spec.Linux.Resources.Devices.as_slice().into();
        if self.owns_guest {
            self.stale.add(spec::shared_sources(&new.spec));
        }
        let made = match self.give_devices(&mut new).await {
            Ok(()) => self.make_process(&mut new, hierarchy, &cgroup, watch).await,
            Err(error) => Err(error),
        };
        let (init, start) = match made {
            Ok(made) => made,
            Err(error) => {
                mounts.undo().await;
                return Err(error);
            }
        };
        let pid = init.0;
        let oom = self.oom.watch(&new.id, &cgroup);
        let launcher = Arc::clone(&self.launcher);
        let common = Arc::new(spec::of_all_processes(new.spec));
        if self.pod.get().is_none() {
            let first = || First { id: new.id.clone(), pid, spec: Arc::clone(&common) };
            locked(&self.first).get_or_insert_with(first);
        }
        let start = Some(start);
        let parts = Parts { id: new.id, cgroup, oom, mounts, common, device_rules, launcher, start };
        let container = Container::new(parts, init);
        match self.run_prestart(&container).await {
            Ok(()) => Ok((container, pid)),
            Err(error) => {
                container.remove().await?;
                Err(error)
            }
        }
    }

    async fn give_devices(&self, new: &mut NewContainer) -> Result<()> {
        let devices = std::mem::take(&mut new.devices);
        if !devices.is_empty() {
            devices::give(&mut new.spec, &devices, self.owns_guest, self.hotplug_timeout).await?;
        }
        Ok(())
    }

    async fn run_prestart(&self, container: &Container) -> Result<()> {
        let Some(hooks) = self.hooks.get() else { return Ok(()) };
        Ok(hooks.prestart(&self.reaper, container.spec(), container.pid()).await?)
    }

    async fn make_process(
        &self,
        new: &mut NewContainer,
        hierarchy: &Hierarchy,
        cgroup: &Cgroup,
        watch: &mut Stopwatch,
    ) -> Result<(Made, Start)> {
        let surroundings =
            Surroundings { owns_guest: self.owns_guest, hierarchy, terminal: new.stdio.terminal };
        let first = locked(&self.first).clone();
        let shared = first.as_ref().map(|first| &*first.spec);
        let joins = sharing::share(&mut new.spec, new.shares_pids, shared)?;
        let joined = first.filter(|_| joins).map(|first| first.pid);
        let sysctls = spec::adapt(&new.id, &mut new.spec, &surroundings)?;
        write_sysctls(&sysctls)?;
        let (prepared, ends) = self.prepare(new.stdio).await?;
        cgroup.create(&new.spec.Linux.Resources).map_err(ContainerError::from)?;
        watch.lap("prepare container");
        let made = self.launch((new, joined), cgroup, (prepared, ends), watch);
        let made = new.call_off.or(made, || cgroup.kill()).await;
        if made.is_err()
            && let Err(error) = cgroup.remove().await
        {
            tracing::warn!(container = %new.id, error = crate::report::chain(&error), "A cgroup is left");
        }
        Ok(made?)
    }

    async fn launch(
        &self,
        (new, joined): (&NewContainer, Option<i32>),
        cgroup: &Cgroup,
        (prepared, ends): (Prepared, ChildEnds),
        watch: &mut Stopwatch,
    ) -> std::result::Result<(Made, Start), ContainerError> {
        let verb = if new.id == ContainerId::of_holder() { Verb::Hold } else { Verb::Create };
        let (launched, start) = self.launcher.create((verb, &new.spec), cgroup, joined, ends).await?;
        watch.lap_until("start jail", launched.began);
        for (step, done) in launched.steps.0 {
            watch.lap_until(&step, done);
        }
        let size = new.spec.Process.ConsoleSize.clone().into_option();
        let stdio = prepared.connect(launched.terminal, size)?;
        watch.lap("container made");
        Ok(((launched.pid, launched.exit, stdio), start))
    }
}

fn write_below(path: &Path, content: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, content)
}

/// Guest-wide kernel settings.
fn write_sysctls(sysctls: &GuestSysctls) -> Result<()> {
    for (name, value) in sysctls {
        let failed = |source| SandboxError::Setting { what: format!("sysctl {name}"), source };
        let file = sysctl_file(name).ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        fs::write(file, value).map_err(failed)?;
    }
    Ok(())
}

/// The file of a kernel setting, whose name is a path below `/proc/sys` with dots.
pub(crate) fn sysctl_file(name: &str) -> Option<PathBuf> {
    let path = name.replace('.', "/");
    let leaves = path.split('/').any(|part| part.is_empty() || part == "..");
    (!leaves).then(|| Path::new("/proc/sys").join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sysctl_cannot_leave_its_folder() {
        for name in ["", "..kernel.x", "net..ipv4", "/etc.passwd"] {
            let sysctls = GuestSysctls::from([(name.to_owned(), "1".to_owned())]);
            assert!(write_sysctls(&sysctls).is_err(), "{name:?} was accepted");
        }
    }
}
