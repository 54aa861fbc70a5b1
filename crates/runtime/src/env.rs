//! `kata-runtime env`: runtime, hypervisor, guest and host, in upstream's `kata-env` format 1.0.27.
//!
//! Keys of features that do not exist here have the value that says so.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use kata_config::Config;
use serde::Serialize;
use serde_json::Value;

use crate::global::Global;
use crate::host::{Host, architecture};
use crate::{check, output, programs, version};

/// The version of the format, upstream's.
const FORMAT: &str = "1.0.27";

/// What stands for a version that cannot be found out, as upstream writes it.
const UNKNOWN: &str = "<<unknown>>";

/// Arguments of `env`.
#[derive(Debug, Args)]
pub(crate) struct EnvArgs {
    /// Print JSON instead of TOML
    #[arg(long)]
    json: bool,

    /// Write to this file, which is replaced
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,

    /// The keys of upstream's `kata-ctl env`
    #[arg(long, hide = true)]
    kata_ctl: bool,
}

/// Runs the subcommand.
pub(crate) fn run(args: &EnvArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    let environment = Environment::of(&config, &Host::this());
    let text = match (args.kata_ctl, args.json) {
        (false, true) => serde_json::to_string_pretty(&environment)?,
        (false, false) => toml::to_string(&environment)?,
        (true, true) => serde_json::to_string_pretty(&as_kata_ctl(&environment)?)?,
        (true, false) => toml::to_string(&as_kata_ctl(&environment)?)?,
    };
    match &args.file {
        None => output::lines([text.trim_end()])?,
        Some(path) => std::fs::write(path, format!("{}\n", text.trim_end()))
            .with_context(|| format!("Cannot write {}; name another file", path.display()))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What `env --json` prints.
pub(crate) fn json(global: &Global) -> anyhow::Result<Value> {
    Ok(serde_json::to_value(Environment::of(&global.load_config()?, &Host::this()))?)
}

/// The same facts under the keys of `kata-ctl`, which are those of `kata-runtime` in small letters.
fn as_kata_ctl(environment: &Environment) -> anyhow::Result<Value> {
    let mut value = in_small_letters(serde_json::to_value(environment)?);
    value["meta"]["version"] = "0.0.1-kata-ctl".into();
    if let Some(host) = value["host"].as_object_mut()
        && let Some(protections) = host.remove("available_guest_protections")
    {
        host.insert("available_guest_protection".to_owned(), protections[0].clone());
    }
    Ok(value)
}

fn in_small_letters(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields.into_iter().map(|(name, value)| (snake(&name), in_small_letters(value))).collect(),
        ),
        other => other,
    }
}

/// `PCIeRootPort` → `pcie_root_port`: a word begins with a capital behind a small letter, or before one.
fn snake(name: &str) -> String {
    let name = name.replace("PCIe", "Pcie").replace("VSocks", "Vsocks").replace("SeLinux", "Selinux");
    let letters: Vec<char> = name.replace("Msize9p", "Msize_9p").chars().collect();
    let mut out = String::new();
    for (at, letter) in letters.iter().enumerate() {
        let small = |at: usize| letters.get(at).is_some_and(char::is_ascii_lowercase);
        if letter.is_ascii_uppercase() && at > 0 && letters[at - 1] != '_' && (small(at - 1) || small(at + 1))
        {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Environment {
    meta: Meta,
    image: File,
    initrd: File,
    agent: Agent,
    hypervisor: Hypervisor,
    kernel: Kernel,
    host: HostFacts,
    runtime: Runtime,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Meta {
    version: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct File {
    path: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Kernel {
    path: String,
    parameters: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Agent {
    debug: bool,
    trace: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Hypervisor {
    machine_type: String,
    version: String,
    path: String,
    block_device_driver: &'static str,
    entropy_source: String,
    #[serde(rename = "SharedFS")]
    shared_fs: &'static str,
    #[serde(rename = "VirtioFSDaemon")]
    virtio_fs_daemon: String,
    socket_path: &'static str,
    #[serde(rename = "Msize9p")]
    msize_9p: u32,
    memory_slots: u32,
    #[serde(rename = "HotPlugVFIO")]
    hot_plug_vfio: &'static str,
    #[serde(rename = "ColdPlugVFIO")]
    cold_plug_vfio: &'static str,
    #[serde(rename = "PCIeRootPort")]
    pcie_root_port: u32,
    #[serde(rename = "PCIeSwitchPort")]
    pcie_switch_port: u32,
    debug: bool,
    security_info: SecurityInfo,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct SecurityInfo {
    rootless: bool,
    disable_seccomp: bool,
    guest_hook_path: String,
    enable_annotations: Vec<String>,
    confidential_guest: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Runtime {
    path: String,
    #[serde(rename = "GuestSeLinuxLabel")]
    guest_selinux_label: String,
    experimental: Vec<&'static str>,
    debug: bool,
    trace: bool,
    disable_guest_seccomp: bool,
    disable_new_net_ns: bool,
    sandbox_cgroup_only: bool,
    config: File,
    version: RuntimeVersion,
}

#[derive(Debug, Serialize)]
struct RuntimeVersion {
    #[serde(rename = "OCI")]
    oci: String,
    #[serde(rename = "Version")]
    version: VersionNumber,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct VersionNumber {
    semver: &'static str,
    commit: &'static str,
    major: u64,
    minor: u64,
    patch: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct HostFacts {
    available_guest_protections: [&'static str; 1],
    kernel: String,
    architecture: &'static str,
    #[serde(rename = "VMContainerCapable")]
    vm_container_capable: bool,
    #[serde(rename = "SupportVSocks")]
    support_vsocks: bool,
    distro: Distro,
    #[serde(rename = "CPU")]
    cpu: Cpu,
    memory: Memory,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Distro {
    name: String,
    version: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Cpu {
    vendor: String,
    model: String,
    #[serde(rename = "CPUs")]
    cpus: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Memory {
    total: u64,
    free: u64,
    available: u64,
}

impl Environment {
    fn of(config: &Config, host: &Host) -> Self {
        let vm = &config.hypervisor;
        Self {
            meta: Meta { version: FORMAT },
            image: File { path: shown(vm.image.as_deref()) },
            initrd: File { path: shown(vm.initrd.as_deref()) },
            agent: Agent { debug: config.agent.enable_debug, trace: config.agent.enable_tracing },
            hypervisor: Hypervisor::of(vm),
            kernel: Kernel { path: shown(Some(&vm.kernel)), parameters: vm.kernel_params.to_string() },
            host: HostFacts::of(host, check::is_capable(host, config)),
            runtime: Runtime::of(config),
        }
    }
}

impl Hypervisor {
    fn of(vm: &kata_config::Hypervisor) -> Self {
        let version = programs::qemu(&vm.path);
        Self {
            machine_type: vm.machine_type.clone(),
            version: version
                .map_or_else(|_| UNKNOWN.to_owned(), |number| format!("QEMU emulator version {number}")),
            path: shown(Some(&vm.path)),
            block_device_driver: vm.block_devices.driver.as_str(),
            entropy_source: shown(Some(&vm.entropy_source)),
            shared_fs: vm.shared_fs.as_str(),
            virtio_fs_daemon: shown(Some(&vm.virtio_fs_daemon)),
            socket_path: "",
            msize_9p: vm.msize_9p,
            memory_slots: vm.memory_slots.into(),
            hot_plug_vfio: "no-port",
            cold_plug_vfio: "no-port",
            pcie_root_port: vm.block_devices.ports.into(),
            pcie_switch_port: 0,
            debug: vm.enable_debug,
            security_info: SecurityInfo {
                rootless: false,
                disable_seccomp: vm.disable_seccomp,
                guest_hook_path: vm.guest_hook_path.clone(),
                enable_annotations: vm.enable_annotations.clone(),
                confidential_guest: false,
            },
        }
    }
}

impl Runtime {
    fn of(config: &Config) -> Self {
        let number = |text: &str| text.parse().unwrap_or(0);
        let path = std::env::current_exe().ok();
        Self {
            path: shown(path.as_deref()),
            guest_selinux_label: config.runtime.guest_selinux_label.clone(),
            experimental: experimental(&config.runtime),
            debug: config.runtime.enable_debug,
            trace: config.runtime.tracing.is_on,
            disable_guest_seccomp: config.runtime.disable_guest_seccomp,
            disable_new_net_ns: false,
            sandbox_cgroup_only: config.runtime.sandbox_cgroup_only,
            config: File { path: shown(Some(&config.path)) },
            version: RuntimeVersion {
                oci: version::oci(),
                version: VersionNumber {
                    semver: version::SEMVER,
                    commit: if version::COMMIT.is_empty() { UNKNOWN } else { version::COMMIT },
                    major: number(env!("CARGO_PKG_VERSION_MAJOR")),
                    minor: number(env!("CARGO_PKG_VERSION_MINOR")),
                    patch: number(env!("CARGO_PKG_VERSION_PATCH")),
                },
            },
        }
    }
}

/// What `experimental` allows.
fn experimental(runtime: &kata_config::Runtime) -> Vec<&'static str> {
    let known = [
        ("host_network", runtime.host_network),
        ("shared_network_namespace", runtime.shared_network_namespace),
        ("force_guest_pull", runtime.force_guest_pull),
    ];
    known.into_iter().filter(|(_, allowed)| *allowed).map(|(name, _)| name).collect()
}

impl HostFacts {
    fn of(host: &Host, capable: bool) -> Self {
        let (cpu, memory, distro) = (host.cpu(), host.memory(), host.distro());
        Self {
            available_guest_protections: ["none"],
            kernel: host.kernel(),
            architecture: architecture(),
            vm_container_capable: capable,
            support_vsocks: host.has("/dev/vhost-vsock"),
            distro: Distro { name: distro.name, version: distro.version },
            cpu: Cpu { vendor: cpu.vendor, model: cpu.model, cpus: cpu.count },
            memory: Memory { total: memory.total, free: memory.free, available: memory.available },
        }
    }
}

fn shown(path: Option<&Path>) -> String {
    path.map_or_else(String::new, |path| path.display().to_string())
}
