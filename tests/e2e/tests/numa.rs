//! NUMA nodes of the guest are the host's: as many as the host has, at least one.

use std::fs;
use std::time::Duration;

use kata_e2e::{Container, Containerd, Recipe, eventually, kata_test};
use serde_json::json;

const MIB: u64 = 1 << 20;
/// Nobody waits for a VM to give back, and no time is promised.
const PATIENCE: Duration = Duration::from_secs(60);
/// MiB that a guest may keep of what was added: a few pages of each node that it could not move.
const LEFT: u64 = 64;
const NODES: &str = "/sys/devices/system/node";

/// The host's first nodes with memory, at most two.
fn nodes() -> Vec<String> {
    let text = fs::read_to_string(format!("{NODES}/has_memory")).expect("the host's kernel has NUMA nodes");
    text.trim().split([',', '-']).take(2).map(str::to_owned).collect()
}

/// A VM of 256 MiB and one CPU, which may have two, with these nodes.
fn configure(containerd: &Containerd, nodes: &[String]) {
    let mapping = format!("{nodes:?}");
    containerd.configure(&[
        ("default_memory", "256"),
        ("default_maxvcpus", "2"),
        ("enable_numa", "true"),
        ("numa_mapping", &mapping),
    ]);
}

/// A container that is to have memory of the host's first node.
fn idle(containerd: &Containerd) -> Recipe<'_> {
    containerd.container().spec(|spec| {
        spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
        spec["linux"]["resources"]["cpu"] = json!({ "mems": "0" });
        let cgroup = json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"] });
        spec["mounts"].as_array_mut().expect("a list").push(cgroup);
    })
}

fn resize(container: &Container<'_>, cpus: u64, mib: u64) {
    let cpu = json!({ "quota": cpus * 100_000, "period": 100_000, "mems": "0" });
    container
        .update(&json!({ "cpu": cpu, "memory": { "limit": mib * MIB } }))
        .expect("the VM can have so much");
}

fn vmm(containerd: &Containerd) -> i32 {
    containerd.processes_of("qemu-system-x86_64").remove(0).pid
}

/// How many pieces of the VMM's memory are of this node alone.
fn bound(containerd: &Containerd, node: &str) -> usize {
    let maps = fs::read_to_string(format!("/proc/{}/numa_maps", vmm(containerd))).expect("it runs");
    maps.lines().filter(|line| line.split(' ').nth(1) == Some(&format!("bind:{node}"))).count()
}

/// The CPUs of the host that the thread of a virtual CPU may run on; none if they take turns, with an older QEMU's emulation.
fn may_run_on(containerd: &Containerd, vcpu: usize) -> Option<String> {
    let threads = fs::read_dir(format!("/proc/{}/task", vmm(containerd))).expect("it runs");
    let mut threads = threads.map(|thread| thread.expect("it runs").path());
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let found = threads.find(|path| read(path.join("comm")).starts_with(&format!("CPU {vcpu}/")))?;
    let status = read(found.join("status"));
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    Some(list.expect("the kernel tells").trim().to_owned())
}

/// Waits until the first virtual CPUs are where their nodes are.
fn await_placed(containerd: &Containerd, nodes: &[String]) {
    for (vcpu, node) in nodes.iter().enumerate() {
        let cpus = fs::read_to_string(format!("{NODES}/node{node}/cpulist")).expect("it has CPUs");
        eventually("a virtual CPU is on its node", PATIENCE, || {
            may_run_on(containerd, vcpu).is_none_or(|allowed| allowed == cpus.trim())
        });
    }
}

/// The MiB of each node of the guest.
fn memory(container: &Container<'_>) -> Vec<u64> {
    let text = container.shell(&format!("sed -n 's/.*MemTotal: *//p' {NODES}/node*/meminfo"));
    text.lines().map(|line| line.trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024).collect()
}

#[test]
fn nodes_of_the_guest_are_on_the_hosts_as_the_vm_grows_and_shrinks() {
    kata_test(|containerd| {
        let nodes = nodes();
        configure(containerd, &nodes);
        let container = idle(containerd).start();
        let at_boot = memory(&container);
        assert_eq!(at_boot.len(), nodes.len());
        for node in &nodes {
            assert_eq!(bound(containerd, node), 1, "node {node}");
        }
        await_placed(containerd, &nodes[..1]);
        resize(&container, 2, 1024);
        await_placed(containerd, &nodes);
        assert_eq!(container.shell("nproc"), "2");
        for (number, node) in nodes.iter().enumerate() {
            assert_eq!(bound(containerd, node), 2, "node {node}");
            let grown = memory(&container)[number] - at_boot[number];
            assert!(grown >= 768 / nodes.len() as u64, "node {number} of the guest has grown by {grown} MiB");
        }
        let last = format!("cat {NODES}/node{}/cpulist", nodes.len() - 1);
        assert_eq!(container.shell(&last), if nodes.len() > 1 { "1" } else { "0-1" });
        assert_eq!(container.shell("cat /sys/fs/cgroup/cpuset.mems"), "", "numbers of the host's");
        resize(&container, 1, 128);
        let has_given_back = |(now, at_boot): (u64, &u64)| now < at_boot + LEFT;
        eventually("all nodes give back", PATIENCE, || {
            memory(&container).into_iter().zip(&at_boot).all(has_given_back)
        });
        container.remove();
    });
}

#[test]
fn a_node_that_the_host_has_not_is_named() {
    kata_test(|containerd| {
        configure(containerd, &["1023".to_owned()]);
        idle(containerd).try_start().fails_because("`numa_mapping` names node 1023 of the host, which has 0");
    });
}
