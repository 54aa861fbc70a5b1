//! What runs in the virtual machine: the guest kernel and the initrd with the agent.

pub(crate) mod cpio;
pub(crate) mod fragments;
pub(crate) mod initrd;
pub(crate) mod kernel;
pub(crate) mod kernel_source;
