//! NUMA nodes of the guest: command lines, and real QEMU processes with two nodes of the one that every host has.

use serde_json::{Value, json};

use super::{PATIENCE, plan, real, rendered};
use crate::numa::{Numa, NumaNode};
use crate::plan::{Accelerator, MemoryHotplug, VmPlan};
use crate::qemu::launch;
use crate::qemu::qmp::{HotpluggableCpu, MemoryDevice, QueryHotpluggableCpus, QueryMemoryDevices};
use crate::vmm::{Affinity, Resize, Vmm, VmmError};

fn node(host_node: u32, host_cpus: &[u32], distances: [u8; 2]) -> NumaNode {
    NumaNode {
        memory_mib: 128,
        host_nodes: vec![host_node],
        host_cpus: host_cpus.to_vec(),
        distances: distances.into(),
    }
}

/// 256 MiB, of which each node has a half.
fn divided(mut plan: VmPlan, host_nodes: [u32; 2]) -> VmPlan {
    plan.numa = Numa(vec![node(host_nodes[0], &[0], [10, 21]), node(host_nodes[1], &[0], [21, 10])]);
    plan
}

#[test]
fn each_node_has_memory_of_the_hosts_and_every_other_virtual_cpu() {
    let mut plan = divided(plan(Accelerator::Kvm), [0, 3]);
    plan.max_vcpus = 3;
    let text = rendered(plan);
    let about = |line: &&str| ["-numa", "-object {", "-m "].iter().any(|option| line.starts_with(option));
    assert_eq!(
        text.lines().filter(about).collect::<Vec<_>>().join("\n"),
        "-m 256M\n\
         -object {\"host-nodes\":[0],\"id\":\"mem0\",\"policy\":\"bind\",\"qom-type\":\"memory-backend-ram\",\"size\":134217728}\n\
         -object {\"host-nodes\":[3],\"id\":\"mem1\",\"policy\":\"bind\",\"qom-type\":\"memory-backend-ram\",\"size\":134217728}\n\
         -numa node,nodeid=0,memdev=mem0\n\
         -numa node,nodeid=1,memdev=mem1\n\
         -numa cpu,node-id=0,socket-id=0\n\
         -numa cpu,node-id=1,socket-id=1\n\
         -numa cpu,node-id=0,socket-id=2\n\
         -numa dist,src=0,dst=1,val=21\n\
         -numa dist,src=1,dst=0,val=21"
    );
    assert!(!text.contains("memory-backend=mem0"), "{text}");
}

#[test]
fn a_guest_without_nodes_is_told_of_none() {
    assert!(!rendered(plan(Accelerator::Kvm)).contains("-numa"));
}

/// Of each node, in MiB: what the guest shall use, or what there is.
async fn added(vm: &crate::qemu::Qemu) -> [u64; 2] {
    let devices = vm.client().await.unwrap().execute(QueryMemoryDevices {}).await.unwrap();
    let mut sizes = [0, 0];
    for device in devices {
        match device {
            MemoryDevice::VirtioMem(memory) => {
                let node = usize::from(memory.id.unwrap().ends_with('1'));
                sizes[node] += memory.requested_size >> 20;
            }
            MemoryDevice::Dimm(module) => sizes[usize::try_from(module.node).unwrap()] += module.size >> 20,
            _ => {}
        }
    }
    sizes
}

/// A real QEMU whose guest takes nothing, with up to 1 GiB.
async fn growing(dir: &tempfile::TempDir, hotplug: MemoryHotplug) -> Option<crate::qemu::Qemu> {
    let mut plan = divided(real(dir)?, [0, 0]);
    (plan.max_memory_mib, plan.memory_hotplug, plan.hotplug_ports) = (1024, hotplug, 2);
    Some(launch(plan).await.unwrap())
}

#[tokio::test]
async fn nodes_grow_and_shrink_evenly_by_devices_in_one_port() {
    let dir = tempfile::tempdir().unwrap();
    let Some(vm) = growing(&dir, MemoryHotplug::VirtioMem).await else { return };
    assert_eq!(vm.request_memory(640).await.unwrap(), 640);
    assert_eq!(added(&vm).await, [256, 128]);
    assert_eq!(vm.request_memory(1024).await.unwrap(), 1024);
    assert_eq!(added(&vm).await, [384, 384]);
    assert_eq!(vm.request_memory(384).await.unwrap(), 384);
    assert_eq!(added(&vm).await, [128, 0]);
    assert_eq!(vm.request_memory(256).await.unwrap(), 256);
    assert_eq!(vm.memory_settled(PATIENCE).await.unwrap(), 256);
    vm.kill().await;
}

#[tokio::test]
async fn nodes_grow_evenly_by_modules() {
    let dir = tempfile::tempdir().unwrap();
    let Some(vm) = growing(&dir, MemoryHotplug::Dimm { slots: 3 }).await else { return };
    assert_eq!(vm.request_memory(640).await.unwrap(), 640);
    assert_eq!(added(&vm).await, [256, 128]);
    assert_eq!(vm.request_memory(768).await.unwrap(), 768);
    assert_eq!(added(&vm).await, [256, 256]);
    let full = vm.request_memory(1024).await.unwrap_err();
    assert!(matches!(full, VmmError::NoMemorySlot { slots: 3 }), "{full}");
    assert_eq!(added(&vm).await, [256, 256]);
    vm.kill().await;
}

#[tokio::test]
async fn a_vm_that_could_not_grow_may_later() {
    let dir = tempfile::tempdir().unwrap();
    let Some(vm) = growing(&dir, MemoryHotplug::VirtioMem).await else { return };
    let client = vm.client().await.unwrap();
    // In the way of the first node's, which is the last to come.
    let taken = json!({ "qom-type": "memory-backend-ram", "id": "memory0-ram", "size": 4096 });
    let Value::Object(taken) = taken else { unreachable!() };
    client.execute(crate::qemu::qmp::ObjectAdd(taken)).await.unwrap();
    vm.request_memory(640).await.unwrap_err();
    assert_eq!(vm.request_memory(256).await.unwrap(), 256);
    assert_eq!(added(&vm).await, [0, 0]);
    client.execute(crate::qemu::qmp::ObjectDel { id: "memory0-ram".to_owned() }).await.unwrap();
    assert_eq!(vm.request_memory(640).await.unwrap(), 640);
    assert_eq!(added(&vm).await, [256, 128]);
    vm.kill().await;
}

/// Those with KVM are plugged in with what QEMU says here.
#[tokio::test]
async fn qemu_names_the_node_of_each_virtual_cpu() {
    let dir = tempfile::tempdir().unwrap();
    let Some(plan) = real(&dir) else { return };
    let vm = launch(divided(plan, [0, 0])).await.unwrap();
    let cpus = vm.client().await.unwrap().execute(QueryHotpluggableCpus {}).await.unwrap();
    let of = |cpu: &HotpluggableCpu| (cpu.props["socket-id"].as_u64(), cpu.props["node-id"].as_u64());
    let mut nodes: Vec<_> = cpus.iter().map(of).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, [(Some(0), Some(0)), (Some(1), Some(1))]);
    vm.kill().await;
}

/// How many mappings of a process are bound to the first node of the host.
fn bound(pid: u32) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/numa_maps")).unwrap();
    maps.lines().filter(|line| line.split(' ').nth(1) == Some("bind:0")).count()
}

#[tokio::test]
async fn memory_of_the_boot_and_what_is_added_is_bound_to_the_hosts_nodes() {
    let dir = tempfile::tempdir().unwrap();
    let Some(vm) = growing(&dir, MemoryHotplug::VirtioMem).await else { return };
    vm.ready().await.unwrap();
    assert_eq!(bound(vm.pid()), 2);
    vm.request_memory(640).await.unwrap();
    assert_eq!(bound(vm.pid()), 4);
    vm.kill().await;
}

#[tokio::test]
async fn virtual_cpus_run_on_the_cpus_of_their_node_unless_they_are_pinned() {
    let dir = tempfile::tempdir().unwrap();
    let Some(plan) = real(&dir) else { return };
    let mut plan = divided(plan, [0, 0]);
    plan.max_vcpus = 1;
    let vm = launch(plan).await.unwrap();
    vm.ready().await.unwrap();
    let before = super::pinning::allowed(vm.pid(), "CPU 0/");
    assert!(vm.has_nodes());
    vm.place_on_nodes().await.unwrap();
    assert_eq!(super::pinning::allowed(vm.pid(), "CPU 0/"), "0");
    if before == "0" {
        eprintln!("the rest is skipped: there is one CPU");
        return;
    }
    assert!(vm.set_affinity(&Affinity { cpus: vec![1], each: Some(1) }).await.unwrap());
    vm.place_on_nodes().await.unwrap();
    assert_eq!(super::pinning::allowed(vm.pid(), "CPU 0/"), "1", "pinning says better");
    assert!(!vm.set_affinity(&Affinity { cpus: Vec::new(), each: Some(1) }).await.unwrap());
    assert_eq!(super::pinning::allowed(vm.pid(), "CPU 0/"), "0");
    vm.kill().await;
}
