//! A disk, in QEMU's words: the same objects on the command line and over QMP.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{FileType, OFlags, SeekFrom, fcntl_getfl, fstat, seek};
use serde_json::{Map, Value, json};

use super::config;
use crate::plan::{BlockSize, Disk, DiskAio, DiskAttachment, DiskLimits};
use crate::vmm::{DiskAddress, VmmError};

/// What the guest maps persistent memory by.
const PMEM_UNIT: u64 = 2 << 20;
/// What a virtio-blk device has room for as a serial number.
const SERIAL_LENGTH: usize = 20;
/// More CPUs than this are rare. QEMU ends without a word at some 1,000.
const MOST_QUEUES: u16 = 256;
/// The most that QEMU limits to, in bytes or requests per second.
const HIGHEST_LIMIT: u64 = 1_000_000_000_000_000;

/// Why a disk cannot be given to QEMU.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Its name is no identifier.
    #[error("Its name must be a letter, then letters, digits, `-`, `.` or `_`")]
    Id,
    /// Its file cannot be examined.
    #[error("Its file cannot be examined")]
    Examine(#[source] io::Error),
    /// Its file is something else.
    #[error("Its file is neither a block device nor a regular file: check the path of the volume")]
    FileType,
    /// Its file was opened for something else.
    #[error("Its file is open {opened} and needed {needed}: check the volume's `readOnly`")]
    OpenedFor {
        /// How it is.
        opened: &'static str,
        /// How it should be.
        needed: &'static str,
    },
    /// Linux AIO does not work with the page cache.
    #[error(
        "`block_device_aio = \"native\"` needs `block_device_cache_set` and `block_device_cache_direct`: set both"
    )]
    NativeNeedsDirect,
    /// More queues than QEMU stands.
    #[error("{count} queues are too many: set `num_queues` to at most {MOST_QUEUES}")]
    Queues {
        /// What was asked for.
        count: u16,
    },
    /// A queue of a bad length.
    #[error("A queue of {size} is impossible: set `queue_size` to a power of two from 4 to 1024")]
    QueueSize {
        /// What was asked for.
        size: u16,
    },
    /// Block sizes that no device has.
    #[error(
        "Blocks of {logical} bytes, physically {physical}, are impossible: powers of two from 512 to 32768, the logical \
         one not the larger"
    )]
    BlockSize {
        /// The unit of addresses.
        logical: u32,
        /// What is written at once.
        physical: u32,
    },
    /// Persistent memory has the size that it had at first.
    #[error("Its size as persistent memory is fixed: attach it as virtio-blk to let it grow")]
    PmemResize,
}

/// The properties of a QEMU object.
pub(super) type Properties = Map<String, Value>;

/// Where a disk is in the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A slot of the root bus, for good.
    Slot(u8),
    /// The same, as persistent memory; the how manieth.
    Memory { slot: u8, index: usize },
    /// A port for devices that come and go, by its number.
    Port(usize),
    /// A unit of the SCSI controller.
    Unit(u16),
}

impl Place {
    pub(super) fn address(self) -> DiskAddress {
        match self {
            Self::Slot(slot) => DiskAddress::Pci(format!("{slot:02x}")),
            Self::Memory { slot, index } => {
                DiskAddress::Pmem { device: format!("/dev/pmem{index}"), pci: format!("{slot:02x}") }
            }
            Self::Port(number) => {
                DiskAddress::Pci(format!("{:02x}/00", usize::from(config::slot::PORTS) + number))
            }
            Self::Unit(lun) => DiskAddress::Scsi { id: 0, lun },
        }
    }
}

/// The names in QEMU of what a disk consists of besides its device. A node's name may have 31 bytes: too few for the
/// caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parts {
    /// Never used twice in one VM.
    pub(super) number: u32,
    /// Whether there are limits.
    pub(super) limited: bool,
}

impl Parts {
    /// The set that holds the file's descriptor; the first ones are others'.
    pub(super) fn fdset(self) -> u32 {
        config::FIRST_DISK_FDSET + self.number
    }

    pub(super) fn file_node(self) -> String {
        format!("file{}", self.number)
    }

    pub(super) fn limits(self) -> String {
        format!("limits{}", self.number)
    }

    /// The node that the device uses.
    pub(super) fn top_node(self) -> String {
        if self.limited { format!("disk{}", self.number) } else { self.file_node() }
    }
}

/// The device's id. Apart from those of other devices, whatever the caller calls its disks.
pub(super) fn device_id(id: &str) -> String {
    format!("disk-{id}")
}

/// A disk whose settings and file fit.
#[derive(Debug)]
pub(super) struct Drive {
    pub(super) parts: Parts,
    disk: Disk,
    is_block_device: bool,
    bytes: u64,
}

impl Drive {
    /// Examines a disk.
    ///
    /// # Errors
    /// QEMU could not use it.
    pub(super) fn of(number: u32, disk: Disk) -> Result<Self, VmmError> {
        let examined = check(&disk).and_then(|()| examine(&disk));
        match examined {
            Ok((is_block_device, bytes)) => {
                let limited = disk.limits != DiskLimits::default();
                Ok(Self { parts: Parts { number, limited }, disk, is_block_device, bytes })
            }
            Err(source) => Err(VmmError::Disk { id: disk.id, source }),
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.disk.id
    }

    pub(super) fn attachment(&self) -> DiskAttachment {
        self.disk.attachment
    }

    /// Its size as persistent memory, if it can be that.
    pub(super) fn pmem_size(&self) -> Option<u64> {
        let fits = self.bytes > 0 && self.bytes.is_multiple_of(PMEM_UNIT);
        (self.disk.attachment == DiskAttachment::Pmem && fits).then_some(self.bytes)
    }

    /// The controller that this disk would like, if it is the first.
    pub(super) fn controller(&self, bus: &str) -> Properties {
        controller(bus, self.disk.queues, self.disk.queue_size)
    }

    pub(super) fn into_file(self) -> OwnedFd {
        self.disk.file
    }

    /// The group that limits it, if it is limited.
    pub(super) fn limits(&self) -> Option<Properties> {
        let DiskLimits { bytes, ops } = self.disk.limits;
        let limits = json!({ "bps-total": bytes.min(HIGHEST_LIMIT), "iops-total": ops.min(HIGHEST_LIMIT) });
        let group = properties([
            ("qom-type", json!("throttle-group")),
            ("id", json!(self.parts.limits())),
            ("limits", limits),
        ]);
        self.parts.limited.then_some(group)
    }

    /// Its block nodes, each made after the one before.
    pub(super) fn nodes(&self) -> Vec<Properties> {
        let Disk { read_only, cache, .. } = self.disk;
        // Others that write are kept away from a writable image. Layers are read by several VMs, and a block device that is
        // written to was claimed by whoever opened it.
        let locking = if read_only || self.is_block_device { "off" } else { "auto" };
        let discard = if self.disk.discard { "unmap" } else { "ignore" };
        let mut nodes = vec![properties([
            ("driver", json!(if self.is_block_device { "host_device" } else { "file" })),
            ("node-name", json!(self.parts.file_node())),
            ("filename", json!(format!("/dev/fdset/{}", self.parts.fdset()))),
            ("read-only", json!(read_only)),
            ("auto-read-only", json!(false)),
            ("aio", json!(aio(self.disk.aio))),
            ("cache", json!({ "direct": cache.direct, "no-flush": cache.no_flush })),
            ("discard", json!(discard)),
            ("locking", json!(locking)),
        ])];
        nodes.extend(self.parts.limited.then(|| {
            properties([
                ("driver", json!("throttle")),
                ("node-name", json!(self.parts.top_node())),
                ("throttle-group", json!(self.parts.limits())),
                ("file", json!(self.parts.file_node())),
                ("read-only", json!(read_only)),
                ("auto-read-only", json!(false)),
                ("discard", json!(discard)),
            ])
        }));
        nodes
    }

    /// What maps it as persistent memory. The descriptor is inherited under its number.
    pub(super) fn memory(&self) -> Properties {
        let file = self.disk.file.as_raw_fd();
        properties([
            ("qom-type", json!("memory-backend-file")),
            ("id", json!(self.parts.file_node())),
            ("mem-path", json!(format!("/proc/self/fd/{file}"))),
            ("size", json!(self.bytes)),
            ("share", json!(true)),
            ("readonly", json!(self.disk.read_only)),
        ])
    }

    /// The device that the guest sees.
    pub(super) fn device(&self, place: Place) -> Properties {
        let mut device = match place {
            Place::Slot(slot) => self.virtio_blk("pcie.0", Some(slot)),
            Place::Port(number) => self.virtio_blk(&config::port_id(number), None),
            Place::Unit(lun) => self.scsi(lun),
            Place::Memory { slot, .. } => {
                let memory = self.parts.file_node();
                let mut device = virtio("virtio-pmem-pci", "pcie.0", Some(slot));
                device.extend(properties([("memdev", json!(memory))]));
                device
            }
        };
        device.insert("id".to_owned(), json!(device_id(&self.disk.id)));
        device
    }

    fn virtio_blk(&self, bus: &str, slot: Option<u8>) -> Properties {
        let mut device = virtio("virtio-blk-pci", bus, slot);
        device.extend(self.common());
        device.extend(properties([("discard", json!(self.disk.discard))]));
        for (key, value) in [("num-queues", self.disk.queues), ("queue-size", self.disk.queue_size)] {
            if value != 0 {
                device.insert(key.to_owned(), json!(value));
            }
        }
        device
    }

    fn scsi(&self, lun: u16) -> Properties {
        let mut device = properties([
            ("driver", json!("scsi-hd")),
            ("bus", json!(format!("{}.0", config::SCSI_ID))),
            ("scsi-id", json!(0)),
            ("lun", json!(lun)),
        ]);
        device.extend(self.common());
        device
    }

    fn common(&self) -> Properties {
        let serial: String = self.disk.id.chars().take(SERIAL_LENGTH).collect();
        let mut device = properties([
            ("drive", json!(self.parts.top_node())),
            ("serial", json!(serial)),
            ("write-cache", json!("on")),
            // QEMU's own choice stops the whole VM when the host has no space left.
            ("werror", json!("report")),
            ("rerror", json!("report")),
        ]);
        if let Some(BlockSize { logical, physical }) = self.disk.block_size {
            device.extend(properties([
                ("logical_block_size", json!(logical)),
                ("physical_block_size", json!(physical)),
            ]));
        }
        device
    }
}

/// The controller of SCSI disks. On the root bus it has a slot of its own.
pub(super) fn controller(bus: &str, queues: u16, queue_size: u16) -> Properties {
    let slot = (bus == "pcie.0").then_some(config::slot::SCSI);
    let mut device = virtio("virtio-scsi-pci", bus, slot);
    device.insert("id".to_owned(), json!(config::SCSI_ID));
    for (key, value) in [("num_queues", queues), ("virtqueue_size", queue_size)] {
        if value != 0 {
            device.insert(key.to_owned(), json!(value));
        }
    }
    device
}

/// A modern virtio device.
fn virtio(driver: &str, bus: &str, slot: Option<u8>) -> Properties {
    let mut device =
        properties([("driver", json!(driver)), ("bus", json!(bus)), ("disable-legacy", json!("on"))]);
    if let Some(slot) = slot {
        device.insert("addr".to_owned(), json!(format!("{slot:#x}")));
    }
    device
}

fn properties<const N: usize>(of: [(&str, Value); N]) -> Properties {
    of.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn aio(aio: DiskAio) -> &'static str {
    match aio {
        DiskAio::Threads => "threads",
        DiskAio::Native => "native",
        DiskAio::IoUring => "io_uring",
    }
}

/// Refuses settings that QEMU would refuse in words of its own.
fn check(disk: &Disk) -> Result<(), DiskError> {
    let mut letters = disk.id.chars();
    let named = letters.next().is_some_and(|first| first.is_ascii_alphabetic())
        && letters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    if !named {
        return Err(DiskError::Id);
    }
    if disk.aio == DiskAio::Native && !disk.cache.direct {
        return Err(DiskError::NativeNeedsDirect);
    }
    if disk.queues > MOST_QUEUES {
        return Err(DiskError::Queues { count: disk.queues });
    }
    let size = disk.queue_size;
    if size != 0 && !(size.is_power_of_two() && (4..=1024).contains(&size)) {
        return Err(DiskError::QueueSize { size });
    }
    if let Some(BlockSize { logical, physical }) = disk.block_size {
        let fits = |size: u32| size.is_power_of_two() && (512..=32768).contains(&size);
        if !fits(logical) || !fits(physical) || logical > physical {
            return Err(DiskError::BlockSize { logical, physical });
        }
    }
    Ok(())
}

/// Whether the file is a block device, and its length.
fn examine(disk: &Disk) -> Result<(bool, u64), DiskError> {
    let examine = |error: rustix::io::Errno| DiskError::Examine(error.into());
    let found = fstat(&disk.file).map_err(examine)?;
    let kind = FileType::from_raw_mode(found.st_mode);
    if !matches!(kind, FileType::BlockDevice | FileType::RegularFile) {
        return Err(DiskError::FileType);
    }
    // QEMU takes a descriptor only for exactly what it was opened for.
    let mode = fcntl_getfl(&disk.file).map_err(examine)? & OFlags::RWMODE;
    let (needed, expected) = match disk.read_only {
        true => (OFlags::RDONLY, "for reading"),
        false => (OFlags::RDWR, "for reading and writing"),
    };
    if mode != needed {
        let opened = match mode {
            OFlags::RDONLY => "for reading",
            OFlags::WRONLY => "for writing",
            _ => "for reading and writing",
        };
        return Err(DiskError::OpenedFor { opened, needed: expected });
    }
    // A device's status tells no length.
    let bytes = seek(&disk.file, SeekFrom::End(0)).map_err(examine)?;
    Ok((kind == FileType::BlockDevice, bytes))
}
