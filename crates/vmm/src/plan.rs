//! The plan of a VM: everything that is known before it boots, as plain data.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use kata_cgroup::Cgroup;

use crate::backing::MemoryBacking;
use crate::numa::Numa;

/// How the guest's instructions are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// Hardware virtualisation through `/dev/kvm`.
    Kvm,
    /// Emulation by QEMU's Tiny Code Generator: works everywhere, several times slower.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// A directory of the host that the guest can mount.
#[derive(Debug)]
pub struct Share {
    /// The tag by which the guest mounts it, at most 36 bytes; 31 if the VMM shows it.
    pub tag: String,
    /// Who shows it to the guest.
    pub backend: ShareBackend,
}

/// Who shows a directory to the guest.
#[derive(Debug)]
pub enum ShareBackend {
    /// A vhost-user daemon, as a virtio-fs device.
    VhostUser {
        /// The daemon's socket, already connected.
        socket: OwnedFd,
        /// Length of the request queue: a power of two, at most 1024.
        queue_size: u32,
    },
    /// The VMM itself, as a virtio-9p device. What is mounted in the directory later is there, too.
    NineP {
        /// The directory, an absolute path.
        dir: PathBuf,
    },
}

/// A network card of the VM.
#[derive(Debug)]
pub struct Nic {
    /// A name of the caller's, by which it can be taken out again: a letter, then letters, digits, `-`, `.` or `_`.
    pub id: String,
    /// Its hardware address, by which the guest finds it.
    pub mac: [u8; 6],
    /// What carries its packets.
    pub backend: NicBackend,
}

/// A disk of the VM.
#[derive(Debug)]
pub struct Disk {
    /// A name of the caller's, by which it can be taken out again: a letter, then letters, digits, `-`, `.` or `_`.
    pub id: String,
    /// A block device or a regular file of the host, opened for reading if `read_only`, else for reading and writing. The
    /// VMM sees no path of it.
    pub file: OwnedFd,
    /// The guest cannot write. Such a file may be a disk of several VMs.
    pub read_only: bool,
    /// The kind of device that the guest sees.
    pub attachment: DiskAttachment,
    /// How the host's page cache is used.
    pub cache: DiskCache,
    /// How the VMM reads and writes.
    pub aio: DiskAio,
    /// What the guest discards is freed on the host.
    pub discard: bool,
    /// What the guest may transfer.
    pub limits: DiskLimits,
    /// Sizes that the guest is told; `None` leaves them to the VMM.
    pub block_size: Option<BlockSize>,
    /// Queues of requests; 0 for the VMM's own choice.
    pub queues: u16,
    /// Requests in each queue, a power of two from 4 to 1024; 0 for the VMM's own choice.
    pub queue_size: u16,
}

/// The kind of device that a disk is to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DiskAttachment {
    /// virtio-blk, a PCI device each. Where there is no slot or port left it becomes one of [`DiskAttachment::Scsi`].
    #[default]
    Blk,
    /// A SCSI disk; all of them are on one virtio-scsi controller.
    Scsi,
    /// virtio-pmem: the guest maps the host's page cache; cache, queues, block sizes and limits mean nothing to it. Only a
    /// disk of the plan whose size is a multiple of 2 MiB can be one, any other becomes [`DiskAttachment::Blk`]. If it is
    /// read-only, what the guest writes is dropped without an error: it must be mounted read-only.
    Pmem,
}

/// How the host's page cache is used for a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskCache {
    /// Not at all (`O_DIRECT`).
    pub direct: bool,
    /// The guest's flushes are ignored: data is lost if the host fails.
    pub no_flush: bool,
}

/// How the VMM reads and writes a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DiskAio {
    /// By a pool of threads; works everywhere.
    #[default]
    Threads,
    /// By Linux AIO; needs [`DiskCache::direct`].
    Native,
    /// By `io_uring`.
    IoUring,
}

/// What a guest may transfer from and to a disk, reading and writing together; 0 for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskLimits {
    /// Bytes per second.
    pub bytes: u64,
    /// Requests per second.
    pub ops: u64,
}

/// The block sizes in bytes that the guest is told: powers of two from 512 to 32768.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSize {
    /// The unit of addresses.
    pub logical: u32,
    /// What is written at once without reading; at least `logical`.
    pub physical: u32,
}

/// What carries the packets of a network card.
#[derive(Debug)]
pub enum NicBackend {
    /// A TAP or macvtap device.
    Tap {
        /// One descriptor for each pair of queues, at least one.
        queues: Vec<OwnedFd>,
        /// As many of `/dev/vhost-net`, which then moves the packets; or none, and the VMM does.
        vhost: Vec<OwnedFd>,
    },
    /// The VMM itself, by connections that it makes in its own network namespace: 10.0.2.15 in the guest, 10.0.2.2 on the
    /// other side.
    User,
    /// Another process, over shared memory.
    VhostUser {
        /// The socket where it listens.
        socket: PathBuf,
        /// Pairs of queues, at least 1.
        queues: u16,
    },
}

/// How bytes reach the agent in the guest.
#[derive(Debug)]
pub enum AgentChannel {
    /// An `AF_VSOCK` device carried by the host's kernel.
    Vsock {
        /// The guest's context id, 3 or more.
        cid: u32,
        /// `/dev/vhost-vsock`, opened, with the context id already set.
        vhost_fd: OwnedFd,
    },
    /// A virtio-serial port; the host's end comes from [`crate::Vmm::take_agent_socket`].
    Serial,
}

/// The network namespace that a VMM is started in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NetworkNamespace {
    /// That of the process which starts it.
    #[default]
    Callers,
    /// A new one, which ends with the VMM: `/proc/PID/ns/net`.
    New,
    /// One that somebody has made, by a path like `/run/netns/x`.
    At(PathBuf),
}

/// What a guest's kernel takes memory in, in MiB: a memory block of x86-64.
pub const GUEST_BLOCK_MIB: u32 = 128;

/// How memory is added to a running VM, and taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MemoryHotplug {
    /// A virtio-mem device in a port, which comes with the first memory that is added. It shrinks as far as the guest can
    /// free what it has.
    #[default]
    VirtioMem,
    /// Memory modules (pc-dimm) of whole memory blocks of the guest, so many at most. Each is taken back as a whole, or not at all.
    Dimm {
        /// How many there can be.
        slots: u8,
    },
}

/// Everything a VMM must know to start a VM.
#[derive(Debug)]
pub struct VmPlan {
    /// The sandbox's id. The process carries `sandbox-<id>` among its arguments and is found by that.
    pub id: String,
    /// The VMM's executable, an absolute path.
    pub binary: PathBuf,
    /// QEMU's machine type; only `q35` has been tried.
    pub machine_type: String,
    /// Chosen beforehand, see [`crate::accelerator`].
    pub accelerator: Accelerator,
    /// Added to the CPU model, in QEMU's own notation (`pmu=off,-sse4a`); empty for none.
    pub cpu_features: String,
    /// Virtual CPUs at boot, at least 1.
    pub vcpus: u32,
    /// The most the VM may ever have; at least `vcpus`.
    pub max_vcpus: u32,
    /// Guest memory in MiB at boot.
    pub memory_mib: u32,
    /// The most memory in MiB the VM may ever have; at least `memory_mib`.
    pub max_memory_mib: u32,
    /// How more memory comes to a running VM.
    pub memory_hotplug: MemoryHotplug,
    /// What the guest's memory is made of.
    pub memory_backing: MemoryBacking,
    /// The guest's NUMA nodes; their memory is `memory_mib` together.
    pub numa: Numa,
    /// The host takes back what the guest has freed.
    pub free_page_reporting: bool,
    /// An uncompressed `vmlinux` with a PVH entry point, or a `bzImage`.
    pub kernel: PathBuf,
    /// The initial root file system.
    pub initrd: PathBuf,
    /// Kernel parameters beyond the driver's defaults; they win over a default of the same name.
    pub kernel_params: Vec<String>,
    /// Firmware instead of the driver's own choice.
    pub firmware: Option<PathBuf>,
    /// Shared directories, attached in this order; at most 4.
    pub shares: Vec<Share>,
    /// Network cards, attached in this order; at most 8. The first ones are in the ports for devices, as many as there are,
    /// and can be taken out while the VM runs.
    pub nics: Vec<Nic>,
    /// Disks, attached in this order. They stay as long as the VM, unless they are on the SCSI controller.
    pub disks: Vec<Disk>,
    /// A SCSI controller is there from the start: disks on it need no port. The guest looks at 256 targets when it finds it,
    /// which takes 0.1 s under emulation; one that comes with its first disk keeps no start waiting.
    pub scsi_controller: bool,
    /// The way to the agent.
    pub agent: AgentChannel,
    /// Where the guest's console is written; made if missing (mode 0600), appended to otherwise. At 512 KiB it is renamed, with `.old`
    /// added to its name, and begun anew: a guest cannot fill the file system.
    pub console_log: PathBuf,
    /// Whether the VMM restricts itself to the system calls it needs.
    pub seccomp: bool,
    /// Where the VMM runs.
    pub netns: NetworkNamespace,
    /// Where the VMM is counted.
    pub cgroup: Cgroup,
    /// Ports for devices that can be plugged in and out while the VM runs; at most 8.
    pub hotplug_ports: u8,
    /// Louder: the guest's kernel is not told to be quiet.
    pub debug: bool,
    /// Where the guest's random number generator gets its entropy from, usually `/dev/urandom`.
    pub entropy_source: PathBuf,
}

impl VmPlan {
    /// Whether memory can be added while the VM runs.
    #[must_use]
    pub(crate) fn has_memory_hotplug(&self) -> bool {
        self.max_memory_mib >= self.memory_mib.saturating_add(GUEST_BLOCK_MIB)
    }

    /// How much memory the guest can have, in MiB: it gets more in whole blocks of its own, and in whole pages of the host.
    #[must_use]
    pub fn most_memory_mib(&self) -> u32 {
        let page = u32::try_from(self.memory_backing.unit() >> 20).unwrap_or(u32::MAX);
        let block = page.max(GUEST_BLOCK_MIB);
        self.memory_mib + self.max_memory_mib.saturating_sub(self.memory_mib) / block * block
    }

    /// Whether other processes must be able to map the guest's memory.
    #[must_use]
    pub(crate) fn shares_memory(&self) -> bool {
        self.shares.iter().any(|share| matches!(share.backend, ShareBackend::VhostUser { .. }))
            || self.nics.iter().any(|nic| matches!(nic.backend, NicBackend::VhostUser { .. }))
    }
}
