//! How a VM is divided among nodes.

use std::collections::BTreeSet;

use super::host::{Host, written};
use super::{MOST_NODES, Numa, NumaError, NumaNode};

/// What a node's memory begins and ends with, in MiB: the largest piece of memory that Linux hands out, so that none is of two
/// nodes.
const UNIT_MIB: u32 = 4;
/// The least memory of a node in MiB: a kernel boots in the first one.
const LEAST_MIB: u32 = 64;
/// To a node itself; Linux and ACPI count from there.
const HERE: u8 = 10;
/// What ACPI calls unreachable.
const UNREACHABLE: u8 = 255;

/// The VM that is to be divided.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// The host's nodes behind each of the guest's; empty: those that may be used.
    pub mapping: &'a [BTreeSet<u32>],
    /// CPUs at boot.
    pub vcpus: u32,
    /// The most ever.
    pub max_vcpus: u32,
    /// Memory at boot in MiB.
    pub memory_mib: u32,
    /// Memory comes in pages of so many MiB; 1 for smaller ones.
    pub page_mib: u32,
}

/// The nodes of the guest.
///
/// # Errors
/// The host has not, or the pod may not use, what is mapped; or the VM is too small for so many nodes.
pub fn plan(host: &Host, wish: Wish<'_>) -> Result<Numa, NumaError> {
    let groups = match wish.mapping.is_empty() {
        true => automatic(host, wish)?,
        false => mapped(host, wish)?,
    };
    let sizes = divided(&wish, groups.len());
    let node = |(group, memory_mib): (&BTreeSet<u32>, u32)| NumaNode {
        memory_mib,
        host_nodes: group.iter().copied().filter(|node| host.has_usable_memory(*node)).collect(),
        host_cpus: cpus(host, group).into_iter().collect(),
        distances: groups.iter().map(|other| distance(host, group, other)).collect(),
    };
    Ok(Numa(groups.iter().zip(sizes).map(node).collect()))
}

fn cpus(host: &Host, group: &BTreeSet<u32>) -> BTreeSet<u32> {
    group.iter().flat_map(|node| host.usable_cpus(*node)).collect()
}

/// What a node has at least.
fn least(wish: &Wish<'_>) -> u32 {
    LEAST_MIB.max(unit(wish))
}

fn unit(wish: &Wish<'_>) -> u32 {
    UNIT_MIB.max(wish.page_mib)
}

/// As the configuration says.
fn mapped(host: &Host, wish: Wish<'_>) -> Result<Vec<BTreeSet<u32>>, NumaError> {
    let groups = wish.mapping;
    for node in groups.iter().flatten().copied() {
        if !host.nodes.contains_key(&node) {
            let online = written(&host.nodes.keys().copied().collect());
            return Err(NumaError::Unknown { node, online });
        }
        if host.nodes[&node].has_memory && !host.mems.contains(&node) {
            return Err(NumaError::NotAllowed { node, allowed: written(&host.mems) });
        }
    }
    if let Some(group) = groups.iter().find(|group| !group.iter().any(|node| host.has_usable_memory(*node))) {
        return Err(NumaError::NoMemory { nodes: written(group) });
    }
    if groups.len() > MOST_NODES {
        return Err(NumaError::TooMany { nodes: groups.len() });
    }
    let with_cpus = groups.iter().filter(|group| !cpus(host, group).is_empty()).count();
    if with_cpus > wish.max_vcpus as usize {
        return Err(NumaError::TooFewCpus { nodes: with_cpus, vcpus: wish.max_vcpus });
    }
    if u64::from(wish.memory_mib) < u64::from(least(&wish)) * groups.len() as u64 {
        let (mib, nodes) = (wish.memory_mib, groups.len());
        return Err(NumaError::TooLittleMemory { mib, nodes, least: least(&wish) });
    }
    Ok(groups.to_vec())
}

/// One for each node that may be used, as far as the VM can be divided: neighbours are joined, so that all memory is in reach.
fn automatic(host: &Host, wish: Wish<'_>) -> Result<Vec<BTreeSet<u32>>, NumaError> {
    let usable = |node: &u32| host.has_usable_memory(*node);
    let (mut near, far): (Vec<_>, Vec<_>) =
        host.nodes.keys().copied().filter(usable).partition(|node| !host.nodes[node].cpus.is_empty());
    // Memory whose CPUs all are others' would be far from everybody.
    near.retain(|node| host.usable_cpus(*node).next().is_some());
    if near.is_empty() {
        return Err(NumaError::Nothing { mems: written(&host.mems), cpus: written(&host.cpus) });
    }
    let most = MOST_NODES.min((wish.memory_mib / least(&wish)) as usize).max(1);
    let count = near.len().min(most).min(wish.vcpus as usize).max(1);
    let mut groups: Vec<BTreeSet<u32>> =
        (0..count).map(|group| near[part(near.len(), count, group)].iter().copied().collect()).collect();
    let is_room = count + far.len() <= most;
    for node in far {
        match is_room {
            true => groups.push([node].into()),
            false => join(host, &mut groups, node),
        }
    }
    // CPUs without memory of their own are of the nearest node.
    let bare = |node: &u32| !host.nodes[node].has_memory && host.usable_cpus(*node).next().is_some();
    for node in host.nodes.keys().copied().filter(bare) {
        join(host, &mut groups, node);
    }
    Ok(groups)
}

/// The place of a group among so many nodes; all are as large as can be.
fn part(nodes: usize, groups: usize, group: usize) -> std::ops::Range<usize> {
    nodes * group / groups..nodes * (group + 1) / groups
}

/// To the nearest.
fn join(host: &Host, groups: &mut [BTreeSet<u32>], node: u32) {
    if let Some(nearest) = groups.iter_mut().min_by_key(|group| distance(host, &[node].into(), group)) {
        nearest.insert(node);
    }
}

/// That of the host's nodes that are nearest to each other.
fn distance(host: &Host, from: &BTreeSet<u32>, to: &BTreeSet<u32>) -> u8 {
    if from == to {
        return HERE;
    }
    let all = from.iter().flat_map(|from| to.iter().map(|to| host.distance(*from, *to)));
    all.min().unwrap_or(UNREACHABLE).clamp(HERE + 1, UNREACHABLE - 1)
}

/// The memory of each node: the same but for what is left over, which the first ones have.
fn divided(wish: &Wish<'_>, nodes: usize) -> Vec<u32> {
    let unit = unit(wish);
    let (count, units) = (u32::try_from(nodes).unwrap_or(1), wish.memory_mib / unit);
    let sizes = (0..count).map(|node| (units / count + u32::from(node < units % count)) * unit);
    let mut sizes: Vec<_> = sizes.collect();
    // What is no whole unit is at the end.
    if let Some(last) = sizes.last_mut() {
        *last += wish.memory_mib % unit;
    }
    sizes
}
