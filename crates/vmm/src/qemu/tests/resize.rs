//! CPUs and memory that come later: command lines, and real QEMU processes whose guest takes nothing.

use std::time::Duration;

use super::{PATIENCE, by_daemon, command_line, config, plan, real, rendered};
use crate::plan::{Accelerator, MemoryHotplug, VmPlan};
use crate::qemu::CommandLineError;
use crate::qemu::launch;
use crate::vmm::{Resize, Vmm, VmmError};

const MODULES: MemoryHotplug = MemoryHotplug::Dimm { slots: 2 };

/// The line of an option.
fn option(plan: VmPlan, name: &str) -> String {
    let text = rendered(plan);
    text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned()
}

fn growing(accelerator: Accelerator, hotplug: MemoryHotplug) -> VmPlan {
    let mut plan = plan(accelerator);
    (plan.max_memory_mib, plan.memory_hotplug, plan.hotplug_ports) = (1024, hotplug, 2);
    plan
}

#[test]
fn cpus_that_come_later_are_there_from_the_start_under_emulation_only() {
    assert!(option(plan(Accelerator::Tcg), "-smp ").starts_with("-smp 2,sockets=2,"));
    assert!(option(plan(Accelerator::Kvm), "-smp ").starts_with("-smp 1,sockets=2,"));
    let is_told = |accelerator| config::kernel_command_line(&plan(accelerator)).contains(" maxcpus=1");
    assert!(is_told(Accelerator::Tcg) && !is_told(Accelerator::Kvm));
}

#[test]
fn memory_that_comes_later_has_its_place() {
    assert_eq!(option(plan(Accelerator::Kvm), "-m "), "-m 256M");
    let virtio_mem = growing(Accelerator::Kvm, MemoryHotplug::VirtioMem);
    assert_eq!(option(virtio_mem, "-m "), "-m 256M,maxmem=1024M");
    assert_eq!(option(growing(Accelerator::Kvm, MODULES), "-m "), "-m 256M,maxmem=1024M,slots=2");
}

#[test]
fn only_a_guest_that_may_grow_is_told_where_new_memory_belongs() {
    let is_told = |plan: &VmPlan| config::kernel_command_line(plan).contains("memory_hotplug.");
    assert!(is_told(&growing(Accelerator::Kvm, MODULES)));
    assert!(!is_told(&plan(Accelerator::Kvm)));
    // Less than a memory block of the guest.
    let mut little = growing(Accelerator::Kvm, MODULES);
    little.max_memory_mib = 300;
    assert!(!is_told(&little));
}

#[test]
fn less_memory_ever_than_at_boot_is_refused() {
    let mut plan = growing(Accelerator::Kvm, MODULES);
    plan.max_memory_mib = 128;
    let refused = command_line(plan).unwrap_err();
    assert_eq!(refused, CommandLineError::MemoryLimit { mib: 256, max: 128 });
}

#[tokio::test]
async fn a_guest_that_takes_no_memory_is_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut plan) = real(&dir) else { return };
    (plan.max_memory_mib, plan.hotplug_ports) = (1024, 2);
    let vm = launch(plan).await.unwrap();
    assert_eq!(vm.memory_settled(PATIENCE).await.unwrap(), 256);
    // In whole blocks.
    assert_eq!(vm.request_memory(300).await.unwrap(), 384);
    let kept = vm.memory_settled(Duration::from_millis(10)).await.unwrap_err();
    assert!(matches!(kept, VmmError::MemoryKept { present: 256, wanted: 384, .. }), "{kept}");
    // The device stays, and has nothing to give.
    assert_eq!(vm.request_memory(256).await.unwrap(), 256);
    assert_eq!(vm.memory_settled(PATIENCE).await.unwrap(), 256);
    let refused = vm.request_memory(1025).await.unwrap_err();
    assert!(matches!(refused, VmmError::MemorySize { mib: 1025, min: 256, max: 1024 }), "{refused}");
    vm.kill().await;
}

/// The others map it: QEMU would not tell them of memory that they cannot.
#[tokio::test]
async fn memory_that_is_shared_stays_so() {
    let mut plan = growing(Accelerator::Tcg, MODULES);
    plan.shares.push(by_daemon("x", 64));
    assert!(super::super::resize::Limits::of(&plan).is_shared);
}

#[tokio::test]
async fn modules_are_added_until_no_slot_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut plan) = real(&dir) else { return };
    (plan.max_memory_mib, plan.memory_hotplug) = (1024, MODULES);
    let vm = launch(plan).await.unwrap();
    assert_eq!(vm.request_memory(300).await.unwrap(), 384);
    assert_eq!(vm.request_memory(384).await.unwrap(), 384);
    assert_eq!(vm.request_memory(512).await.unwrap(), 512);
    assert_eq!(vm.memory_settled(PATIENCE).await.unwrap(), 512);
    let full = vm.request_memory(1024).await.unwrap_err();
    assert!(matches!(full, VmmError::NoMemorySlot { slots: 2 }), "{full}");
    vm.kill().await;
}

/// A growth into the last part of a block was refused by QEMU, and one below a whole block by the plan.
#[tokio::test]
async fn a_guest_has_whole_blocks_at_most() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut plan) = real(&dir) else { return };
    let boot = plan.memory_mib;
    plan.max_memory_mib = boot + 64;
    assert_eq!(plan.most_memory_mib(), boot);
    (plan.max_memory_mib, plan.memory_hotplug) = (boot + 300, MODULES);
    let most = plan.most_memory_mib();
    assert_eq!(most, boot + 256);
    let vm = launch(plan).await.unwrap();
    assert_eq!(vm.request_memory(most).await.unwrap(), most);
    vm.kill().await;
}

#[tokio::test]
async fn memory_needs_a_port_beside_that_of_a_controller_of_disks() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut plan) = real(&dir) else { return };
    (plan.max_memory_mib, plan.hotplug_ports) = (1024, 1);
    let vm = launch(plan).await.unwrap();
    let full = vm.request_memory(512).await.unwrap_err();
    assert!(matches!(full, VmmError::NoMemoryPort { count: 1 }), "{full}");
    vm.kill().await;
}

#[tokio::test]
async fn more_cpus_than_planned_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let Some(plan) = real(&dir) else { return };
    let vm = launch(plan).await.unwrap();
    assert_eq!(vm.set_vcpus(1).await.unwrap(), 2, "under emulation all stay");
    for vcpus in [0, 3] {
        let refused = vm.set_vcpus(vcpus).await.unwrap_err();
        assert!(matches!(refused, VmmError::Vcpus { max: 2, .. }), "{refused}");
    }
    vm.kill().await;
}
