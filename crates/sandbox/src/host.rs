//! The seam between the sandbox and the host: what it has made there, and what that looks like when made.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use kata_cgroup::Cgroup;
use kata_network::GuestNetwork;
use kata_protocol::agent::{Device, Storage};
use kata_storage::RootfsMount;
use kata_transport::Dialer;
use kata_vmm::Vmm;
use oci_spec::runtime::{Process, Spec};

use crate::ContainerId;
use crate::cpuset::Cpus;
use crate::direct::Assigned;
use crate::error::Result;
use crate::hooks::Poststop;
use crate::network::Cards;
use crate::sizing::{Size, Sizing};
use crate::swap::SwapDisk;
use crate::timeline::Recorder;

/// Any error on the way to a running VM; only its text matters, as it ends up in many answers.
pub(crate) type BootError = Box<dyn std::error::Error + Send + Sync>;

/// A started VM with what belongs to it.
pub(crate) struct Machine {
    /// The VM; its guest may still boot.
    pub(crate) vmm: Box<dyn Vmm>,
    /// The VMM's executable and what it was given to boot, for errors.
    pub(crate) parts: String,
    /// The most CPUs and memory that it can have.
    pub(crate) most: Size,
    /// What the guest configures of the pod's network, as it was before the VM was started.
    pub(crate) network: GuestNetwork,
    /// The pod's network namespace, if one was made for it.
    pub(crate) netns: Option<PathBuf>,
    /// The network cards, if it can have any.
    pub(crate) cards: Option<Cards>,
    /// The daemon that shares files with it, if any.
    pub(crate) daemon: Option<Arc<dyn Daemon>>,
    /// Where VMM and daemon are counted on the host.
    pub(crate) cgroup: Cgroup,
    /// The files shared with it by that daemon.
    pub(crate) files: Option<SharedFiles>,
}

/// Where files are that a VM shares with the host.
#[derive(Debug, Clone)]
pub(crate) struct SharedFiles {
    /// The shared directory.
    pub(crate) dir: PathBuf,
    /// The process that works there for the guest.
    pub(crate) daemon: u32,
}

/// How a daemon ended.
#[derive(Debug, Clone)]
pub(crate) struct DaemonEnd {
    /// In words.
    pub(crate) how: String,
    /// Without an error, as when its VM is gone.
    pub(crate) clean: bool,
}

/// A process next to the VMM that the VM cannot live without.
#[async_trait]
pub(crate) trait Daemon: Send + Sync {
    /// Its executable.
    fn program(&self) -> PathBuf;

    /// Its process on the host.
    fn pid(&self) -> u32;

    /// Waits for its end, and says how it ended.
    async fn wait(&self) -> DaemonEnd;
}

/// The way to the agent.
#[async_trait]
pub(crate) trait Way: Send {
    /// Ready to open streams to the guest, which may still boot if the carrier can hold them.
    async fn open(&mut self) -> std::result::Result<Dialer, BootError>;

    /// Resolves when the agent has announced itself.
    async fn announced(&mut self) -> std::result::Result<(), BootError>;
}

/// A container's files, prepared on the host.
#[derive(Debug, Default)]
pub(crate) struct Files {
    /// The container's description, with paths of the guest.
    pub(crate) spec: Spec,
    /// What the guest must mount for it.
    pub(crate) storages: Vec<Storage>,
    /// Disks that it has as devices.
    pub(crate) devices: Vec<Device>,
    /// What the guest is to swap to besides, before the container runs.
    pub(crate) swap: Option<SwapDisk>,
}

/// What a container's files are made of.
#[derive(Debug)]
pub(crate) struct Sources {
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: Vec<RootfsMount>,
    pub(crate) spec: Spec,
}

/// Makes things on the host for one sandbox, and undoes them.
#[async_trait]
pub(crate) trait Host: Send + Sync {
    /// Starts the VM and its daemons.
    async fn boot(&self, recorder: &Recorder) -> std::result::Result<(Machine, Box<dyn Way>), BootError>;

    /// A container is about to be made on this root file system. Only the first one matters, while [`Host::boot`] is
    /// under way.
    fn foresee(&self, rootfs: &[RootfsMount]);

    /// What the guest must mount for the sandbox as a whole.
    fn sandbox_storages(&self) -> Vec<Storage>;

    /// How large the VM is.
    fn sizing(&self) -> Sizing;

    /// Whether virtual CPUs are to have CPUs of the host of their own.
    fn pins_vcpus(&self) -> bool;

    /// The CPUs that run on it.
    fn online_cpus(&self) -> Cpus;

    /// Where the guest has hooks of its own; empty for none.
    fn guest_hook_path(&self) -> String;

    /// Prepares a container's files, disks of `machine` among them. What a failure leaves is undone by [`Host::detach`].
    async fn attach(
        &self,
        container: &ContainerId,
        sources: Sources,
        machine: &Arc<Machine>,
    ) -> Result<Files>;

    /// The guest is about to be asked to swap to a disk that [`Host::attach`] has given it: it is not taken out any more.
    fn offers_swap(&self, disk: &SwapDisk);

    /// The guest swaps to that disk.
    fn swaps(&self, disk: &SwapDisk);

    /// The memory that a pod's containers share, as its pause container names it.
    async fn pod_memory(&self, pause: &ContainerId, sources: Sources) -> Result<Vec<Storage>>;

    /// The direct-assigned volume that is at `volume` on the host, if the VM has it.
    fn assigned(&self, volume: &Path) -> Option<Assigned>;

    /// Takes from an added process those security labels that are not for the guest.
    fn confine(&self, process: &mut Process);

    /// Whether the guest may have something that is not on one of the host's disks yet.
    async fn writes_to_disks(&self) -> bool;

    /// Removes a container's files; success if there are none.
    async fn detach(&self, container: &ContainerId) -> Result<()>;

    /// Notes a container's hooks: they run once when it is gone, by [`Host::run_owed_hooks`] or by [`Host::undo`], or
    /// by whoever cleans up if this process dies.
    fn owe_hooks(&self, container: &ContainerId, hooks: Poststop) -> Result<()>;

    /// Runs the hooks that are owed to a container.
    async fn run_owed_hooks(&self, container: &ContainerId);

    /// Undoes everything that is left, including processes, and runs the hooks that are owed. Can be repeated.
    async fn undo(&self) -> Result<()>;
}
