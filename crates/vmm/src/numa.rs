//! NUMA nodes of the guest, made of the host's.
//!
//! [`Host`] is what the host tells of its nodes, [`plan`] divides a VM among them: arithmetic, without a look at the host.

mod host;
mod planner;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use host::Host;
pub use planner::{Wish, plan};

/// The most nodes that a guest has: the devices for their memory are the functions of one port.
pub const MOST_NODES: usize = 8;

/// One node of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumaNode {
    /// Its part of the memory at boot, in MiB.
    pub memory_mib: u32,
    /// The host's nodes that its memory is of.
    pub host_nodes: Vec<u32>,
    /// The host's CPUs that its virtual ones run on; without any it has memory only.
    pub host_cpus: Vec<u32>,
    /// How far it is to each node of the guest, in their order; 10 to itself.
    pub distances: Vec<u8>,
}

/// The nodes of a guest, by their numbers; without any it has none of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Numa(pub Vec<NumaNode>);

impl Numa {
    /// Whether the guest has no nodes of its own.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// The node of a virtual CPU. They take turns, so that any number of them is divided evenly.
    pub(crate) fn of_vcpu(&self, vcpu: u32) -> usize {
        let mut with_cpus: Vec<_> =
            (0..self.0.len()).filter(|node| !self.0[*node].host_cpus.is_empty()).collect();
        if with_cpus.is_empty() {
            with_cpus = (0..self.0.len()).collect();
        }
        with_cpus.get(vcpu as usize % with_cpus.len().max(1)).copied().unwrap_or(0)
    }

    /// A node's part of memory that comes later: of so many blocks.
    pub(crate) fn share(&self, blocks: u64, node: usize) -> u64 {
        let (count, node) = (self.0.len().max(1) as u64, node as u64);
        blocks / count + u64::from(node < blocks % count)
    }

    /// The numbers of its nodes; a guest that has none of its own has one.
    pub(crate) fn numbers(&self) -> std::ops::Range<usize> {
        0..self.0.len().max(1)
    }

    /// The host's nodes behind a node; empty for any.
    pub(crate) fn host_nodes(&self, node: usize) -> &[u32] {
        self.0.get(node).map_or(&[], |node| &node.host_nodes)
    }
}

/// A VM cannot be divided among the host's nodes as it was asked for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NumaError {
    /// The host has no nodes.
    #[error("The host tells of no NUMA nodes in {path:?}: set `enable_numa = false`")]
    NoNodes {
        /// Where it would.
        path: PathBuf,
    },
    /// A node is named that the host has not.
    #[error(
        "`numa_mapping` names node {node} of the host, which has {online}: correct it, or leave it empty for one node of the \
         guest for each of the host"
    )]
    Unknown {
        /// The node.
        node: u32,
        /// Those that it has.
        online: String,
    },
    /// The pod may not use a node.
    #[error(
        "`numa_mapping` names node {node} of the host, and the pod's cgroup may use memory of {allowed} only \
         (`cpuset.mems`): correct one of them"
    )]
    NotAllowed {
        /// The node.
        node: u32,
        /// Those that it may use.
        allowed: String,
    },
    /// A node of the guest would have no memory.
    #[error("The host's nodes {nodes}, an entry of `numa_mapping`, have no memory: add a node that has some")]
    NoMemory {
        /// The host's nodes behind it.
        nodes: String,
    },
    /// The pod may use no node with memory and CPUs.
    #[error(
        "The pod's cgroup may use memory of the nodes {mems} and the CPUs {cpus}, which are in no common NUMA node: correct its \
         `cpuset.mems` and `cpuset.cpus`, or set `enable_numa = false`"
    )]
    Nothing {
        /// The nodes.
        mems: String,
        /// The CPUs.
        cpus: String,
    },
    /// More nodes than a guest can have.
    #[error(
        "`numa_mapping` has {nodes} entries, and a guest can have {MOST_NODES} nodes: join some (\"0-1\")"
    )]
    TooMany {
        /// The nodes.
        nodes: usize,
    },
    /// Nodes would never have a virtual CPU.
    #[error(
        "`numa_mapping` makes {nodes} nodes with CPUs, and the VM has at most {vcpus} virtual CPUs: join some (\"0-1\"), or \
         raise `default_vcpus` or `default_maxvcpus`"
    )]
    TooFewCpus {
        /// The nodes.
        nodes: usize,
        /// The most virtual CPUs.
        vcpus: u32,
    },
    /// Nodes would have too little memory.
    #[error(
        "{mib} MiB of memory cannot be divided among the {nodes} nodes of `numa_mapping`, each of which needs {least}: join \
         some (\"0-1\"), or raise `default_memory`"
    )]
    TooLittleMemory {
        /// The VM's memory.
        mib: u32,
        /// The nodes.
        nodes: usize,
        /// What each needs.
        least: u32,
    },
}
