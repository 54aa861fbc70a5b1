//! Keys of `[hypervisor.qemu]` that are about disks.

use super::{Kind, Refusal, Row, Table, set};
use crate::model::{BlockAio, BlockDriver};
use crate::value::{Fixed, Value};

/// Words for the kinds of disks, upstream's two spellings of each.
const DRIVERS: &[&str] = &["virtio-blk-pci", "virtio-blk", "virtio-scsi", "virtio-pmem", "nvdimm"];
/// The smallest and the largest block of a disk, in bytes.
const SECTORS: (u32, u32) = (512, 32768);

const fn row(key: &'static str, kind: Kind, default: Fixed) -> Row {
    Row::new(Table::Hypervisor, key, kind, default)
}

const ANY: Kind = Kind::Integer { min: 0, max: i64::MAX };
const SHORT: Kind = Kind::Integer { min: 0, max: u16::MAX as i64 };
const SECTOR: Kind = Kind::Integer { min: 0, max: SECTORS.1 as i64 };

pub(super) static ROWS: &[Row] = &[
    row("disable_block_device_use", Kind::Bool, Fixed::Bool(false))
        .does("Mount root file systems of block devices on the host and share them.", |c, v| {
            set(&mut c.hypervisor.disks.disable_block_device_use, v.flag())
        })
        .annotation("hypervisor.disable_block_device_use"),
    row("block_device_driver", Kind::OneOf(DRIVERS), Fixed::Text("virtio-blk-pci"))
        .does("What a disk is to the guest; where that cannot be, it is another one.", |c, v| {
            set(
                &mut c.hypervisor.disks.driver,
                match v.text() {
                    "virtio-scsi" => BlockDriver::Scsi,
                    "virtio-pmem" | "nvdimm" => BlockDriver::Pmem,
                    _ => BlockDriver::Blk,
                },
            )
        })
        .annotation("hypervisor.block_device_driver"),
    row("block_device_aio", Kind::OneOf(&["threads", "native", "io_uring"]), Fixed::Text("threads"))
        .does("How the VMM reads and writes disks; `native` needs `block_device_cache_direct`.", |c, v| {
            set(
                &mut c.hypervisor.disks.aio,
                match v.text() {
                    "native" => BlockAio::Native,
                    "io_uring" => BlockAio::IoUring,
                    _ => BlockAio::Threads,
                },
            )
        })
        .annotation("hypervisor.block_device_aio"),
    row("block_device_cache_set", Kind::Bool, Fixed::Bool(false))
        .does("The next two keys count.", |c, v| set(&mut c.hypervisor.disks.cache_set, v.flag()))
        .annotation("hypervisor.block_device_cache_set"),
    row("block_device_cache_direct", Kind::Bool, Fixed::Bool(false))
        .does("Disks bypass the host's page cache.", |c, v| {
            set(&mut c.hypervisor.disks.cache_direct, v.flag())
        })
        .annotation("hypervisor.block_device_cache_direct"),
    row("block_device_cache_noflush", Kind::Bool, Fixed::Bool(false))
        .does(
            "What the guest wants to be safe is not written at once: it is lost if the host fails.",
            |c, v| set(&mut c.hypervisor.disks.cache_noflush, v.flag()),
        )
        .annotation("hypervisor.block_device_cache_noflush"),
    row("block_device_logical_sector_size", SECTOR, Fixed::Int(0))
        .does("The unit of addresses of disks in bytes; 0 for the VMM's own choice.", |c, v| {
            set(&mut c.hypervisor.disks.logical_sector_size, sector(v)?)
        })
        .annotation("hypervisor.blk_logical_sector_size"),
    row("block_device_physical_sector_size", SECTOR, Fixed::Int(0))
        .does("What disks write at once, in bytes; 0 for the VMM's own choice.", |c, v| {
            set(&mut c.hypervisor.disks.physical_sector_size, sector(v)?)
        })
        .annotation("hypervisor.blk_physical_sector_size"),
    row("num_queues", SHORT, Fixed::Int(0))
        .does("Queues of each disk; 0 for the VMM's own choice.", |c, v| {
            set(&mut c.hypervisor.disks.queues, short(v))
        })
        .annotation("hypervisor.block_device_num_queues"),
    row("queue_size", SHORT, Fixed::Int(0))
        .does("Requests in each queue of a disk, a power of two; 0 for the VMM's own choice.", |c, v| {
            set(&mut c.hypervisor.disks.queue_size, short(v))
        })
        .annotation("hypervisor.block_device_queue_size"),
    row("pcie_root_port", Kind::Integer { min: 0, max: 8 }, Fixed::Int(0))
        .does("Ports for devices that are plugged in later, beyond those for network cards.", |c, v| {
            set(&mut c.hypervisor.disks.ports, u8::try_from(v.unsigned()).unwrap_or(u8::MAX))
        })
        .annotation("hypervisor.pcie_root_port"),
    row("disk_rate_limiter_bw_max_rate", ANY, Fixed::Int(0))
        .does("Bits per second that each disk transfers at most; 0 for no limit.", |c, v| {
            set(&mut c.hypervisor.disks.bandwidth, v.integer().unsigned_abs())
        }),
    row("disk_rate_limiter_ops_max_rate", ANY, Fixed::Int(0))
        .does("Requests per second that each disk serves at most; 0 for no limit.", |c, v| {
            set(&mut c.hypervisor.disks.operations, v.integer().unsigned_abs())
        }),
];

fn short(value: &Value) -> u16 {
    u16::try_from(value.unsigned()).unwrap_or(u16::MAX)
}

fn sector(value: &Value) -> Result<u32, Refusal> {
    match value.unsigned() {
        size if size == 0 || (size >= SECTORS.0 && size.is_power_of_two()) => Ok(size),
        _ => {
            Err(Refusal::Invalid(format!("must be a power of two from {} to {}, or 0", SECTORS.0, SECTORS.1)))
        }
    }
}
