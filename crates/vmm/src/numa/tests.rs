//! Made-up hosts, and how VMs are divided among their nodes.

use std::collections::BTreeSet;
use std::fs;

use super::{Host, Numa, NumaError, Wish, plan};

/// A node of a host: its number, CPUs, KiB of memory, distances.
type Node = (u32, &'static str, u64, &'static str);

const TWO: &[Node] = &[(0, "0-3", 4 << 20, "10 21"), (1, "4-7", 4 << 20, "21 10")];

/// A host that allows the nodes `mems` and the CPUs `cpus`.
fn allowing(nodes: &[Node], mems: &str, cpus: &str) -> Host {
    let dir = tempfile::tempdir().unwrap();
    let online: Vec<_> = nodes.iter().map(|node| node.0.to_string()).collect();
    fs::write(dir.path().join("online"), online.join(",") + "\n").unwrap();
    for (number, cpus, kib, distances) in nodes {
        let node = dir.path().join(format!("node{number}"));
        fs::create_dir(&node).unwrap();
        fs::write(node.join("cpulist"), format!("{cpus}\n")).unwrap();
        let meminfo = format!("Node {number} MemTotal:       {kib} kB\nNode {number} MemFree:        1 kB\n");
        fs::write(node.join("meminfo"), meminfo).unwrap();
        fs::write(node.join("distance"), format!("{distances}\n")).unwrap();
    }
    let status = dir.path().join("status");
    fs::write(&status, format!("Name:\tx\nCpus_allowed_list:\t{cpus}\nMems_allowed_list:\t{mems}\n"))
        .unwrap();
    Host::read_at(dir.path(), &status).unwrap()
}

fn host(nodes: &[Node]) -> Host {
    allowing(nodes, "0-63", "0-255")
}

const WISH: Wish<'static> = Wish { mapping: &[], vcpus: 8, max_vcpus: 8, memory_mib: 1024, page_mib: 1 };

fn mapping(groups: &[&[u32]]) -> Vec<BTreeSet<u32>> {
    groups.iter().map(|group| group.iter().copied().collect()).collect()
}

/// The host's nodes behind each of the guest's.
fn behind(numa: &Numa) -> Vec<Vec<u32>> {
    numa.0.iter().map(|node| node.host_nodes.clone()).collect()
}

fn sizes(numa: &Numa) -> Vec<u32> {
    numa.0.iter().map(|node| node.memory_mib).collect()
}

#[test]
fn each_node_of_the_host_is_one_of_the_guest() {
    let numa = plan(&host(TWO), WISH).unwrap();
    assert_eq!((behind(&numa), sizes(&numa)), (vec![vec![0], vec![1]], vec![512, 512]));
    assert_eq!(
        (numa.0[0].host_cpus.as_slice(), numa.0[1].host_cpus.as_slice()),
        (&[0, 1, 2, 3][..], &[4, 5, 6, 7][..])
    );
    assert_eq!(
        (numa.0[0].distances.as_slice(), numa.0[1].distances.as_slice()),
        (&[10, 21][..], &[21, 10][..])
    );
}

#[test]
fn the_hosts_numbers_may_have_holes() {
    let holes: &[Node] = &[(0, "0-1", 8, "10 16 32"), (4, "2-3", 8, "16 10 32"), (9, "4-5", 8, "32 32 10")];
    let numa = plan(&host(holes), WISH).unwrap();
    assert_eq!(behind(&numa), [[0], [4], [9]]);
    assert_eq!(numa.0[1].distances, [16, 10, 32]);
}

#[test]
fn virtual_cpus_take_turns_and_nodes_of_memory_only_have_none() {
    let nodes: &[Node] = &[(0, "0-1", 8, "10 20 40"), (1, "2-3", 8, "20 10 40"), (2, "", 8, "40 40 10")];
    let numa = plan(&host(nodes), WISH).unwrap();
    assert_eq!(behind(&numa), [[0], [1], [2]]);
    assert!(numa.0[2].host_cpus.is_empty());
    assert_eq!((0..5).map(|vcpu| numa.of_vcpu(vcpu)).collect::<Vec<_>>(), [0, 1, 0, 1, 0]);
}

#[test]
fn memory_alone_takes_the_virtual_cpus_if_there_is_nothing_else() {
    let nodes: &[Node] = &[(0, "0-1", 8, "10 20"), (1, "", 8, "20 10")];
    let numa = plan(&host(nodes), Wish { mapping: &mapping(&[&[1]]), ..WISH }).unwrap();
    assert_eq!((behind(&numa), numa.of_vcpu(3)), (vec![vec![1]], 0));
}

#[test]
fn what_the_pods_cgroup_does_not_allow_is_left_out() {
    assert_eq!(behind(&plan(&allowing(TWO, "1", "0-7"), WISH).unwrap()), [[1]]);
    let numa = plan(&allowing(TWO, "0-1", "1,2"), WISH).unwrap();
    assert_eq!((behind(&numa), numa.0[0].host_cpus.as_slice()), (vec![vec![0]], &[1, 2][..]));
    let error = plan(&allowing(TWO, "1", "1,2"), WISH).unwrap_err();
    assert!(error.to_string().contains("memory of the nodes 1 and the CPUs 1-2"), "{error}");
}

#[test]
fn cpus_without_memory_are_of_the_nearest_node() {
    let nodes: &[Node] = &[(0, "0", 8, "10 30 12"), (1, "1", 8, "30 10 40"), (2, "2", 0, "12 40 10")];
    let numa = plan(&host(nodes), WISH).unwrap();
    assert_eq!((behind(&numa), numa.0[0].host_cpus.as_slice()), (vec![vec![0], vec![1]], &[0, 2][..]));
}

#[test]
fn a_vm_that_is_too_small_to_be_divided_has_neighbours_joined() {
    let four: &[Node] = &[
        (0, "0", 8, "10 12 32 32"),
        (1, "1", 8, "12 10 32 32"),
        (2, "2", 8, "32 32 10 12"),
        (3, "3", 8, "32 32 12 10"),
    ];
    let small = |vcpus, memory_mib| {
        let numa = plan(&host(four), Wish { vcpus, memory_mib, ..WISH }).unwrap();
        (behind(&numa), sizes(&numa))
    };
    assert_eq!(small(2, 1024), (vec![vec![0, 1], vec![2, 3]], vec![512, 512]));
    assert_eq!(small(1, 1024), (vec![vec![0, 1, 2, 3]], vec![1024]));
    assert_eq!(small(8, 130), (vec![vec![0, 1], vec![2, 3]], vec![64, 66]), "64 MiB each");
}

#[test]
fn a_mapping_joins_nodes_and_leaves_others_out() {
    let three: &[Node] = &[(0, "0", 8, "10 15 30"), (1, "1", 8, "15 10 25"), (2, "2", 8, "30 25 10")];
    let numa = plan(&host(three), Wish { mapping: &mapping(&[&[0, 1], &[2]]), ..WISH }).unwrap();
    assert_eq!(behind(&numa), vec![vec![0, 1], vec![2]]);
    assert_eq!(numa.0[0].distances, [10, 25], "the shortest way");
    let numa = plan(&host(three), Wish { mapping: &mapping(&[&[2]]), ..WISH }).unwrap();
    assert_eq!((behind(&numa), sizes(&numa)), (vec![vec![2]], vec![1024]));
}

#[test]
fn memory_is_divided_in_whole_huge_pages() {
    let numa = plan(&host(TWO), Wish { memory_mib: 3072, page_mib: 1024, ..WISH }).unwrap();
    assert_eq!(sizes(&numa), [2048, 1024]);
    assert_eq!(sizes(&plan(&host(TWO), Wish { memory_mib: 365, ..WISH }).unwrap()), [184, 181]);
}

/// Why a mapping of these nodes fails for a VM.
fn refused(nodes: &Host, groups: &[&[u32]], wish: Wish<'_>) -> NumaError {
    plan(nodes, Wish { mapping: &mapping(groups), ..wish }).unwrap_err()
}

#[test]
fn a_node_that_the_host_has_not_is_named() {
    let error = refused(&host(TWO), &[&[0], &[2]], WISH);
    assert_eq!(error, NumaError::Unknown { node: 2, online: "0-1".to_owned() });
}

#[test]
fn a_node_that_the_pod_may_not_use_is_named() {
    let error = refused(&allowing(TWO, "0", "0-7"), &[&[0, 1]], WISH);
    assert_eq!(error, NumaError::NotAllowed { node: 1, allowed: "0".to_owned() });
}

#[test]
fn an_entry_needs_memory() {
    let nodes: &[Node] = &[(0, "0", 8, "10 20"), (1, "1", 0, "20 10")];
    assert_eq!(refused(&host(nodes), &[&[1]], WISH), NumaError::NoMemory { nodes: "1".to_owned() });
}

#[test]
fn a_mapping_must_not_make_more_nodes_than_the_vm_can_be_divided_into() {
    let groups: &[&[u32]] = &[&[0], &[1]];
    let few = Wish { max_vcpus: 1, vcpus: 1, ..WISH };
    assert_eq!(refused(&host(TWO), groups, few), NumaError::TooFewCpus { nodes: 2, vcpus: 1 });
    let little = Wish { memory_mib: 120, ..WISH };
    assert_eq!(
        refused(&host(TWO), groups, little),
        NumaError::TooLittleMemory { mib: 120, nodes: 2, least: 64 }
    );
    let pages = Wish { memory_mib: 1024, page_mib: 1024, ..WISH };
    assert_eq!(
        refused(&host(TWO), groups, pages),
        NumaError::TooLittleMemory { mib: 1024, nodes: 2, least: 1024 }
    );
    let later = Wish { vcpus: 1, max_vcpus: 2, mapping: &mapping(groups), ..WISH };
    assert_eq!(behind(&plan(&host(TWO), later).unwrap()), [[0], [1]], "the other has its CPU later");
}

#[test]
fn a_guest_has_at_most_eight_nodes() {
    let cpus = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let ten: Vec<Node> = (0..10).zip(cpus).map(|(node, cpu)| (node, cpu, 8, "")).collect();
    let groups: Vec<_> = (0..10).map(|node| [node]).collect();
    let groups: Vec<&[u32]> = groups.iter().map(|group| &group[..]).collect();
    let many = Wish { vcpus: 16, max_vcpus: 16, ..WISH };
    assert_eq!(refused(&host(&ten), &groups, many), NumaError::TooMany { nodes: 10 });
    let numa = plan(&host(&ten), many).unwrap();
    assert_eq!((numa.0.len(), numa.0.iter().map(|node| node.host_nodes.len()).sum::<usize>()), (8, 10));
    assert_eq!(numa.0[0].distances[1], 20, "the kernel told none");
}

#[test]
fn a_kernel_without_nodes_is_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let error = Host::read_at(dir.path(), dir.path()).unwrap_err();
    assert!(error.to_string().contains("enable_numa = false"), "{error}");
}

#[test]
fn memory_that_comes_later_is_divided_evenly_and_what_is_left_over_is_of_the_first() {
    let numa = plan(&host(TWO), WISH).unwrap();
    assert_eq!((numa.share(5, 0), numa.share(5, 1)), (3, 2));
    assert_eq!((Numa::default().share(5, 0), Numa::default().numbers()), (5, 0..1));
}

#[test]
fn this_host_has_a_node() {
    if !std::path::Path::new("/sys/devices/system/node").exists() {
        eprintln!("skipped: this kernel has no NUMA nodes");
        return;
    }
    let numa = plan(&Host::read().unwrap(), Wish { vcpus: 1, ..WISH }).unwrap();
    assert_eq!((numa.0.len(), sizes(&numa)), (1, vec![1024]));
}
