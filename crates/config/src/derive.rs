//! Values that follow from other values or from the host.

use crate::block_devices::{BlockAio, SectorSize};
use crate::error::Problem;
use crate::memory;
use crate::model::{Config, LogLevel, SharedFs};
use crate::numa;
use crate::options::Table;
use crate::origin::{Origin, Setting};
use crate::settings::Settings;
use crate::value::Value;

/// Upstream's default memory in MiB.
const DEFAULT_MEMORY_MIB: u32 = 2048;

/// What the host has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostSize {
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u32,
}

/// Fills in what is derived and checks what depends on several keys.
pub(crate) fn complete(config: &mut Config, settings: &Settings, host: HostSize) -> Vec<Problem> {
    default_memory(config);
    log_levels(config);
    let mut problems = vec![vcpus(config, settings, host.cpus.max(1)), security_modules(config, settings)];
    problems.push(most_memory(config, settings, host.memory_mib));
    problems.extend([block_cache(config, settings), block_aio(config, settings), sectors(config, settings)]);
    problems.push(file_cache(config, settings));
    problems.push(memory::check(config, settings));
    problems.push(numa::check(config, settings));
    whole_pages(config);
    problems.into_iter().filter_map(Result::err).collect()
}

/// nydusd decides by itself what the guest may remember.
fn file_cache(config: &Config, settings: &Settings) -> Result<(), Problem> {
    let vm = &config.hypervisor;
    if vm.shared_fs != SharedFs::VirtioFsNydus || vm.virtio_fs_cache == "auto" {
        return Ok(());
    }
    let place = settings.named(Table::Hypervisor, "virtio_fs_cache").origin.clone();
    let text = format!(
        "`virtio_fs_cache` is \"{}\", but with `shared_fs = \"virtio-fs-nydus\"` nydusd decides what the guest caches; \
         remove the line, or set it to \"auto\"",
        vm.virtio_fs_cache
    );
    Err(Problem { place, text })
}

/// Upstream has a key for whether two others count. That they are set and do not would be a surprise.
fn block_cache(config: &Config, settings: &Settings) -> Result<(), Problem> {
    let set = settings.named(Table::Hypervisor, "block_device_cache_set");
    let disks = &config.hypervisor.block_devices;
    let given = [
        ("block_device_cache_direct", disks.cache_direct),
        ("block_device_cache_noflush", disks.cache_no_flush),
    ];
    match given.into_iter().find(|(_, given)| *given && !set.value.flag()) {
        None => Ok(()),
        Some((key, _)) => {
            let place = settings.named(Table::Hypervisor, key).origin.clone();
            let text = format!(
                "`{key}` does not count as `block_device_cache_set` ({}) is false; set that to true",
                set.origin
            );
            Err(Problem { place, text })
        }
    }
}

fn block_aio(config: &Config, settings: &Settings) -> Result<(), Problem> {
    let disks = &config.hypervisor.block_devices;
    if disks.aio != BlockAio::Native || disks.cache_direct {
        return Ok(());
    }
    let place = settings.named(Table::Hypervisor, "block_device_aio").origin.clone();
    let text = "`block_device_aio` is \"native\", which does not work with the host's page cache; set \
                `block_device_cache_set` and `block_device_cache_direct` to true, or take \"io_uring\" or \"threads\"";
    Err(Problem { place, text: text.to_owned() })
}

fn sectors(config: &Config, settings: &Settings) -> Result<(), Problem> {
    let Some(SectorSize { logical, physical }) = config.hypervisor.block_devices.sector_size else {
        return Ok(());
    };
    if logical <= physical {
        return Ok(());
    }
    let place = settings.named(Table::Hypervisor, "block_device_physical_sector_size").origin.clone();
    let other = &settings.named(Table::Hypervisor, "block_device_logical_sector_size").origin;
    let text = format!(
        "`block_device_physical_sector_size` is {physical}, less than `block_device_logical_sector_size` ({logical}, \
         {other}); make it at least that, or 0"
    );
    Err(Problem { place, text })
}

/// A kernel has one of the two at a time, and a label is nothing without the module that reads it.
fn security_modules(config: &Config, settings: &Settings) -> Result<(), Problem> {
    let selinux = !config.hypervisor.disable_guest_selinux;
    if selinux && !config.runtime.disable_guest_apparmor {
        let place = settings.named(Table::Runtime, "disable_guest_apparmor").origin.clone();
        let other = &settings.named(Table::Hypervisor, "disable_guest_selinux").origin;
        let text = format!(
            "`disable_guest_apparmor` and `disable_guest_selinux` ({other}) are both false; \
             a guest has one of the two modules: set one to true"
        );
        return Err(Problem { place, text });
    }
    if !selinux && !config.runtime.guest_selinux_label.is_empty() {
        let place = settings.named(Table::Runtime, "guest_selinux_label").origin.clone();
        let text = "`guest_selinux_label` names a label for a guest without SELinux; \
                    set `disable_guest_selinux` to false, or leave it empty";
        return Err(Problem { place, text: text.to_owned() });
    }
    Ok(())
}

fn default_memory(config: &mut Config) {
    if config.hypervisor.default_memory_mib == 0 {
        config.hypervisor.default_memory_mib = DEFAULT_MEMORY_MIB;
        note(config, "hypervisor.qemu.default_memory", Value::Int(DEFAULT_MEMORY_MIB.into()), "0 means 2048");
    }
}

/// A host may have less than the default: a VM takes its memory as it touches it.
fn most_memory(config: &mut Config, settings: &Settings, host_mib: u32) -> Result<(), Problem> {
    let (boot, limit) = (config.hypervisor.default_memory_mib, config.hypervisor.default_maxmemory_mib);
    if limit == 0 {
        let most = boot.max(host_mib);
        config.hypervisor.default_maxmemory_mib = most;
        note(
            config,
            "hypervisor.qemu.default_maxmemory",
            Value::Int(most.into()),
            "0 means the memory of the host",
        );
        return Ok(());
    }
    if boot <= limit {
        return Ok(());
    }
    let place = settings.named(Table::Hypervisor, "default_memory").origin.clone();
    let other = &settings.named(Table::Hypervisor, "default_maxmemory").origin;
    let text = format!(
        "`default_memory` asks for {boot} MiB, more than `default_maxmemory` ({limit}, {other}); lower it or raise the limit"
    );
    Err(Problem { place, text })
}

/// Memory comes in whole pages of the host.
fn whole_pages(config: &mut Config) {
    let (unit, most) = (config.hypervisor.memory.unit_mib(), config.hypervisor.default_maxmemory_mib);
    let whole = (most / unit * unit).max(unit);
    if whole != most {
        config.hypervisor.default_maxmemory_mib = whole;
        let how = format!("a whole number of huge pages of {unit} MiB");
        note(config, "hypervisor.qemu.default_maxmemory", Value::Int(whole.into()), &how);
    }
}

fn log_levels(config: &mut Config) {
    if config.runtime.enable_debug && config.runtime.log_level < LogLevel::Debug {
        config.runtime.log_level = LogLevel::Debug;
        note(
            config,
            "runtime.log_level",
            Value::Text("debug".to_owned()),
            "enable_debug = true in [runtime]",
        );
    }
    if config.agent.enable_debug && config.agent.log_level < LogLevel::Debug {
        config.agent.log_level = LogLevel::Debug;
        note(
            config,
            "agent.kata.log_level",
            Value::Text("debug".to_owned()),
            "enable_debug = true in [agent.kata]",
        );
    }
}

fn vcpus(config: &mut Config, settings: &Settings, host_cpus: u32) -> Result<(), Problem> {
    let asked = settings.named(Table::Hypervisor, "default_vcpus");
    let most = settings.named(Table::Hypervisor, "default_maxvcpus");
    let boot = boot_vcpus(asked.value.number(), host_cpus);
    let limit = most.value.unsigned();
    let by_annotation = matches!(asked.origin, Origin::Annotation { .. });
    if limit != 0 && boot > limit {
        return Err(too_many(asked, boot, &format!("`default_maxvcpus` ({limit}, {})", most.origin)));
    }
    if limit == 0 && by_annotation && boot > host_cpus {
        return Err(too_many(asked, boot, &format!("the host's CPUs ({host_cpus})")));
    }
    config.hypervisor.default_vcpus = boot;
    config.hypervisor.default_millicpus =
        if asked.value.number() > 0.0 { millicpus(asked.value.number()) } else { boot.saturating_mul(1000) };
    config.hypervisor.is_maxvcpus_named = limit != 0;
    config.hypervisor.default_maxvcpus = if limit == 0 { boot.max(host_cpus) } else { limit };
    if asked.value != Value::Int(boot.into()) {
        let how = format!("{} ({}) on a host with {host_cpus} CPUs", asked.value, asked.origin);
        note(config, "hypervisor.qemu.default_vcpus", Value::Int(boot.into()), &how);
    }
    if limit == 0 {
        let value = Value::Int(config.hypervisor.default_maxvcpus.into());
        note(config, "hypervisor.qemu.default_maxvcpus", value, "0 means the CPUs of the host");
    }
    Ok(())
}

/// Fractions are rounded up, 0 is 1, a negative number is all of the host's.
fn boot_vcpus(asked: f64, host_cpus: u32) -> u32 {
    if asked < 0.0 {
        return host_cpus;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the row's bounds are -1 and 1024, negative ones were handled"
    )]
    let whole = asked.ceil() as u32;
    whole.max(1)
}

/// Thousandths, rounded up.
#[must_use]
pub(crate) fn millicpus(cpus: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the rows' upper bound is 1024, negative ones are 0"
    )]
    let thousandths = (cpus.max(0.0) * 1000.0 - 1e-6).ceil() as u32;
    thousandths
}

fn too_many(asked: &Setting, boot: u32, limit: &str) -> Problem {
    let text =
        format!("`default_vcpus` asks for {boot} vCPUs, more than {limit}; lower it or raise the limit");
    Problem { place: asked.origin.clone(), text }
}

/// Replaces a setting by its derived value; the earlier origin is part of the explanation.
fn note(config: &mut Config, key: &str, value: Value, how: &str) {
    let from = match config.sources.get(key).map(|setting| &setting.origin) {
        None | Some(Origin::Default) => how.to_owned(),
        Some(earlier) if how.contains(&earlier.to_string()) => how.to_owned(),
        Some(earlier) => format!("{how} ({earlier})"),
    };
    config.sources.0.insert(key.to_owned(), Setting { value, origin: Origin::Derived { from } });
}
