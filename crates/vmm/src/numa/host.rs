//! What the host tells of its NUMA nodes, and which of them this process may use.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::NumaError;

/// Where the kernel tells of nodes.
const NODES: &str = "/sys/devices/system/node";
/// Where it tells what this process may use, as its cgroup says.
const STATUS: &str = "/proc/self/status";
/// The distance to another node, where the kernel tells of none.
const ELSEWHERE: u8 = 20;

/// The host's nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub(super) nodes: BTreeMap<u32, HostNode>,
    /// Nodes whose memory may be used.
    pub(super) mems: BTreeSet<u32>,
    /// CPUs that may be used.
    pub(super) cpus: BTreeSet<u32>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct HostNode {
    pub(super) cpus: BTreeSet<u32>,
    pub(super) has_memory: bool,
    distances: BTreeMap<u32, u8>,
}

impl Host {
    /// This host, as this process may use it.
    ///
    /// # Errors
    /// Its kernel tells of no nodes.
    pub fn read() -> Result<Self, NumaError> {
        Self::read_at(Path::new(NODES), Path::new(STATUS))
    }

    /// A host by these files.
    pub(super) fn read_at(nodes: &Path, status: &Path) -> Result<Self, NumaError> {
        let online = list_in(&nodes.join("online"));
        if online.is_empty() {
            return Err(NumaError::NoNodes { path: nodes.to_owned() });
        }
        let status = fs::read_to_string(status).unwrap_or_default();
        let nodes: BTreeMap<_, _> =
            online.iter().map(|node| (*node, HostNode::read(nodes, *node, &online))).collect();
        let allowed = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).and_then(list);
        let all_cpus = || nodes.values().flat_map(|node| node.cpus.iter().copied()).collect();
        Ok(Self {
            mems: allowed("Mems_allowed_list:").unwrap_or(online),
            cpus: allowed("Cpus_allowed_list:").unwrap_or_else(all_cpus),
            nodes,
        })
    }

    /// The CPUs of a node that may be used.
    pub(super) fn usable_cpus(&self, node: u32) -> impl Iterator<Item = u32> {
        let of_node = self.nodes.get(&node).into_iter().flat_map(|node| &node.cpus);
        of_node.filter(|cpu| self.cpus.contains(cpu)).copied()
    }

    /// Whether there is memory in a node that may be used.
    pub(super) fn has_usable_memory(&self, node: u32) -> bool {
        self.mems.contains(&node) && self.nodes.get(&node).is_some_and(|node| node.has_memory)
    }

    /// How far it is from one node to another.
    pub(super) fn distance(&self, from: u32, to: u32) -> u8 {
        let told = self.nodes.get(&from).and_then(|node| node.distances.get(&to)).copied();
        told.unwrap_or(if from == to { 10 } else { ELSEWHERE })
    }
}

impl HostNode {
    /// `online`: in this order, distances are told.
    fn read(nodes: &Path, number: u32, online: &BTreeSet<u32>) -> Self {
        let dir = nodes.join(format!("node{number}"));
        let distances = fs::read_to_string(dir.join("distance")).unwrap_or_default();
        let distances = distances.split_whitespace().map(|distance| distance.parse().unwrap_or(ELSEWHERE));
        let meminfo = fs::read_to_string(dir.join("meminfo")).unwrap_or_default();
        let total = meminfo.lines().find_map(|line| line.split_once("MemTotal:"));
        let has_memory =
            total.is_some_and(|(_, rest)| rest.split_whitespace().next().is_some_and(|kib| kib != "0"));
        Self {
            cpus: list_in(&dir.join("cpulist")),
            has_memory,
            distances: online.iter().copied().zip(distances).collect(),
        }
    }
}

fn list_in(file: &Path) -> BTreeSet<u32> {
    fs::read_to_string(file).ok().and_then(|text| list(&text)).unwrap_or_default()
}

/// `0-2,7`, as the kernel writes it; nothing for none.
fn list(text: &str) -> Option<BTreeSet<u32>> {
    let mut numbers = BTreeSet::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        numbers.extend(first.trim().parse::<u32>().ok()?..=last.trim().parse().ok()?);
    }
    Some(numbers)
}

/// The kernel's notation.
pub(super) fn written(numbers: &BTreeSet<u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let range = |(first, last): &(u32, u32)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    ranges.iter().map(range).collect::<Vec<_>>().join(",")
}
