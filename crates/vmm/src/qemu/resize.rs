//! What the VM can become, and the trait by which it is told to.

use std::time::Duration;

use async_trait::async_trait;

use super::lifecycle::Qemu;
use crate::backing::MemoryBacking;
use crate::numa::Numa;
use crate::plan::{Accelerator, MemoryHotplug, VmPlan};
use crate::vmm::{Affinity, Resize, VmmError};

/// What the VM was planned to have, at boot and at most.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    pub(super) accelerator: Accelerator,
    pub(super) max_vcpus: u32,
    pub(super) memory_mib: u32,
    /// In whole blocks beyond that.
    pub(super) max_memory_mib: u32,
    /// How memory is added; `None` if it is not.
    pub(super) hotplug: Option<MemoryHotplug>,
    /// Other processes map the guest's memory.
    pub(super) is_shared: bool,
    /// What it is made of.
    pub(super) backing: MemoryBacking,
    /// The guest's nodes.
    pub(super) numa: Numa,
}

impl Limits {
    pub(super) fn of(plan: &VmPlan) -> Self {
        let hotplug = plan.has_memory_hotplug().then_some(plan.memory_hotplug);
        Self {
            accelerator: plan.accelerator,
            max_vcpus: plan.max_vcpus,
            memory_mib: plan.memory_mib,
            max_memory_mib: plan.most_memory_mib(),
            hotplug,
            is_shared: plan.shares_memory(),
            backing: plan.memory_backing.clone(),
            numa: plan.numa.clone(),
        }
    }
}

#[async_trait]
impl Resize for Qemu {
    async fn set_vcpus(&self, vcpus: u32) -> Result<u32, VmmError> {
        let Limits { accelerator, max_vcpus: max, .. } = *self.limits();
        if vcpus == 0 || vcpus > max {
            return Err(VmmError::Vcpus { vcpus, max });
        }
        match accelerator {
            Accelerator::Kvm => self.plug_vcpus(vcpus).await,
            Accelerator::Tcg => Ok(max),
        }
    }

    async fn set_affinity(&self, affinity: &Affinity) -> Result<bool, VmmError> {
        self.bind(affinity).await
    }

    fn has_nodes(&self) -> bool {
        !self.limits().numa.is_none()
    }

    async fn place_on_nodes(&self) -> Result<(), VmmError> {
        self.bind_to_nodes().await
    }

    async fn request_memory(&self, mib: u32) -> Result<u32, VmmError> {
        let Limits { memory_mib: min, max_memory_mib: max, .. } = *self.limits();
        if mib < min || mib > max {
            return Err(VmmError::MemorySize { mib, min, max });
        }
        match self.limits().hotplug {
            None => Ok(min),
            Some(MemoryHotplug::VirtioMem) => self.request_virtio_mem(mib - min).await,
            Some(MemoryHotplug::Dimm { slots }) => self.plug_modules(mib - min, slots).await,
        }
    }

    async fn memory_settled(&self, patience: Duration) -> Result<u32, VmmError> {
        match self.limits().hotplug {
            Some(MemoryHotplug::VirtioMem) => self.virtio_mem_settled(patience).await,
            // Modules are there, or not.
            Some(MemoryHotplug::Dimm { .. }) | None => self.memory_of_modules().await,
        }
    }
}
