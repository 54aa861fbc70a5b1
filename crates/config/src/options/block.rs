//! Keys of `[hypervisor.qemu]` about block devices.

use super::{Applied, Kind, Refusal, Row, Table, set};
use crate::block_devices::{BlockAio, BlockDriver, SectorSize};
use crate::model::Config;
use crate::value::{Fixed, Value};

const fn row(key: &'static str, kind: Kind, default: Fixed) -> Row {
    Row::new(Table::Hypervisor, key, kind, default)
}

const SECTOR_SIZE: Kind = Kind::Integer { min: 0, max: 32768 };
const RATE: Kind = Kind::Integer { min: 0, max: i64::MAX };

/// The names of upstream's two runtimes.
const DRIVERS: Kind = Kind::OneOf(&[
    "virtio-blk-pci",
    "virtio-blk",
    "virtio-scsi",
    "virtio-pmem",
    "nvdimm",
    "virtio-blk-mmio",
    "virtio-mmio",
    "virtio-blk-ccw",
]);

pub(super) static ROWS: &[Row] = &[
    row("disable_block_device_use", Kind::Bool, Fixed::Bool(false))
        .does("Mount block devices on the host and share them, instead of giving the VM disks.", |c, v| {
            set(&mut c.hypervisor.block_devices.disabled, v.flag())
        })
        .annotation("hypervisor.disable_block_device_use"),
    row("block_device_driver", DRIVERS, Fixed::Text("virtio-blk-pci"))
        .does("The kind of disk that a block device becomes.", driver)
        .annotation("hypervisor.block_device_driver"),
    row("block_device_aio", Kind::OneOf(&["threads", "native", "io_uring"]), Fixed::Text("threads"))
        .does("How the VMM reads and writes disks.", |c, v| {
            let aio = match v.text() {
                "native" => BlockAio::Native,
                "io_uring" => BlockAio::IoUring,
                _ => BlockAio::Threads,
            };
            set(&mut c.hypervisor.block_devices.aio, aio)
        })
        .annotation("hypervisor.block_device_aio"),
    row("block_device_cache_set", Kind::Bool, Fixed::Bool(false))
        .does("Whether the next two keys count.", |_, _| Ok(()))
        .annotation("hypervisor.block_device_cache_set"),
    row("block_device_cache_direct", Kind::Bool, Fixed::Bool(false))
        .does("Read and write disks without the host's page cache.", |c, v| {
            set(&mut c.hypervisor.block_devices.cache_direct, v.flag())
        })
        .annotation("hypervisor.block_device_cache_direct"),
    row("block_device_cache_noflush", Kind::Bool, Fixed::Bool(false))
        .does("Ignore that the guest wants its data on stable storage.", |c, v| {
            set(&mut c.hypervisor.block_devices.cache_no_flush, v.flag())
        })
        .annotation("hypervisor.block_device_cache_noflush"),
    row("block_device_logical_sector_size", SECTOR_SIZE, Fixed::Int(0))
        .does("The unit of a disk's addresses in bytes; 0 for the VMM's own, 512.", |c, v| {
            let logical = sector_size(v)?;
            set(&mut c.hypervisor.block_devices.sector_size, sizes(logical, 0))
        })
        .annotation("hypervisor.blk_logical_sector_size"),
    row("block_device_physical_sector_size", SECTOR_SIZE, Fixed::Int(0))
        .does("What a disk writes at once in bytes; 0 for the logical size.", |c, v| {
            let physical = sector_size(v)?;
            let logical = c.hypervisor.block_devices.sector_size.map_or(0, |size| size.logical);
            set(&mut c.hypervisor.block_devices.sector_size, sizes(logical, physical))
        })
        .annotation("hypervisor.blk_physical_sector_size"),
    row("num_queues", Kind::Integer { min: 0, max: 256 }, Fixed::Int(0))
        .does("Queues of each disk; 0 for as many as the VM has CPUs.", |c, v| {
            set(&mut c.hypervisor.block_devices.queues, u16::try_from(v.unsigned()).unwrap_or(u16::MAX))
        })
        .annotation("hypervisor.block_device_num_queues"),
    row("queue_size", Kind::Integer { min: 0, max: 1024 }, Fixed::Int(0))
        .does("Requests in each queue of a disk, a power of two; 0 for the VMM's own, 256.", queue_size)
        .annotation("hypervisor.block_device_queue_size"),
    row("pcie_root_port", Kind::Integer { min: 0, max: 8 }, Fixed::Int(0))
        .does("Ports for devices that are plugged in later, beyond those for network cards.", |c, v| {
            set(&mut c.hypervisor.block_devices.ports, u8::try_from(v.unsigned()).unwrap_or(u8::MAX))
        })
        .annotation("hypervisor.pcie_root_port"),
    row("disk_rate_limiter_bw_max_rate", RATE, Fixed::Int(0)).does(
        "Bits per second that are read and written on each disk at most; 0 for no limit.",
        |c, v| {
            let bytes = v.integer().unsigned_abs().div_ceil(8);
            set(&mut c.hypervisor.block_devices.bytes_per_second, bytes)
        },
    ),
    row("disk_rate_limiter_ops_max_rate", RATE, Fixed::Int(0))
        .does("Requests per second on each disk at most; 0 for no limit.", |c, v| {
            set(&mut c.hypervisor.block_devices.ops_per_second, v.integer().unsigned_abs())
        }),
];

fn driver(config: &mut Config, value: &Value) -> Applied {
    let driver = match value.text() {
        "virtio-blk-pci" | "virtio-blk" => BlockDriver::VirtioBlk,
        "virtio-scsi" => BlockDriver::VirtioScsi,
        "virtio-pmem" | "nvdimm" => BlockDriver::VirtioPmem,
        other => {
            let instead = "use \"virtio-blk-pci\", \"virtio-scsi\" or \"virtio-pmem\"";
            return Err(Refusal::NotYet(format!("disks of the kind \"{other}\"; {instead}")));
        }
    };
    set(&mut config.hypervisor.block_devices.driver, driver)
}

fn sector_size(value: &Value) -> Result<u32, Refusal> {
    let size = value.unsigned();
    if size != 0 && !(size.is_power_of_two() && size >= 512) {
        return Err(Refusal::Invalid(format!("must be a power of two from 512 to 32768, or 0, not {size}")));
    }
    Ok(size)
}

/// Both sizes when either is given; that they fit together is checked when all keys are known.
fn sizes(logical: u32, physical: u32) -> Option<SectorSize> {
    let given = logical != 0 || physical != 0;
    let logical = if logical == 0 { 512 } else { logical };
    let physical = if physical == 0 { logical } else { physical };
    given.then_some(SectorSize { logical, physical })
}

fn queue_size(config: &mut Config, value: &Value) -> Applied {
    let size = value.unsigned();
    if size != 0 && !(size.is_power_of_two() && size >= 4) {
        return Err(Refusal::Invalid(format!("must be a power of two from 4 to 1024, or 0, not {size}")));
    }
    set(&mut config.hypervisor.block_devices.queue_size, u16::try_from(size).unwrap_or(u16::MAX))
}
