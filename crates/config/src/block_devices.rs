//! How block devices of the host become disks of the VM, as the configuration has it.

/// How block devices of the host become disks of the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlockDevices {
    /// They do not: root file systems and volumes on them are mounted on the host and shared.
    pub disabled: bool,
    /// The kind of disk.
    pub driver: BlockDriver,
    /// How the VMM reads and writes.
    pub aio: BlockAio,
    /// The host's page cache is not used.
    pub cache_direct: bool,
    /// The guest's flushes are ignored.
    pub cache_no_flush: bool,
    /// What the guest is told; `None` leaves it to the VMM.
    pub sector_size: Option<SectorSize>,
    /// Ports for devices that are plugged in later, beyond those for network cards.
    pub ports: u8,
    /// Queues of requests; 0 for the VMM's own choice.
    pub queues: u16,
    /// Requests in each queue, a power of two from 4 to 1024; 0 for the VMM's own choice.
    pub queue_size: u16,
    /// Bytes that a guest may read and write in a second on each disk; 0 for no limit.
    pub bytes_per_second: u64,
    /// Requests that a guest may make in a second on each disk; 0 for no limit.
    pub ops_per_second: u64,
}

/// The kind of disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BlockDriver {
    /// A virtio-blk device on the PCI bus each.
    #[default]
    VirtioBlk,
    /// On one virtio-scsi controller.
    VirtioScsi,
    /// Persistent memory where that can be, else virtio-blk.
    VirtioPmem,
}

impl BlockDriver {
    /// The spelling of the configuration file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::VirtioBlk => "virtio-blk-pci",
            Self::VirtioScsi => "virtio-scsi",
            Self::VirtioPmem => "virtio-pmem",
        }
    }
}

/// How the VMM reads and writes disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BlockAio {
    /// By a pool of threads.
    #[default]
    Threads,
    /// By Linux AIO, without the host's page cache.
    Native,
    /// By `io_uring`.
    IoUring,
}

/// Sizes of sectors in bytes: powers of two from 512 to 32768.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SectorSize {
    /// The unit of addresses.
    pub logical: u32,
    /// What is written at once without reading; at least `logical`.
    pub physical: u32,
}
