//! The guest's NUMA nodes: such as the host has, as far as the pod may use them.

use std::sync::Arc;

use kata_config::Config;
use kata_vmm::Accelerator;
use kata_vmm::numa::{self, Host, Numa, Wish};

use crate::error::chain;
use crate::host::{BootError, Machine};
use crate::plan::most_vcpus;
use crate::sizing::Size;

/// How the VM is divided, if it is. This process must be in the pod's cgroup: what that allows counts.
pub(crate) async fn nodes(
    config: &Config,
    accelerator: Accelerator,
    (boot, most): (Size, Size),
) -> Result<Numa, BootError> {
    let vm = &config.hypervisor;
    if !vm.memory.numa.is_on {
        return Ok(Numa::default());
    }
    let host = tokio::task::spawn_blocking(Host::read).await??;
    let wish = Wish {
        mapping: &vm.memory.numa.mapping,
        vcpus: boot.vcpus,
        max_vcpus: most_vcpus(vm, accelerator, (boot, most)),
        memory_mib: boot.memory_mib,
        page_mib: vm.memory.unit_mib(),
    };
    Ok(numa::plan(&host, wish)?)
}

/// Whether virtual CPUs are to run on the CPUs of their nodes.
pub(crate) fn has_nodes(machine: &Machine) -> bool {
    machine.vmm.resize().is_some_and(kata_vmm::Resize::has_nodes)
}

/// Lets all virtual CPUs that there are run on the CPUs of their nodes. What fails is told in the log: the VM runs, and its
/// memory is where it should be.
pub(crate) async fn place(machine: &Arc<Machine>) {
    if has_nodes(machine)
        && let Some(vm) = machine.vmm.resize()
        && let Err(error) = vm.place_on_nodes().await
    {
        tracing::warn!(error = chain(&error), "The VM's CPUs are not on those of their NUMA nodes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { vcpus: 1, memory_mib: 256 };

    #[tokio::test]
    async fn a_guest_has_nodes_only_if_the_configuration_says_so() {
        let mut config = Config::built_in(4);
        let numa = nodes(&config, Accelerator::Tcg, (SIZE, SIZE)).await.unwrap();
        assert!(numa.is_none());
        config.hypervisor.memory.numa.is_on = true;
        config.hypervisor.memory.numa.mapping = vec![[1023].into()];
        let error = nodes(&config, Accelerator::Tcg, (SIZE, SIZE)).await.unwrap_err();
        assert!(error.to_string().contains("node 1023 of the host"), "{error}");
    }
}
