//! From the host's specification of a container to one that holds inside the guest.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use kata_protocol::agent::Storage;
use kata_protocol::guest;
use kata_protocol::oci::{Hooks, Linux, LinuxResources, Process, Spec};
use protobuf::MessageField;

use super::privilege;
use crate::cgroup::Hierarchy;
use crate::id::ContainerId;

/// A specification that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpecError {
    /// A part is missing.
    #[error("The container's specification has no {part}; add it to config.json")]
    Missing { part: &'static str },
    /// A device.
    #[error(transparent)]
    Device(#[from] privilege::NoDevice),
}

type Result<T> = std::result::Result<T, SpecError>;

/// What the guest gives to a container.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    /// The agent is PID 1: the whole guest is the sandbox's.
    pub(crate) owns_guest: bool,
    /// Where cgroups are.
    pub(crate) hierarchy: &'a Hierarchy,
    /// The process has a terminal.
    pub(crate) terminal: bool,
}

/// Kernel settings of a container that hold for the whole guest, to be written by the agent.
pub(crate) type GuestSysctls = HashMap<String, String>;

/// Rewrites `spec` in place.
///
/// Hooks of the host have run there. Left out are RDT settings, which the guest has not.
pub(crate) fn adapt(
    id: &ContainerId,
    spec: &mut Spec,
    surroundings: &Surroundings<'_>,
) -> Result<GuestSysctls> {
    let Hooks { CreateContainer, StartContainer, .. } = spec.Hooks.take().unwrap_or_default();
    spec.Hooks = MessageField::some(Hooks { CreateContainer, StartContainer, ..Hooks::default() });
    let process = spec.Process.as_mut().ok_or(SpecError::Missing { part: "process" })?;
    if process.Args.is_empty() {
        return Err(SpecError::Missing { part: "process.args" });
    }
    process.Terminal = surroundings.terminal;
    adapt_process(process);
    if !spec.Root.as_ref().is_some_and(|root| root.Path.starts_with('/')) {
        return Err(SpecError::Missing { part: "root with an absolute path" });
    }
    if surroundings.owns_guest {
        privilege::give_devices(spec)?;
    }
    let linux = spec.Linux.as_mut().ok_or(SpecError::Missing { part: "linux section" })?;
    linux.CgroupsPath = format!("/{}", id.as_str());
    Ok(adapt_linux(linux, surroundings))
}

/// Rewrites a process; also one that is added later.
pub(crate) fn adapt_process(process: &mut Process) {
    if process.Cwd.is_empty() {
        "/".clone_into(&mut process.Cwd);
    }
}

/// What holds for each process of the container, also for one that is added later.
pub(crate) fn of_all_processes(spec: Spec) -> Spec {
    let Linux { Seccomp, Personality, Namespaces, CgroupsPath, UIDMappings, GIDMappings, .. } =
        spec.Linux.unwrap_or_default();
    let linux =
        Linux { Seccomp, Personality, Namespaces, CgroupsPath, UIDMappings, GIDMappings, ..Linux::default() };
    let Spec { Version, Root, Annotations, .. } = spec;
    Spec { Version, Root, Annotations, Linux: MessageField::some(linux), ..Spec::default() }
}

/// Where the sources of a container's mounts are on the share.
pub(crate) fn shared_sources(spec: &Spec) -> impl Iterator<Item = PathBuf> {
    let sources = spec.Mounts.iter().map(|mount| Path::new(&mount.source));
    sources.filter(|source| source.starts_with(guest::SHARED_DIR)).map(Path::to_owned)
}

/// The folders on the share of containers whose root file systems are layers of these storages.
pub(crate) fn shared_layers(storages: &[Storage]) -> impl Iterator<Item = PathBuf> {
    let options = storages.iter().flat_map(|storage| &storage.options);
    let layers =
        options.filter_map(|option| option.strip_prefix("lowerdir=")).flat_map(|layers| layers.split(':'));
    let shared = layers.map(Path::new).filter(|layer| layer.starts_with(guest::SHARED_DIR));
    shared.filter_map(Path::parent).map(Path::to_owned)
}

/// What a process is added by. Only a listener of system calls is told about the container.
pub(crate) fn of_added(common: &Spec, process: Process) -> Spec {
    let told = !common.Linux.Seccomp.get_or_default().ListenerPath.is_empty();
    let about = if told { common.clone() } else { Spec { Linux: common.Linux.clone(), ..Spec::default() } };
    Spec { Process: MessageField::some(process), ..about }
}

fn adapt_linux(linux: &mut Linux, surroundings: &Surroundings<'_>) -> GuestSysctls {
    linux.IntelRdt = MessageField::none();
    // The network is the guest's, and paths are the host's.
    linux.Namespaces.retain(|namespace| namespace.Type != "network");
    if let Some(resources) = linux.Resources.as_mut().filter(|_| !surroundings.owns_guest) {
        limit_to(surroundings.hierarchy, resources);
    }
    if surroundings.owns_guest { take_guest_sysctls(linux) } else { GuestSysctls::new() }
}

/// Outside a VM some controllers may be in other hands; the container then runs without their limits.
fn limit_to(hierarchy: &Hierarchy, resources: &mut LinuxResources) {
    if !hierarchy.has("memory") {
        resources.Memory = MessageField::none();
    }
    if !hierarchy.has("cpu") || !hierarchy.has("cpuset") {
        resources.CPU = MessageField::none();
    }
    if !hierarchy.has("pids") {
        resources.Pids = MessageField::none();
    }
    if !hierarchy.has("io") {
        resources.BlockIO = MessageField::none();
    }
    if !hierarchy.has("rdma") {
        resources.Rdma.clear();
    }
    if !hierarchy.has("hugetlb") {
        resources.HugepageLimits.clear();
    }
    resources.Unified.clear();
    resources.Devices.clear();
}

/// Settings without a namespace of their own (the network's is the guest's): harmless here, as the guest is the sandbox.
fn take_guest_sysctls(linux: &mut Linux) -> GuestSysctls {
    let all = std::mem::take(&mut linux.Sysctl);
    let (own, guest): (GuestSysctls, GuestSysctls) =
        all.into_iter().partition(|(name, _)| is_containers_own(name));
    linux.Sysctl = own;
    guest
}

fn is_containers_own(name: &str) -> bool {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let name = name.replace('/', ".");
    IPC.contains(&name.as_str())
        || name.starts_with("fs.mqueue.")
        || name.starts_with("user.")
        || matches!(name.as_str(), "kernel.domainname" | "kernel.hostname")
}

#[cfg(test)]
mod tests;
