//! From the configuration to the plan of the VM.

use std::path::PathBuf;

use kata_cgroup::Cgroup;
use kata_config::{Config, GuestMemory, HugePages, Hypervisor, LogLevel, SharedFs};
use kata_protocol::agent::Storage;
use kata_protocol::{guest, ports};
use kata_vmm::accelerator::{Choice, KvmUnusable, Preference};
use kata_vmm::{
    Accelerator, AgentChannel, Disk, MemoryBacking, MemoryHotplug, MemoryPages, NetworkNamespace, Nic, Numa,
    Share, VmPlan, accelerator,
};

use crate::SandboxId;
use crate::labels::Labels;
use crate::sizing::Size;

/// What the plan needs that is not in the configuration.
pub(crate) struct Parts {
    /// At its start.
    pub(crate) size: Size,
    /// It may grow to this.
    pub(crate) most: Size,
    pub(crate) accelerator: Accelerator,
    pub(crate) agent: AgentChannel,
    pub(crate) doorbell_port: Option<u32>,
    pub(crate) shares: Vec<Share>,
    /// How many files of them virtiofsd may have open for the guest.
    pub(crate) shared_files: Option<u64>,
    pub(crate) cgroup: Cgroup,
    pub(crate) nics: Vec<Nic>,
    pub(crate) hotplug_ports: u8,
    pub(crate) disks: Vec<Disk>,
    pub(crate) numa: Numa,
    pub(crate) netns: NetworkNamespace,
    pub(crate) console_log: PathBuf,
}

/// The configuration lacks something that a VM cannot do without.
#[derive(Debug, thiserror::Error)]
#[error("The configuration {} names no `initrd`: set it to the guest image of this release", path.display())]
pub(crate) struct NoInitrd {
    path: PathBuf,
}

/// The accelerator that the configuration asks for, as far as this host has it.
pub(crate) fn choose_accelerator(config: &Config) -> Result<Choice, KvmUnusable> {
    let preference = match config.hypervisor.accelerator {
        kata_config::Accelerator::Auto => Preference::Auto,
        kata_config::Accelerator::Kvm => Preference::Kvm,
        kata_config::Accelerator::Tcg => Preference::Tcg,
    };
    accelerator::choose(preference, &accelerator::Host::default())
}

/// Everything known before boot.
pub(crate) fn vm_plan(id: &SandboxId, config: &Config, parts: Parts) -> Result<VmPlan, NoInitrd> {
    let vm = &config.hypervisor;
    let initrd = vm.initrd.clone().ok_or_else(|| NoInitrd { path: config.path.clone() })?;
    let mut kernel_params = security_params(config);
    kernel_params.extend(agent_params(config, parts.doorbell_port));
    kernel_params.extend(parts.shared_files.map(share_param));
    kernel_params.extend(vm.kernel_params.to_words());
    Ok(VmPlan {
        cgroup: parts.cgroup,
        id: id.to_string(),
        binary: vm.path.clone(),
        machine_type: vm.machine_type.clone(),
        accelerator: parts.accelerator,
        cpu_features: vm.cpu_features.clone(),
        vcpus: parts.size.vcpus,
        max_vcpus: most_vcpus(vm, parts.accelerator, (parts.size, parts.most)),
        memory_mib: parts.size.memory_mib,
        max_memory_mib: parts.most.memory_mib.max(parts.size.memory_mib),
        memory_hotplug: memory_hotplug(vm),
        memory_backing: memory_backing(&vm.memory),
        numa: parts.numa,
        free_page_reporting: vm.reclaim_guest_freed_memory,
        kernel: vm.kernel.clone(),
        initrd,
        kernel_params,
        firmware: vm.firmware.clone(),
        shares: parts.shares,
        agent: parts.agent,
        console_log: parts.console_log,
        seccomp: !vm.disable_seccomp,
        nics: parts.nics,
        disks: parts.disks,
        scsi_controller: vm.block_devices.driver == kata_config::BlockDriver::VirtioScsi,
        hotplug_ports: parts.hotplug_ports,
        netns: parts.netns,
        debug: vm.enable_debug,
        entropy_source: vm.entropy_source.clone(),
    })
}

/// The most CPUs that the VM may ever have. An emulated guest that may have a second one takes 0.1 s longer to boot, with a
/// timer that each CPU has: only where somebody has said how many.
pub(crate) fn most_vcpus(vm: &Hypervisor, accelerator: Accelerator, (boot, most): (Size, Size)) -> u32 {
    match accelerator {
        Accelerator::Tcg if !vm.is_maxvcpus_named => boot.vcpus,
        Accelerator::Kvm | Accelerator::Tcg => most.vcpus.max(boot.vcpus),
    }
}

/// The most threads that take memory from the host; more are no faster.
const PREALLOC_THREADS: usize = 16;

/// What its memory is made of.
fn memory_backing(memory: &GuestMemory) -> MemoryBacking {
    let pages = match memory.huge_pages() {
        None => MemoryPages::Usual,
        Some(HugePages::Transparent) => MemoryPages::Transparent,
        Some(HugePages::Pool { mib }) => MemoryPages::Huge { kib: u64::from(mib) << 10 },
    };
    let threads = || std::thread::available_parallelism().map_or(1, usize::from).min(PREALLOC_THREADS);
    // The kernel promises pages of its pool as a whole, not those of a node: they are taken while that can be told.
    let is_prealloc = memory.prealloc || (memory.numa.is_on && matches!(pages, MemoryPages::Huge { .. }));
    let prealloc_threads = if is_prealloc { u32::try_from(threads()).unwrap_or(1) } else { 0 };
    MemoryBacking { pages, prealloc_threads, dir: memory.dir.clone(), is_mergeable: memory.is_mergeable }
}

/// How more memory comes to it.
pub(crate) fn memory_hotplug(vm: &Hypervisor) -> MemoryHotplug {
    match vm.enable_virtio_mem {
        true => MemoryHotplug::VirtioMem,
        false => MemoryHotplug::Dimm { slots: vm.memory_slots },
    }
}

/// How the guest mounts the shared directory.
pub(crate) fn shared_directory(vm: &Hypervisor) -> Storage {
    let mount_point = match vm.shared_fs {
        SharedFs::VirtioFsNydus => guest::SHARE_ROOT,
        SharedFs::VirtioFs | SharedFs::Virtio9p => guest::SHARED_DIR,
    };
    let (driver, fstype, options) = match vm.shared_fs {
        SharedFs::VirtioFs | SharedFs::VirtioFsNydus => ("virtio-fs", "virtiofs", None),
        // Names are always looked up, and what is read or written goes past the guest's page cache, which would hide the
        // host's changes of a file as long as it is open. Only mapped pages are cached: without, none could be mapped for
        // shared writing.
        SharedFs::Virtio9p => {
            let options = format!("trans=virtio,version=9p2000.L,cache=mmap,directio,msize={}", vm.msize_9p);
            ("9p", "9p", Some(options))
        }
    };
    Storage {
        driver: driver.to_owned(),
        source: guest::SHARE_TAG.to_owned(),
        fstype: fstype.to_owned(),
        options: options.into_iter().collect(),
        mount_point: mount_point.to_owned(),
        ..Default::default()
    }
}

/// What the labels need, unless the configuration has a parameter of that name.
fn security_params(config: &Config) -> Vec<String> {
    let (name, value) = Labels::of(config).kernel_param();
    let own = config.hypervisor.kernel_params.iter().any(|param| param.name == name);
    if own { Vec::new() } else { vec![format!("{name}={value}")] }
}

/// The guest's kernel forgets files that nobody uses before virtiofsd, which holds a descriptor for each that it remembers,
/// has none left. A quarter is for those in use (`guest/kernel/max-unused`).
fn share_param(files: u64) -> String {
    format!("fuse.max_unused={}", files - files / 4)
}

/// The agent's options; those of the configuration come later and win.
fn agent_params(config: &Config, doorbell_port: Option<u32>) -> Vec<String> {
    let mut params = Vec::new();
    if config.agent.log_level != LogLevel::default() {
        params.push(format!("agent.log={}", config.agent.log_level.as_str()));
    }
    if config.agent.debug_console {
        params.push("agent.debug_console".to_owned());
        params.push(format!("agent.debug_console_vport={}", ports::DEBUG_CONSOLE));
    }
    if config.agent.enable_tracing {
        params.push("agent.trace=true".to_owned());
        if config.runtime.tracing.is_on {
            params.push(format!("agent.trace_port={}", ports::TRACE));
        }
    }
    params.extend(doorbell_port.map(|port| format!("agent.doorbell_port={port}")));
    params
}

#[cfg(test)]
mod tests {
    use kata_config::{Config, LogLevel, SharedFs};
    use kata_vmm::{Accelerator, AgentChannel, MemoryBacking, MemoryPages, NetworkNamespace};

    use super::{Parts, shared_directory, vm_plan};
    use crate::sizing::Size;

    fn parts(doorbell_port: Option<u32>) -> Parts {
        Parts {
            size: Size { vcpus: 2, memory_mib: 300 },
            most: Size { vcpus: 4, memory_mib: 900 },
            accelerator: Accelerator::Tcg,
            agent: AgentChannel::Serial,
            doorbell_port,
            shares: Vec::new(),
            shared_files: None,
            cgroup: kata_cgroup::Cgroup::none(),
            nics: Vec::new(),
            hotplug_ports: 0,
            disks: Vec::new(),
            numa: kata_vmm::Numa::default(),
            netns: NetworkNamespace::Callers,
            console_log: "/run/kata/s/console.log".into(),
        }
    }

    fn config() -> Config {
        let mut config = Config::built_in(4);
        config.hypervisor.initrd = Some("/initrd".into());
        config
    }

    #[test]
    fn the_agents_options_are_on_the_command_line_and_the_users_come_last() {
        let mut config = config();
        config.agent.log_level = LogLevel::Debug;
        config.hypervisor.kernel_params = kata_config::KernelParams::parse("agent.log=trace quiet").unwrap();
        let plan = vm_plan(&"s".parse().unwrap(), &config, parts(Some(7))).unwrap();
        assert_eq!(
            plan.kernel_params,
            ["audit=0", "agent.log=debug", "agent.doorbell_port=7", "agent.log=trace", "quiet"]
        );
        assert_eq!((plan.id.as_str(), plan.seccomp), ("s", !config.hypervisor.disable_seccomp));
    }

    #[test]
    fn the_guest_keeps_a_quarter_of_virtiofsds_files_for_those_in_use() {
        let parts = Parts { shared_files: Some(20_000), ..parts(None) };
        let plan = vm_plan(&"s".parse().unwrap(), &config(), parts).unwrap();
        assert_eq!(plan.kernel_params.last().unwrap(), "fuse.max_unused=15000");
    }

    #[test]
    fn the_vm_is_as_large_as_was_planned_whatever_the_default() {
        let mut config = config();
        config.hypervisor.default_memory_mib = 4096;
        let plan = vm_plan(&"s".parse().unwrap(), &config, parts(None)).unwrap();
        assert_eq!((plan.vcpus, plan.max_vcpus, plan.memory_mib), (2, 2, 300));
    }

    #[test]
    fn memory_is_made_of_what_the_configuration_says() {
        let mut config = config();
        let backing =
            |config: &Config| vm_plan(&"s".parse().unwrap(), config, parts(None)).unwrap().memory_backing;
        assert_eq!(backing(&config), MemoryBacking::default());
        config.hypervisor.memory.has_huge_pages = true;
        assert_eq!(backing(&config).pages, MemoryPages::Huge { kib: 2048 });
        config.hypervisor.memory.numa.is_on = true;
        assert!(backing(&config).prealloc_threads > 0, "pages of a node are not promised");
        config.hypervisor.memory.are_transparent = true;
        assert_eq!(backing(&config).prealloc_threads, 0);
        config.hypervisor.memory.prealloc = true;
        let backing = backing(&config);
        assert_eq!(backing.pages, MemoryPages::Transparent);
        assert!(backing.prealloc_threads > 0);
    }

    #[test]
    fn the_debug_console_is_asked_for_in_upstreams_words() {
        let mut config = config();
        config.agent.debug_console = true;
        let plan = vm_plan(&"s".parse().unwrap(), &config, parts(None)).unwrap();
        assert_eq!(plan.kernel_params, ["audit=0", "agent.debug_console", "agent.debug_console_vport=1026"]);
    }

    #[test]
    fn the_agent_traces_for_whoever_takes_its_spans() {
        let mut config = config();
        config.agent.enable_tracing = true;
        let words =
            |config: &Config| vm_plan(&"s".parse().unwrap(), config, parts(None)).unwrap().kernel_params;
        assert_eq!(words(&config), ["audit=0", "agent.trace=true"]);
        config.runtime.tracing.is_on = true;
        assert_eq!(words(&config), ["audit=0", "agent.trace=true", "agent.trace_port=1031"]);
        config.agent.enable_tracing = false;
        assert_eq!(words(&config), ["audit=0"]);
    }

    #[test]
    fn a_parameter_of_the_configuration_replaces_the_one_for_labels() {
        let mut config = config();
        config.hypervisor.kernel_params = kata_config::KernelParams::parse("audit=1").unwrap();
        let plan = vm_plan(&"s".parse().unwrap(), &config, parts(None)).unwrap();
        assert_eq!(plan.kernel_params, ["audit=1"]);
    }

    #[test]
    fn the_guest_mounts_what_the_configuration_shares_files_by() {
        let mut vm = config().hypervisor;
        let share = shared_directory(&vm);
        assert_eq!((share.driver.as_str(), share.fstype.as_str()), ("virtio-fs", "virtiofs"));
        assert!(share.options.is_empty());
        vm.shared_fs = SharedFs::Virtio9p;
        vm.msize_9p = 8192;
        let share = shared_directory(&vm);
        assert_eq!((share.driver.as_str(), share.fstype.as_str()), ("9p", "9p"));
        assert_eq!(
            (share.source.as_str(), share.mount_point.as_str()),
            ("kataShared", "/run/kata-containers/shared/containers/")
        );
        assert_eq!(share.options, ["trans=virtio,version=9p2000.L,cache=mmap,directio,msize=8192"]);
    }

    #[test]
    fn a_missing_initrd_names_the_configuration() {
        let mut config = config();
        config.hypervisor.initrd = None;
        let error = vm_plan(&"s".parse().unwrap(), &config, parts(None)).unwrap_err();
        assert!(error.to_string().contains("initrd"), "{error}");
    }
}
