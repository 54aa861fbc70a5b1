//! NUMA nodes of the guest, as the configuration has them.

use std::collections::BTreeSet;

use crate::error::Problem;
use crate::model::Config;
use crate::options::Table;
use crate::settings::Settings;

/// Kernels have no more nodes (`CONFIG_NODES_SHIFT`).
const MOST_NODES: u32 = 1024;

/// The NUMA nodes of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GuestNuma {
    /// There are such as the host has.
    pub is_on: bool,
    /// The host's nodes behind each of the guest's; empty: those of the host that the pod may use.
    pub mapping: Vec<BTreeSet<u32>>,
}

/// Reads the entries of `numa_mapping`.
///
/// # Errors
/// One is no list of nodes, or a node of the host is named twice.
pub(crate) fn parse(entries: &[String]) -> Result<Vec<BTreeSet<u32>>, String> {
    let mut seen = BTreeSet::new();
    let mut mapping = Vec::new();
    for entry in entries {
        let nodes = nodes(entry).ok_or_else(|| {
            format!(
                "must have a list of the host's NUMA nodes for each node of the guest, such as \"0-1\" or \"2,3\", not {entry:?}"
            )
        })?;
        for node in &nodes {
            if !seen.insert(*node) {
                return Err(format!(
                    "names node {node} of the host twice; each can be behind one node of the guest only"
                ));
            }
        }
        mapping.push(nodes.into_iter().collect());
    }
    Ok(mapping)
}

/// `0-2,7`.
fn nodes(entry: &str) -> Option<Vec<u32>> {
    let mut nodes = Vec::new();
    for part in entry.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last >= MOST_NODES || first > last {
            return None;
        }
        nodes.extend(first..=last);
    }
    Some(nodes)
}

/// Whether its keys go together.
pub(crate) fn check(config: &Config, settings: &Settings) -> Result<(), Problem> {
    let numa = &config.hypervisor.memory.numa;
    if numa.is_on || numa.mapping.is_empty() {
        return Ok(());
    }
    let text = "`numa_mapping` needs `enable_numa = true`: set that, or leave the list empty".to_owned();
    Err(Problem { place: settings.named(Table::Hypervisor, "numa_mapping").origin.clone(), text })
}

#[cfg(test)]
mod tests {
    use super::parse;

    fn read(entries: &[&str]) -> Result<Vec<Vec<u32>>, String> {
        let entries: Vec<_> = entries.iter().map(|&entry| entry.to_owned()).collect();
        Ok(parse(&entries)?.into_iter().map(|nodes| nodes.into_iter().collect()).collect())
    }

    #[test]
    fn each_entry_is_a_list_of_nodes() {
        assert_eq!(read(&["0-1", "2, 3", "7"]), Ok(vec![vec![0, 1], vec![2, 3], vec![7]]));
        assert_eq!(read(&[]), Ok(vec![]));
    }

    #[test]
    fn what_is_no_list_of_nodes_is_named() {
        for wrong in ["", "a", "1-0", "0-", "0-4294967295", "0 1"] {
            let error = read(&["0", wrong]).unwrap_err();
            assert!(error.contains(&format!("not {wrong:?}")), "{error}");
        }
    }

    #[test]
    fn a_node_is_behind_one_node_of_the_guest_only() {
        for twice in [&["0-2", "1"][..], &["1", "1"], &["1,1"]] {
            assert!(read(twice).unwrap_err().contains("node 1 of the host twice"));
        }
    }
}
