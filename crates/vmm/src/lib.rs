//! Virtual machine monitors behind one trait.
//!
//! [`launch`] turns a [`VmPlan`] (everything known before boot, as plain data) into a running VM behind the
//! [`Vmm`] trait. This crate knows nothing of containers, pods or OCI. A driver is a folder of its own with
//! the files `config`, `command_line`, `lifecycle` and `tests`; today there is one, [`qemu`].

pub mod accelerator;
mod backing;
mod netns;
pub mod numa;
mod plan;
pub mod qemu;
mod turns;
mod vmm;

pub use backing::{BackingError, MemoryBacking, MemoryPages};
pub use numa::{Numa, NumaError, NumaNode};
pub use plan::{
    Accelerator, AgentChannel, BlockSize, Disk, DiskAio, DiskAttachment, DiskCache, DiskLimits,
    GUEST_BLOCK_MIB, MemoryHotplug, NetworkNamespace, Nic, NicBackend, Share, ShareBackend, VmPlan,
};
pub use vmm::{
    Affinity, Capabilities, DiskAddress, DiskHotplug, NicHotplug, Resize, ShutdownReason, VmEvent, VmExit,
    VmStatus, Vmm, VmmError,
};

/// Starts the VM that `plan` describes.
///
/// Returns as soon as the VMM's process exists; what happens next arrives through [`Vmm::take_events`]. Must
/// be called inside a tokio runtime.
///
/// # Errors
/// The plan cannot be carried out (a missing file, a kernel command line that is too long) or the process
/// could not be started. What the VMM itself refuses later is told by [`VmEvent::Exited`].
pub async fn launch(plan: VmPlan) -> Result<Box<dyn Vmm>, VmmError> {
    Ok(Box::new(qemu::launch(plan).await?))
}
