//! What every driver offers: the [`Vmm`] trait, its events and its errors.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use async_trait::async_trait;
use kata_cgroup::ScopeError;
use tokio::sync::mpsc;

use crate::backing::BackingError;
use crate::plan::{Disk, Nic};
use crate::qemu::{CommandLineError, DiskError, QmpError};

/// What a driver can do beyond starting and stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Directories can be shared through virtio-fs.
    pub shared_directories: bool,
    /// The agent can be reached through the host's vsock.
    pub vsock: bool,
    /// The agent can be reached through a virtio-serial port.
    pub serial: bool,
    /// The whole VM can be paused and resumed.
    pub pause: bool,
}

/// Where on the host a VM runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Affinity {
    /// The CPUs that its VMM's threads may use, in ascending order; all, if there are none.
    pub cpus: Vec<u32>,
    /// So many virtual CPUs are to have one of them each, if there are as many of both and each has a thread of its own.
    pub each: Option<u32>,
}

/// Why a VM stopped running, as far as the VMM knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShutdownReason {
    /// The guest powered itself off.
    GuestShutdown,
    /// The guest asked for a reboot, which ends the VM; a kernel panic looks like this too.
    GuestReset,
    /// The guest said that it panicked.
    GuestPanic,
    /// The host asked the VMM to quit.
    HostQuit,
    /// The VMM was told to end by a signal.
    HostSignal,
    /// The VMM met what it cannot go on from, and is ended for that; its own word for it, `internal-error` for one.
    Failure(String),
    /// Anything else, in the VMM's own words.
    Other(String),
}

/// The end of the VMM's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmExit {
    /// How the process ended; `None` if it could not be waited for.
    pub status: Option<ExitStatus>,
    /// The last lines (at most 8 KiB) the VMM wrote to its standard error, trimmed.
    pub stderr: String,
    /// The line among them that says what went wrong, if there is one.
    pub cause: Option<String>,
    /// What is wrong and what to do, where the cause was recognised.
    pub advice: Option<String>,
}

impl VmExit {
    /// Whether the VMM ended without an error of its own. A guest that powers off is a success.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }
}

impl fmt::Display for VmExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => write!(f, "The VMM exited with status {code}")?,
                (None, Some(signal)) => write!(f, "The VMM was killed by signal {signal}")?,
                (None, None) => write!(f, "The VMM ended ({status})")?,
            },
            None => f.write_str("The VMM is gone")?,
        }
        if let Some(cause) = &self.cause {
            write!(f, ": {cause}")?;
        }
        if let Some(advice) = &self.advice {
            write!(f, ". {advice}")?;
        }
        Ok(())
    }
}

/// What happens to a VM, in the order in which it happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmEvent {
    /// The VMM's control channel answers. The guest may well run already.
    ControlReady,
    /// The guest opened the agent's serial port: the agent is there. Only with [`crate::AgentChannel::Serial`].
    AgentPortOpened,
    /// The guest closed the agent's serial port.
    AgentPortClosed,
    /// The guest stopped; [`VmEvent::Exited`] follows.
    Shutdown {
        /// Why.
        reason: ShutdownReason,
    },
    /// The guest's kernel reported a panic through a panic device.
    Panicked,
    /// The VMM's process is gone. Always the last event, and always sent.
    Exited(VmExit),
}

/// What the VM is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmStatus {
    /// Guest code runs.
    Running,
    /// Stopped on request, or not started yet.
    Paused,
    /// The guest shut down or panicked, or the VMM met an internal error; it will not run again.
    Stopped,
}

/// A started VM. Dropping it kills the VMM.
#[async_trait]
pub trait Vmm: Send + Sync {
    /// The driver's name, as users know it from the configuration: `qemu`.
    fn kind(&self) -> &'static str;

    /// What this driver can do.
    fn capabilities(&self) -> Capabilities;

    /// The VMM's process id on the host. It stays the same after the process is gone.
    fn pid(&self) -> u32;

    /// Tells that the guest has begun with what it is there for: its start is over, during which its threads may be
    /// scheduled for throughput alone.
    fn guest_works(&self);

    /// The threads of its CPUs on the host, each once: under emulation several CPUs may share one.
    ///
    /// # Errors
    /// The VMM does not answer.
    async fn vcpu_threads(&self) -> Result<Vec<u32>, VmmError>;

    /// Network cards while it runs, if the driver can; they need the plan's `hotplug_ports`.
    fn nic_hotplug(&self) -> Option<&dyn NicHotplug> {
        None
    }

    /// Disks while it runs, if the driver can; they need the plan's `hotplug_ports` or `scsi_controller`.
    fn disk_hotplug(&self) -> Option<&dyn DiskHotplug> {
        None
    }

    /// CPUs and memory that come and go while it runs, if the driver can.
    fn resize(&self) -> Option<&dyn Resize> {
        None
    }

    /// The host's end of the agent's serial port: a connected stream socket, close-on-exec. `None` with another
    /// channel, and from the second call on.
    fn take_agent_socket(&self) -> Option<OwnedFd>;

    /// The VM's events from the very first on. `None` from the second call on.
    fn take_events(&self) -> Option<mpsc::Receiver<VmEvent>>;

    /// Resolves when the VMM has made the VM's devices, and has so exchanged the first words with the daemons
    /// behind them: what those do at their start is done.
    async fn ready(&self) -> Result<(), VmmError>;

    /// What the VM is doing now.
    async fn status(&self) -> Result<VmStatus, VmmError>;

    /// Stops all virtual CPUs.
    async fn pause(&self) -> Result<(), VmmError>;

    /// Lets the virtual CPUs run again.
    async fn resume(&self) -> Result<(), VmmError>;

    /// Ends the VM without asking the guest: the VMM is told to quit, and killed if it has not gone by the
    /// deadline. Works in every state and any number of times.
    async fn shutdown(&self, deadline: Duration) -> VmExit;

    /// Kills the VMM at once and waits until it is gone.
    async fn kill(&self) -> VmExit;

    /// Waits until the VMM's process is gone. What it and its guest said last may still be on its way.
    async fn ended(&self);

    /// Waits for the end of the VMM's process, and for its last words.
    async fn wait(&self) -> VmExit;
}

/// Network cards that come and go while the VM runs.
#[async_trait]
pub trait NicHotplug: Send + Sync {
    /// Plugs a card in.
    ///
    /// # Errors
    /// The name is taken, no port is free, or the VMM refuses.
    async fn add_nic(&self, nic: Nic) -> Result<(), VmmError>;

    /// Takes a card out; returns when the guest has let it go.
    ///
    /// # Errors
    /// There is none of that name, or the guest keeps it.
    async fn remove_nic(&self, id: &str) -> Result<(), VmmError>;
}

/// Disks that come and go while the VM runs.
#[async_trait]
pub trait DiskHotplug: Send + Sync {
    /// Plugs a disk in. The guest finds it in its own time.
    ///
    /// # Errors
    /// The name is taken, the file does not fit, there is no room, or the VMM refuses: then nothing of it stays.
    async fn add_disk(&self, disk: Disk) -> Result<DiskAddress, VmmError>;

    /// Takes a disk out; returns when the guest has let it go and the VMM has closed its file. The guest must have
    /// unmounted it: a SCSI disk is gone without asking.
    ///
    /// # Errors
    /// There is none of that name, it is there for good, or the guest keeps it.
    async fn remove_disk(&self, id: &str) -> Result<(), VmmError>;

    /// Lets a disk grow: a regular file is made longer, a block device must be as long already. The guest is told.
    ///
    /// # Errors
    /// There is none of that name, it would shrink, or the VMM refuses.
    async fn resize_disk(&self, id: &str, bytes: u64) -> Result<(), VmmError>;

    /// Where a disk is, also one of the plan; `None` if there is none of that name.
    fn disk_address(&self, id: &str) -> Option<DiskAddress>;
}

/// CPUs and memory that come and go while the VM runs. Only one of these at a time is asked for.
#[async_trait]
pub trait Resize: Send + Sync {
    /// Gives the VM so many CPUs, at most the plan's `max_vcpus`. The guest must take new ones into use.
    ///
    /// How many there are then: those of the start stay, and under emulation all do, so the guest must leave off those that
    /// it shall not use.
    ///
    /// # Errors
    /// The plan does not have so many, the guest keeps one, or the VMM refuses.
    async fn set_vcpus(&self, vcpus: u32) -> Result<u32, VmmError>;

    /// Lets the VMM's threads run on these CPUs of the host, those of a NUMA node's virtual CPUs on the ones of its nodes. Whether
    /// each virtual CPU has one of its own.
    ///
    /// # Errors
    /// The host has none of them, or the VMM may not use any.
    async fn set_affinity(&self, affinity: &Affinity) -> Result<bool, VmmError>;

    /// Whether the guest has NUMA nodes of the plan's.
    fn has_nodes(&self) -> bool {
        false
    }

    /// Lets virtual CPUs of the plan's NUMA nodes run on the host's CPUs of these, unless each has one of its own. Those that
    /// come later need it, too.
    ///
    /// # Errors
    /// The VMM may not use these CPUs.
    async fn place_on_nodes(&self) -> Result<(), VmmError> {
        Ok(())
    }

    /// Asks the guest to have so much memory, in MiB, at most the plan's
    /// [`most_memory_mib`](crate::VmPlan::most_memory_mib). What it had at boot stays.
    ///
    /// How much it shall have: more than was asked for if that is no multiple of what the guest's kernel takes. It takes and
    /// gives back in its own time.
    ///
    /// # Errors
    /// The plan does not have so much, there is no room for another memory module, the guest keeps one, or the VMM refuses.
    async fn request_memory(&self, mib: u32) -> Result<u32, VmmError>;

    /// Waits until the guest has the memory it was asked to have; how much that is, in MiB.
    ///
    /// # Errors
    /// It has more, or less, after this time.
    async fn memory_settled(&self, patience: Duration) -> Result<u32, VmmError>;
}

/// Where a guest finds a disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DiskAddress {
    /// Slots from the root bus down, each two hexadecimal digits: `18` on the root bus, `10/00` in a port.
    Pci(String),
    /// On the SCSI controller.
    Scsi {
        /// The target's id.
        id: u8,
        /// The unit's number in it.
        lun: u16,
    },
    /// A persistent memory device.
    Pmem {
        /// Its name in a guest that has found the earlier ones: `/dev/pmem0`.
        device: String,
        /// Its slots, as in [`DiskAddress::Pci`]: certain even while the guest finds several at once.
        pci: String,
    },
}

/// What agents take for a source: `10/00`, `0:3` or `/dev/pmem0`.
impl fmt::Display for DiskAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(path) => f.write_str(path),
            Self::Scsi { id, lun } => write!(f, "{id}:{lun}"),
            Self::Pmem { device, .. } => f.write_str(device),
        }
    }
}

/// Why a VM could not be started or controlled.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// The configured executable does not exist.
    #[error(
        "The hypervisor {path:?} does not exist: install QEMU (Debian: qemu-system-x86) or set `path` in the \
         configuration's [hypervisor.qemu]"
    )]
    BinaryMissing {
        /// The configured path.
        path: PathBuf,
    },
    /// A file that the VM boots from cannot be read.
    #[error("The {what} {path:?} cannot be read: check `{key}` in the configuration's [hypervisor.qemu]")]
    BootFile {
        /// What the file is for.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// The configuration's key.
        key: &'static str,
        /// Why it cannot be read.
        #[source]
        source: io::Error,
    },
    /// The guest console's log cannot be opened.
    #[error("The guest's console log {path:?} cannot be opened: its directory must exist and be writable")]
    ConsoleLog {
        /// Its path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The plan does not make a command line.
    #[error("The VM's settings cannot be used")]
    Plan(#[from] CommandLineError),
    /// The host lacks what the memory is to be made of.
    #[error("The VM's memory cannot be had from this host")]
    Backing(#[from] BackingError),
    /// A socket pair or a pipe for the VMM could not be made.
    #[error("No channel for the hypervisor's {what}: the limit on open files may be reached")]
    Socket {
        /// What it is for.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The VMM cannot be started inside the network namespace.
    #[error("The hypervisor cannot be started in the network namespace {path:?}: does it still exist?")]
    Netns {
        /// The namespace's path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The VMM's process could not be started.
    #[error("The hypervisor {path:?} could not be started")]
    Spawn {
        /// The executable.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// systemd did not make the scope that the VMM's process is to begin in.
    #[error(transparent)]
    Scope(#[from] Box<ScopeError>),
    /// The control channel failed or refused.
    #[error("The hypervisor did not do what it was asked for")]
    Control(#[from] QmpError),
    /// A card of that name is there.
    #[error("The VM has a network card {id:?} already: choose another name or remove it first")]
    NicExists {
        /// The name.
        id: String,
    },
    /// All ports are in use.
    #[error("The VM has no port left for another network card ({count} in all): remove one first")]
    NoPort {
        /// How many there are.
        count: usize,
    },
    /// The guest does not let go.
    #[error("The guest has not let go of its network card {id:?} within {deadline:?}: is its kernel alive?")]
    NicInUse {
        /// The name.
        id: String,
        /// How long was waited.
        deadline: Duration,
    },
    /// A disk of that name is there.
    #[error("The VM has a disk {id:?} already: choose another name or remove it first")]
    DiskExists {
        /// The name.
        id: String,
    },
    /// There is no disk of that name.
    #[error("The VM has no disk {id:?}: it was removed or never added")]
    NoDisk {
        /// The name.
        id: String,
    },
    /// No port or SCSI unit is free.
    #[error(
        "The VM has no room for the disk {id:?} ({ports} ports, all in use): remove a device first, or set \
         `block_device_driver = \"virtio-scsi\"`"
    )]
    NoRoomForDisk {
        /// The name.
        id: String,
        /// How many ports there are.
        ports: usize,
    },
    /// A disk of the plan that is on the root bus.
    #[error("The disk {id:?} was there at the VM's start and stays until its end")]
    DiskStays {
        /// The name.
        id: String,
    },
    /// The guest does not let go of a disk.
    #[error("The guest has not let go of its disk {id:?} within {deadline:?}: is its kernel alive?")]
    DiskInUse {
        /// The name.
        id: String,
        /// How long was waited.
        deadline: Duration,
    },
    /// A disk cannot become smaller.
    #[error("The disk {id:?} has {present} bytes and cannot shrink to {wanted}: data would be lost")]
    DiskShrinks {
        /// The name.
        id: String,
        /// Its size.
        present: u64,
        /// What was asked for.
        wanted: u64,
    },
    /// A disk's settings or its file cannot be used.
    #[error("The disk {id:?} cannot be used")]
    Disk {
        /// The name.
        id: String,
        /// Why not.
        #[source]
        source: DiskError,
    },
    /// The VMM refused something about a disk.
    #[error("The hypervisor did not {what} the disk {id:?}")]
    DiskRefused {
        /// What it was to do.
        what: &'static str,
        /// The name.
        id: String,
        /// Why not.
        #[source]
        source: Box<QmpError>,
    },
    /// More CPUs than there can be.
    #[error("The VM can have 1 to {max} virtual CPUs, not {vcpus}: raise `default_maxvcpus`")]
    Vcpus {
        /// How many were asked for.
        vcpus: u32,
        /// The most.
        max: u32,
    },
    /// A thread cannot be bound to CPUs.
    #[error("The VMM cannot be bound to CPUs of the host: do they exist, and may the pod use them?")]
    Affinity {
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The guest does not let go of a CPU.
    #[error("The guest has not let go of its virtual CPU {id:?} within {deadline:?}: is its kernel alive?")]
    VcpuInUse {
        /// The CPU.
        id: String,
        /// How long was waited.
        deadline: Duration,
    },
    /// More memory than there can be.
    #[error(
        "The VM can have {min} to {max} MiB of memory, not {mib}: what it has at boot stays, and no more was foreseen"
    )]
    MemorySize {
        /// What was asked for.
        mib: u32,
        /// What it had at boot.
        min: u32,
        /// The most.
        max: u32,
    },
    /// All slots of memory modules are in use.
    #[error(
        "The VM has no slot left for another memory module ({slots} in all): raise `memory_slots`, or set `enable_virtio_mem`"
    )]
    NoMemorySlot {
        /// How many there are.
        slots: u8,
    },
    /// No port is free for the device that memory comes by.
    #[error("The VM has no port left for more memory ({count} in all): raise `pcie_root_port`")]
    NoMemoryPort {
        /// How many there are.
        count: usize,
    },
    /// The guest has other memory than it was asked to have.
    #[error(
        "The guest has {present} MiB of memory after {patience:?}, and was asked to have {wanted}: it uses what it should \
         give back, or its kernel has no CONFIG_VIRTIO_MEM"
    )]
    MemoryKept {
        /// What it has.
        present: u32,
        /// What it was asked to have.
        wanted: u32,
        /// How long was waited.
        patience: Duration,
    },
    /// The VMM is gone.
    #[error("{0}")]
    Gone(VmExit),
    /// The executable's version could not be found out.
    #[error("The version of {path:?} could not be read from its output {output:?}: is it a QEMU?")]
    Version {
        /// The executable.
        path: PathBuf,
        /// What it printed, cut off at 200 bytes.
        output: String,
    },
}
