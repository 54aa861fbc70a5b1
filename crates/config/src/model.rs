//! The typed configuration: what the rest of the program sees.

use std::path::PathBuf;
use std::time::Duration;

use kata_trace::{Credentials, Endpoint};

use crate::block_devices::BlockDevices;
use crate::kernel_params::KernelParams;
use crate::memory::GuestMemory;
use crate::origin::Sources;
use crate::size_limits::SizeLimits;

/// The whole effective configuration of one sandbox.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Table `[hypervisor.qemu]`.
    pub hypervisor: Hypervisor,
    /// Table `[agent.kata]`.
    pub agent: Agent,
    /// Table `[runtime]`.
    pub runtime: Runtime,
    /// Every key with its effective value and where that came from.
    pub sources: Sources,
    /// The base file that was read.
    pub path: PathBuf,
}

impl Config {
    /// Whether the agent gives shells to the host: by its own key, or by `agent.debug_console` among the kernel parameters,
    /// which upstream's documents name.
    #[must_use]
    pub fn has_debug_console(&self) -> bool {
        let mut words =
            self.hypervisor.kernel_params.iter().filter(|word| word.name == "agent.debug_console");
        let word = words.next_back().map(|word| word.value.as_deref());
        word.map_or(self.agent.debug_console, |value| !matches!(value, Some("0" | "false")))
    }
}

/// What the virtual machine is made of.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Hypervisor {
    /// The QEMU binary.
    pub path: PathBuf,
    /// Host paths (globs) that the annotation `path` may name.
    pub valid_hypervisor_paths: Vec<String>,
    /// The guest kernel.
    pub kernel: PathBuf,
    /// The guest's initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The guest's root file system image. Always `None` so far: a value is refused when the file is read.
    pub image: Option<PathBuf>,
    /// Extra kernel parameters; each wins over a default of the same name.
    pub kernel_params: KernelParams,
    /// Firmware file; `None` means QEMU's own.
    pub firmware: Option<PathBuf>,
    /// QEMU machine type, as given to `-machine`.
    pub machine_type: String,
    /// Which accelerator to use.
    pub accelerator: Accelerator,
    /// Extra CPU features, appended to the CPU model (`pmu=off,vmx=off`); may be empty.
    pub cpu_features: String,
    /// vCPUs at boot, at least 1.
    pub default_vcpus: u32,
    /// The same before it was rounded up, in thousandths.
    pub default_millicpus: u32,
    /// Thousandths of a vCPU beyond what limits sum up to.
    pub overhead_millicpus: u32,
    /// The most vCPUs the VM may ever have, at least `default_vcpus`.
    pub default_maxvcpus: u32,
    /// Whether somebody has said how many that are: else it is as many as the host has.
    pub is_maxvcpus_named: bool,
    /// Memory at boot in MiB.
    pub default_memory_mib: u32,
    /// MiB of memory beyond what limits sum up to: what the guest's kernel and agent need.
    pub overhead_memory_mib: u32,
    /// The most memory the VM may ever have in MiB, at least `default_memory_mib`.
    pub default_maxmemory_mib: u32,
    /// The host takes back memory that the guest has freed.
    pub reclaim_guest_freed_memory: bool,
    /// More memory comes by virtio-mem, else by memory modules.
    pub enable_virtio_mem: bool,
    /// How many memory modules there can be.
    pub memory_slots: u8,
    /// What memory is made of, and swap.
    pub memory: GuestMemory,
    /// How files are shared with the guest.
    pub shared_fs: SharedFs,
    /// The virtiofsd binary, or the nydusd binary.
    pub virtio_fs_daemon: PathBuf,
    /// Host paths (globs) that the annotation `virtio_fs_daemon` may name.
    pub valid_virtio_fs_daemon_paths: Vec<String>,
    /// virtiofsd's cache policy: `auto`, `always`, `metadata` or `never`.
    pub virtio_fs_cache: String,
    /// Entries of each virtio-fs queue, a power of two.
    pub virtio_fs_queue_size: u32,
    /// Extra arguments for that.
    pub virtio_fs_extra_args: Vec<String>,
    /// The longest message of 9p in bytes, data included.
    pub msize_9p: u32,
    /// A folder in the guest with hooks for every container; empty for none.
    pub guest_hook_path: String,
    /// Where the guest's random numbers come from on the host.
    pub entropy_source: PathBuf,
    /// Pairs of queues of each network card, at least 1.
    pub network_queues: u16,
    /// The VMM moves packets even where the host has vhost-net.
    pub disable_vhost_net: bool,
    /// Bits per second that each network card receives at most; 0 for no limit.
    pub rx_rate_limiter_max_rate: u64,
    /// Bits per second that each network card sends at most; 0 for no limit.
    pub tx_rate_limiter_max_rate: u64,
    /// How block devices of the host become disks.
    pub block_devices: BlockDevices,
    /// Host paths (globs) that the annotation `entropy_source` may name.
    pub valid_entropy_sources: Vec<String>,
    /// Hypervisor annotations that a pod may use.
    pub enable_annotations: Vec<String>,
    /// Debug output of the VMM and the guest kernel.
    pub enable_debug: bool,
    /// Switch off the seccomp filters of the VMM and of virtiofsd.
    pub disable_seccomp: bool,
    /// Leave SELinux off in the guest, and drop the SELinux labels of containers.
    pub disable_guest_selinux: bool,
}

/// How the host talks to the agent, and how the agent behaves.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Agent {
    /// Debug output of the agent.
    pub enable_debug: bool,
    /// The agent's log level; `Debug` or lower if `enable_debug`.
    pub log_level: LogLevel,
    /// Shells in the guest for the host; see [`Config::has_debug_console`].
    pub debug_console: bool,
    /// Spans of the agent.
    pub enable_tracing: bool,
    /// The longest time from starting the VM until its agent must have announced itself.
    pub dial_timeout: Duration,
    /// Deadline of an ordinary request to the agent.
    pub request_timeout: Duration,
    /// Deadline of the request that makes a container.
    pub create_container_timeout: Duration,
}

/// The host side of the runtime itself.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Runtime {
    /// Debug output of the shim.
    pub enable_debug: bool,
    /// The shim's log level; `Debug` or lower if `enable_debug`.
    pub log_level: LogLevel,
    /// The form of the shim's log lines.
    pub log_format: LogFormat,
    /// The VM has one size for all its life.
    pub static_sandbox_resource_mgmt: bool,
    /// All of the sandbox is in its pod's cgroup on the host, not only the VM's CPUs.
    pub sandbox_cgroup_only: bool,
    /// Virtual CPUs have CPUs of the host of their own while the pod's cpuset has as many.
    pub enable_vcpus_pinning: bool,
    /// How the VM's size follows from the pod's limits.
    pub sandbox_sizing: SandboxSizing,
    /// Spans, and where they go.
    pub tracing: Tracing,
    /// How the pod's interfaces are connected with the VM.
    pub internetworking_model: NetworkModel,
    /// Allowed by `experimental`: a pod in the host's network namespace, with user-mode networking.
    pub host_network: bool,
    /// Allowed by `experimental`: a VM takes over the interfaces of a namespace that other processes use.
    pub shared_network_namespace: bool,
    /// The guest pulls every image, whatever the snapshotter has.
    pub force_guest_pull: bool,
    /// Drop the seccomp profiles of containers.
    pub disable_guest_seccomp: bool,
    /// Leave AppArmor off in the guest, and drop the AppArmor profiles of containers.
    pub disable_guest_apparmor: bool,
    /// The SELinux label of every process of a container, in place of its own; may be empty.
    pub guest_selinux_label: String,
    /// Files and directories of the host's for the guest itself. No two have the same last name.
    pub sandbox_bind_mounts: Vec<SandboxBindMount>,
    /// Where the files of an `emptyDir` without a limit are.
    pub emptydir_mode: EmptyDirMode,
    /// What the `emptyDir` volumes of these names can hold; one with a limit is in an image.
    pub emptydir_size_limit: SizeLimits,
    /// What the containers of these names can write to their roots.
    pub writable_layer_size_limit: SizeLimits,
    /// The host's directory for the images of what is written with such a limit.
    pub writable_layer_dir: PathBuf,
}

/// Spans of a sandbox, and where they go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tracing {
    /// There are any.
    pub is_on: bool,
    /// The collector; `None`: nobody has said.
    pub endpoint: Option<Endpoint>,
    /// What the collector wants to know; empty if it wants nothing.
    pub credentials: Credentials,
}

/// A file or directory of the host's for the guest itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxBindMount {
    /// An absolute path with a last name.
    pub path: PathBuf,
    /// Whether the guest can only read it.
    pub read_only: bool,
}

/// The accelerator that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accelerator {
    /// KVM if it works here, else TCG.
    #[default]
    Auto,
    /// KVM or an error.
    Kvm,
    /// Emulation, even if KVM would work.
    Tcg,
}

/// How the size of a VM follows from the limits of its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SandboxSizing {
    /// What the pod may use, and what the guest needs besides; without limits the default.
    #[default]
    Limits,
    /// The default and the limits: upstream's arithmetic.
    DefaultPlusLimits,
}

/// How an interface of the pod and the VM's network card are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NetworkModel {
    /// A TAP device, and traffic filters between it and the interface.
    #[default]
    TcFilter,
    /// A macvtap device on the interface.
    MacVtap,
    /// Not at all.
    None,
}

/// Where the files of an `emptyDir` are that is not memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EmptyDirMode {
    /// In the directory of the host, which is shared.
    #[default]
    SharedFs,
    /// In an image in that directory, which is a disk of the VM.
    BlockPlain,
}

/// How a sandbox's files reach the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SharedFs {
    /// virtio-fs with a virtiofsd process for each VM.
    #[default]
    VirtioFs,
    /// virtio-9p, answered by the VMM itself.
    Virtio9p,
    /// virtio-fs with a nydusd process for each VM, which also has images that are loaded as they are read.
    VirtioFsNydus,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// `key=value` pairs, quoted where they must be.
    #[default]
    Logfmt,
    /// One JSON object a line.
    Json,
}

/// How much is logged, from the least to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum LogLevel {
    /// Only what makes the program stop.
    Critical,
    /// What failed.
    Error,
    /// What may become a failure.
    Warn,
    /// The milestones.
    #[default]
    Info,
    /// What a developer wants to know.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The spelling of the configuration file and of the agent's `agent.log=` parameter.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl Accelerator {
    /// The spelling of the configuration file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

impl SharedFs {
    /// The spelling of the configuration file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::VirtioFs => "virtio-fs",
            Self::Virtio9p => "virtio-9p",
            Self::VirtioFsNydus => "virtio-fs-nydus",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Config, KernelParams};

    #[test]
    fn a_debug_console_is_asked_for_by_its_key_or_by_a_kernel_parameter() {
        let asked = |key: bool, params: &str| {
            let mut config = Config::built_in(4);
            config.agent.debug_console = key;
            config.hypervisor.kernel_params = KernelParams::parse(params).unwrap();
            config.has_debug_console()
        };
        assert!(!asked(false, "agent.debug_console_vport=1026") && asked(true, ""));
        assert!(asked(false, "agent.debug_console agent.debug_console_vport=1026"));
        assert!(
            !asked(true, "agent.debug_console agent.debug_console=0"),
            "the last one wins, as in the agent"
        );
    }
}
