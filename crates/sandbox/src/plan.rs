//! From the configuration to the plan of the VM.

use std::path::PathBuf;

use kata_cgroup::Cgroup;
use kata_config::{Config, Hypervisor, LogLevel, SharedFs};
use kata_protocol::agent::Storage;
use kata_protocol::guest;
use kata_vmm::accelerator::{Choice, KvmUnusable, Preference};
use kata_vmm::{Accelerator, AgentChannel, Disk, NetworkNamespace, Nic, Share, VmPlan, accelerator};

use crate::SandboxId;
use crate::labels::Labels;

/// What the plan needs that is not in the configuration.
pub(crate) struct Parts {
    pub(crate) accelerator: Accelerator,
    pub(crate) agent: AgentChannel,
    pub(crate) doorbell_port: Option<u32>,
    pub(crate) shares: Vec<Share>,
    pub(crate) cgroup: Cgroup,
    pub(crate) nics: Vec<Nic>,
    pub(crate) hotplug_ports: u8,
    pub(crate) disks: Vec<Disk>,
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
    kernel_params.extend(vm.kernel_params.to_words());
    Ok(VmPlan {
        cgroup: parts.cgroup,
        id: id.to_string(),
        binary: vm.path.clone(),
        machine_type: vm.machine_type.clone(),
        accelerator: parts.accelerator,
        cpu_features: vm.cpu_features.clone(),
        vcpus: vm.default_vcpus,
        // CPUs are not hot-plugged yet; a guest that knows it boots faster.
        max_vcpus: vm.default_vcpus,
        memory_mib: vm.default_memory_mib,
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

/// The agent's options; those of the configuration come later and win.
fn agent_params(config: &Config, doorbell_port: Option<u32>) -> Vec<String> {
    let mut params = Vec::new();
    if config.agent.log_level != LogLevel::default() {
        params.push(format!("agent.log={}", config.agent.log_level.as_str()));
    }
    params.extend(doorbell_port.map(|port| format!("agent.doorbell_port={port}")));
    params
}

#[cfg(test)]
mod tests {
    use kata_config::{Config, LogLevel, SharedFs};
    use kata_vmm::{Accelerator, AgentChannel, NetworkNamespace};

    use super::{Parts, shared_directory, vm_plan};

    fn parts(doorbell_port: Option<u32>) -> Parts {
        Parts {
            accelerator: Accelerator::Tcg,
            agent: AgentChannel::Serial,
            doorbell_port,
            shares: Vec::new(),
            cgroup: kata_cgroup::Cgroup::none(),
            nics: Vec::new(),
            hotplug_ports: 0,
            disks: Vec::new(),
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
