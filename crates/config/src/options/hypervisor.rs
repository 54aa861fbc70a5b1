//! Keys of `[hypervisor.qemu]`.

use std::path::PathBuf;

use super::{Applied, Kind, Refusal, Row, Table, extra_args, known, set};
use crate::derive::millicpus;
use crate::kernel_params::KernelParams;
use crate::model::{Accelerator, Config, SharedFs};
use crate::nearest::nearest;
use crate::value::{Fixed, Value};

/// The smallest guest that boots, in MiB; upstream's floor for QEMU.
pub const MIN_MEMORY_MIB: u32 = 64;

const fn row(key: &'static str, kind: Kind, default: Fixed) -> Row {
    Row::new(Table::Hypervisor, key, kind, default)
}

pub(super) static ROWS: &[Row] = &[
    row("path", Kind::Path, Fixed::Text("/usr/bin/qemu-system-x86_64"))
        .does("The QEMU binary.", |c, v| set(&mut c.hypervisor.path, v.text().into()))
        .checked_annotation("hypervisor.path", "valid_hypervisor_paths"),
    row("valid_hypervisor_paths", Kind::List, Fixed::List(&["/usr/bin/qemu-system-x86_64"]))
        .does("Globs that the annotation `path` must match; empty forbids it.", |c, v| {
            set(&mut c.hypervisor.valid_hypervisor_paths, v.list().to_vec())
        }),
    row("kernel", Kind::Path, Fixed::Text("/usr/share/kata-containers/vmlinux.container"))
        .does("The guest kernel.", |c, v| set(&mut c.hypervisor.kernel, v.text().into()))
        .annotation("hypervisor.kernel"),
    row("initrd", Kind::OptionalPath, Fixed::Text("/usr/share/kata-containers/kata-containers-initrd.img"))
        .does("The guest's initial RAM disk, with the agent in it.", apply_initrd)
        .annotation("hypervisor.initrd"),
    row("kernel_params", Kind::Text, Fixed::Text(""))
        .does(
            "Extra kernel parameters, separated by spaces; each wins over a default of its name.",
            apply_kernel_params,
        )
        .appending_annotation("hypervisor.kernel_params"),
    row("firmware", Kind::OptionalPath, Fixed::Text(""))
        .does("Firmware file; empty means QEMU's own.", |c, v| {
            set(&mut c.hypervisor.firmware, optional_path(v))
        })
        .annotation("hypervisor.firmware"),
    row("machine_type", Kind::Text, Fixed::Text("q35"))
        .does("QEMU machine type: q35, or one of its versions.", apply_machine_type)
        .annotation("hypervisor.machine_type"),
    row("accelerator", Kind::OneOf(&["auto", "kvm", "tcg"]), Fixed::Text("auto"))
        .does("auto takes KVM if it works here and emulation (TCG) if not.", apply_accelerator)
        .ours(),
    row("cpu_features", Kind::Text, Fixed::Text(""))
        .does("CPU features added to the CPU model, separated by commas.", |c, v| {
            set(&mut c.hypervisor.cpu_features, v.text().to_owned())
        })
        .annotation("hypervisor.cpu_features"),
    row("default_vcpus", Kind::Number { min: -1.0, max: 1024.0 }, Fixed::Int(1))
        .does("vCPUs at boot; fractions are rounded up, 0 means 1, -1 all of the host's.", |_, _| Ok(()))
        .annotation("hypervisor.default_vcpus"),
    row("default_maxvcpus", Kind::Integer { min: 0, max: 1024 }, Fixed::Int(0))
        .does("The most vCPUs the VM may ever have; 0 means as many as the host.", |_, _| Ok(()))
        .annotation("hypervisor.default_max_vcpus"),
    row("default_memory", Kind::Integer { min: 0, max: 16_777_216 }, Fixed::Int(2048))
        .does("Memory at boot in MiB; 0 means 2048.", apply_memory)
        .annotation("hypervisor.default_memory"),
    row("default_maxmemory", Kind::Integer { min: 0, max: 16_777_216 }, Fixed::Int(0))
        .does("The most memory the VM may ever have in MiB; 0 means as much as the host.", |c, v| {
            set(&mut c.hypervisor.default_maxmemory_mib, v.unsigned())
        }),
    row("overhead_vcpus", Kind::Number { min: 0.0, max: 1024.0 }, Fixed::Int(0))
        .does("vCPUs, whole or not, that a VM has beyond the limits of its pod.", |c, v| {
            set(&mut c.hypervisor.overhead_millicpus, millicpus(v.number()))
        }),
    row("overhead_memory", Kind::Integer { min: 0, max: 1_048_576 }, Fixed::Int(96))
        .does("MiB that a VM has beyond the limits of its pod, for the guest's kernel and agent.", |c, v| {
            set(&mut c.hypervisor.overhead_memory_mib, v.unsigned())
        }),
    row("reclaim_guest_freed_memory", Kind::Bool, Fixed::Bool(false))
        .does("The host takes back memory that the guest has freed (free page reporting).", |c, v| {
            set(&mut c.hypervisor.reclaim_guest_freed_memory, v.flag())
        })
        .annotation("hypervisor.reclaim_guest_freed_memory"),
    row("enable_virtio_mem", Kind::Bool, Fixed::Bool(true))
        .does("More memory comes by virtio-mem, which grows and shrinks; false: by memory modules.", |c, v| {
            set(&mut c.hypervisor.enable_virtio_mem, v.flag())
        })
        .annotation("hypervisor.enable_virtio_mem"),
    row("memory_slots", Kind::Integer { min: 0, max: 250 }, Fixed::Int(10))
        .does("Memory modules that a VM without virtio-mem can have.", |c, v| {
            set(&mut c.hypervisor.memory_slots, u8::try_from(v.unsigned()).unwrap_or(u8::MAX))
        })
        .annotation("hypervisor.memory_slots"),
    row(
        "shared_fs",
        Kind::OneOf(&["virtio-fs", "virtio-9p", "virtio-fs-nydus", "inline-virtio-fs", "none"]),
        Fixed::Text("virtio-fs"),
    )
    .does("How files are shared with the guest.", apply_shared_fs)
    .annotation("hypervisor.shared_fs"),
    // Linux's own; QEMU warns of upstream's 8192. Above 500 KiB the guest's driver has no room in its queue.
    row("msize_9p", Kind::Integer { min: 4096, max: 512_000 }, Fixed::Int(131_072))
        .does("The longest message of 9p in bytes.", |c, v| set(&mut c.hypervisor.msize_9p, v.unsigned()))
        .annotation("hypervisor.msize_9p"),
    row("virtio_fs_daemon", Kind::Path, Fixed::Text("/usr/libexec/virtiofsd"))
        .does("The virtiofsd binary; with virtio-fs-nydus nydusd.", |c, v| set(&mut c.hypervisor.virtio_fs_daemon, v.text().into()))
        .checked_annotation("hypervisor.virtio_fs_daemon", "valid_virtio_fs_daemon_paths"),
    row("valid_virtio_fs_daemon_paths", Kind::List, Fixed::List(&["/usr/libexec/virtiofsd"]))
        .does("Globs that the annotation `virtio_fs_daemon` must match; empty forbids it.", |c, v| {
            set(&mut c.hypervisor.valid_virtio_fs_daemon_paths, v.list().to_vec())
        }),
    row("virtio_fs_cache", Kind::OneOf(&["auto", "always", "metadata", "never"]), Fixed::Text("auto"))
        .does("virtiofsd's cache policy.", |c, v| set(&mut c.hypervisor.virtio_fs_cache, v.text().to_owned()))
        .annotation("hypervisor.virtio_fs_cache"),
    row("virtio_fs_queue_size", Kind::Integer { min: 2, max: 1024 }, Fixed::Int(1024))
        .does("Entries of each virtio-fs queue, a power of two.", apply_queue_size),
    row("virtio_fs_extra_args", Kind::List, Fixed::List(&[]))
        .does("Extra arguments for virtiofsd or nydusd.", |c, v| {
            extra_args::check(v.list())?;
            set(&mut c.hypervisor.virtio_fs_extra_args, v.list().to_vec())
        })
        .annotation("hypervisor.virtio_fs_extra_args"),
    row("guest_hook_path", Kind::OptionalPath, Fixed::Text(""))
        .does(
            "A folder in the guest with executables in `prestart`, `poststart` and `poststop`, run for every container.",
            |c, v| set(&mut c.hypervisor.guest_hook_path, v.text().to_owned()),
        )
        .annotation("hypervisor.guest_hook_path"),
    row("network_queues", Kind::Integer { min: 0, max: 256 }, Fixed::Int(1))
        .does("Pairs of queues of each network card; 0 means 1.", |c, v| {
            set(&mut c.hypervisor.network_queues, u16::try_from(v.unsigned().max(1)).unwrap_or(u16::MAX))
        })
        .annotation("hypervisor.network_queues"),
    row("disable_vhost_net", Kind::Bool, Fixed::Bool(false))
        .does("Let the VMM move packets even where the host has vhost-net.", |c, v| {
            set(&mut c.hypervisor.disable_vhost_net, v.flag())
        })
        .annotation("hypervisor.disable_vhost_net"),
    row("rx_rate_limiter_max_rate", Kind::Integer { min: 0, max: i64::MAX }, Fixed::Int(0))
        .does("Bits per second that each network card receives at most; 0 for no limit.", |c, v| {
            set(&mut c.hypervisor.rx_rate_limiter_max_rate, v.integer().unsigned_abs())
        })
        .annotation("hypervisor.rx_rate_limiter_max_rate"),
    row("tx_rate_limiter_max_rate", Kind::Integer { min: 0, max: i64::MAX }, Fixed::Int(0))
        .does("Bits per second that each network card sends at most; 0 for no limit.", |c, v| {
            set(&mut c.hypervisor.tx_rate_limiter_max_rate, v.integer().unsigned_abs())
        })
        .annotation("hypervisor.tx_rate_limiter_max_rate"),
    row("entropy_source", Kind::Path, Fixed::Text("/dev/urandom"))
        .does("Where the guest's random numbers come from on the host.", |c, v| {
            set(&mut c.hypervisor.entropy_source, v.text().into())
        })
        .checked_annotation("hypervisor.entropy_source", "valid_entropy_sources"),
    row("valid_entropy_sources", Kind::List, Fixed::List(&["/dev/urandom", "/dev/random"]))
        .does("Globs that the annotation `entropy_source` must match; empty forbids it.", |c, v| {
            set(&mut c.hypervisor.valid_entropy_sources, v.list().to_vec())
        }),
    row(
        "enable_annotations",
        Kind::List,
        Fixed::List(&[
            "enable_iommu",
            "kernel_params",
            "kernel_verity_params",
            "default_vcpus",
            "default_memory",
        ]),
    )
    .does("Hypervisor annotations a pod may use; `.*` and `*` stand for any text.", apply_enable_annotations),
    row("enable_debug", Kind::Bool, Fixed::Bool(false))
        .does("Debug output of the VMM and the guest kernel.", |c, v| {
            set(&mut c.hypervisor.enable_debug, v.flag())
        }),
    row("disable_seccomp", Kind::Bool, Fixed::Bool(false))
        .does("Switch off the seccomp filters of the VMM and of virtiofsd.", |c, v| {
            set(&mut c.hypervisor.disable_seccomp, v.flag())
        }),
    row("disable_guest_selinux", Kind::Bool, Fixed::Bool(true))
        .does("Leave SELinux off in the guest, and drop the SELinux labels of containers.", |c, v| {
            set(&mut c.hypervisor.disable_guest_selinux, v.flag())
        }),
];

fn optional_path(value: &Value) -> Option<PathBuf> {
    Some(value.text()).filter(|text| !text.is_empty()).map(PathBuf::from)
}

fn apply_initrd(config: &mut Config, value: &Value) -> Applied {
    let path = optional_path(value).ok_or_else(|| {
        Refusal::NotYet("a guest without an initrd; name one, or remove the line for the default".to_owned())
    })?;
    set(&mut config.hypervisor.initrd, Some(path))
}

fn apply_kernel_params(config: &mut Config, value: &Value) -> Applied {
    let params = KernelParams::parse(value.text()).map_err(Refusal::Invalid)?;
    set(&mut config.hypervisor.kernel_params, params)
}

fn apply_machine_type(config: &mut Config, value: &Value) -> Applied {
    let name = value.text();
    if name != "q35" && !name.starts_with("pc-q35-") {
        return Err(Refusal::NotYet(format!("machine type \"{name}\"; use \"q35\"")));
    }
    set(&mut config.hypervisor.machine_type, name.to_owned())
}

fn apply_accelerator(config: &mut Config, value: &Value) -> Applied {
    let accelerator = match value.text() {
        "kvm" => Accelerator::Kvm,
        "tcg" => Accelerator::Tcg,
        _ => Accelerator::Auto,
    };
    set(&mut config.hypervisor.accelerator, accelerator)
}

fn apply_memory(config: &mut Config, value: &Value) -> Applied {
    let mib = value.unsigned();
    if (1..MIN_MEMORY_MIB).contains(&mib) {
        return Err(Refusal::Invalid(format!(
            "must be at least {MIN_MEMORY_MIB} (MiB), or 0 for the default"
        )));
    }
    set(&mut config.hypervisor.default_memory_mib, mib)
}

fn apply_shared_fs(config: &mut Config, value: &Value) -> Applied {
    let known = [SharedFs::VirtioFs, SharedFs::VirtioFsNydus, SharedFs::Virtio9p];
    let Some(chosen) = known.into_iter().find(|known| known.as_str() == value.text()) else {
        return Err(Refusal::NotYet(match value.text() {
            "none" => {
                "a guest without shared files, where no container has its /etc/hosts; use \"virtio-fs\" or \
                       \"virtio-9p\""
                    .to_owned()
            }
            _ => format!(
                "sharing files by {value}; use \"virtio-fs\", or \"virtio-9p\" on a host without virtiofsd"
            ),
        }));
    };
    set(&mut config.hypervisor.shared_fs, chosen)
}

fn apply_queue_size(config: &mut Config, value: &Value) -> Applied {
    let size = value.unsigned();
    if !size.is_power_of_two() {
        return Err(Refusal::Invalid(format!("must be a power of two, not {size}")));
    }
    set(&mut config.hypervisor.virtio_fs_queue_size, size)
}

fn apply_enable_annotations(config: &mut Config, value: &Value) -> Applied {
    for item in value.list() {
        let literal = !item.contains('*');
        if literal && !known::hypervisor_annotations().any(|name| name == item) {
            let hint = nearest(item, known::hypervisor_annotations())
                .map_or_else(String::new, |name| format!("; did you mean \"{name}\"?"));
            return Err(Refusal::Invalid(format!(
                "names \"{item}\", which is no hypervisor annotation{hint}"
            )));
        }
    }
    set(&mut config.hypervisor.enable_annotations, value.list().to_vec())
}
