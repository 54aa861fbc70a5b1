//! From the host's specification of a container to one that holds inside the guest.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxNamespaceType, LinuxResources, Process, Spec};

use crate::cgroup::Hierarchy;
use crate::id::ContainerId;
use crate::jail::executor::HOME;

/// A specification that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpecError {
    /// A part is missing.
    #[error("The container's specification has no {part}; add it to config.json")]
    Missing { part: &'static str },
}

type Result<T> = std::result::Result<T, SpecError>;

/// What the guest gives to a container.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    /// The agent is PID 1: the whole guest is the sandbox's.
    pub(crate) owns_guest: bool,
    /// Where cgroups are.
    pub(crate) hierarchy: &'a Hierarchy,
    /// The pid namespace to join.
    pub(crate) pid_namespace: Option<PathBuf>,
    /// The process has a terminal.
    pub(crate) terminal: bool,
}

/// Kernel settings of a container that hold for the whole guest, to be written by the agent.
pub(crate) type GuestSysctls = HashMap<String, String>;

/// Rewrites `spec` in place.
///
/// Left out are the host's hooks and AppArmor, SELinux and RDT settings, which the guest has not, and seccomp, as no
/// filter compiler is linked.
pub(crate) fn adapt(
    spec: &mut Spec,
    id: &ContainerId,
    surroundings: &Surroundings<'_>,
) -> Result<GuestSysctls> {
    spec.set_hooks(None);
    let mut process = spec.process().clone().ok_or(SpecError::Missing { part: "process" })?;
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(SpecError::Missing { part: "process.args" });
    }
    process.set_terminal(Some(surroundings.terminal));
    adapt_process(&mut process, surroundings.owns_guest);
    spec.set_process(Some(process));
    if !spec.root().as_ref().is_some_and(|root| root.path().is_absolute()) {
        return Err(SpecError::Missing { part: "root with an absolute path" });
    }
    let mut linux = spec.linux().clone().ok_or(SpecError::Missing { part: "linux section" })?;
    let sysctls = adapt_linux(&mut linux, id, surroundings);
    spec.set_linux(Some(linux));
    Ok(sysctls)
}

/// Rewrites a process; also one that is added later.
pub(crate) fn adapt_process(process: &mut Process, owns_guest: bool) {
    process.set_apparmor_profile(None).set_selinux_label(None);
    if process.cwd().as_os_str().is_empty() {
        process.set_cwd("/".into());
    }
    let mut variables = process.env().clone().unwrap_or_default();
    if !variables.iter().any(|variable| variable.starts_with(HOME)) {
        variables.push(HOME.to_owned());
        process.set_env(Some(variables));
    }
    // The agent protects itself from the OOM killer; its children must not inherit that.
    if owns_guest && process.oom_score_adj().is_none() {
        process.set_oom_score_adj(Some(0));
    }
}

fn adapt_linux(linux: &mut Linux, id: &ContainerId, surroundings: &Surroundings<'_>) -> GuestSysctls {
    if linux.seccomp().is_some() {
        tracing::debug!(container = %id, "The container runs without its seccomp profile");
    }
    linux.set_seccomp(None).set_intel_rdt(None).set_mount_label(None);
    linux.set_cgroups_path(Some(Path::new("/").join(id.as_str())));
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Network);
    for namespace in &mut namespaces {
        // Paths are the host's.
        let joined = (namespace.typ() == LinuxNamespaceType::Pid)
            .then(|| surroundings.pid_namespace.clone())
            .flatten();
        namespace.set_path(joined);
    }
    linux.set_namespaces(Some(namespaces));
    if let Some(resources) = linux.resources().clone() {
        linux.set_resources(Some(limit_to(surroundings, resources)));
    }
    if surroundings.owns_guest { take_guest_sysctls(linux) } else { GuestSysctls::new() }
}

/// Outside a VM some controllers may be in other hands; the container then runs without their limits.
fn limit_to(surroundings: &Surroundings<'_>, mut resources: LinuxResources) -> LinuxResources {
    if surroundings.owns_guest {
        return resources;
    }
    let has = |controller: &str| surroundings.hierarchy.has(controller);
    if !has("memory") {
        resources.set_memory(None);
    }
    if !has("cpu") || !has("cpuset") {
        resources.set_cpu(None);
    }
    if !has("pids") {
        resources.set_pids(None);
    }
    if !has("io") {
        resources.set_block_io(None);
    }
    if !has("hugetlb") {
        resources.set_hugepage_limits(None);
    }
    resources.set_unified(None);
    resources
}

/// Settings without a namespace of their own (the network's is the guest's): harmless here, as the guest is the sandbox.
fn take_guest_sysctls(linux: &mut Linux) -> GuestSysctls {
    let Some(all) = linux.sysctl().clone() else { return GuestSysctls::new() };
    let (own, guest): (GuestSysctls, GuestSysctls) =
        all.into_iter().partition(|(name, _)| is_containers_own(name));
    linux.set_sysctl(Some(own));
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
