//! What memory is made of: real QEMU processes.

use super::{PATIENCE, plan, real};
use crate::backing::{BackingError, MemoryBacking, MemoryPages};
use crate::plan::{Accelerator, MemoryHotplug, VmPlan};
use crate::qemu::launch;
use crate::vmm::{Resize, Vmm, VmmError};

/// The sizes in KiB of the files without a name in `/dev/shm` that a process maps.
fn mapped(pid: u32) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let files = maps.lines().filter(|line| line.contains("/dev/shm/") && line.ends_with("(deleted)"));
    let sizes = files.filter_map(|line| {
        let (from, to) = line.split(' ').next()?.split_once('-')?;
        Some(u64::from_str_radix(to, 16).ok()? - u64::from_str_radix(from, 16).ok()?)
    });
    sizes.sum::<u64>() >> 10
}

fn resident_shared_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssShmem:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn in_shm(mut plan: VmPlan, hotplug: MemoryHotplug) -> VmPlan {
    plan.memory_backing =
        MemoryBacking { dir: Some("/dev/shm".into()), prealloc_threads: 2, ..MemoryBacking::default() };
    (plan.memory_mib, plan.max_memory_mib, plan.memory_hotplug) = (128, 512, hotplug);
    plan.hotplug_ports = 2;
    plan
}

#[tokio::test]
async fn memory_in_a_directory_is_all_there_before_the_guest_and_has_no_name() {
    let dir = tempfile::tempdir().unwrap();
    let Some(plan) = real(&dir) else { return };
    let vm = launch(in_shm(plan, MemoryHotplug::VirtioMem)).await.unwrap();
    vm.ready().await.unwrap();
    assert!(resident_shared_kib(vm.pid()) >= 128 << 10);
    assert_eq!(mapped(vm.pid()), 128 << 10);
    vm.kill().await;
}

#[tokio::test]
async fn what_is_added_is_of_the_same_kind() {
    let dir = tempfile::tempdir().unwrap();
    for hotplug in [MemoryHotplug::VirtioMem, MemoryHotplug::Dimm { slots: 1 }] {
        let Some(plan) = real(&dir) else { return };
        let vm = launch(in_shm(plan, hotplug)).await.unwrap();
        vm.request_memory(256).await.unwrap();
        let added = if hotplug == MemoryHotplug::VirtioMem { 384 } else { 128 };
        assert_eq!(mapped(vm.pid()), (128 + added) << 10, "{hotplug:?}");
        assert!(resident_shared_kib(vm.pid()) < 512 << 10);
        vm.shutdown(PATIENCE).await;
    }
}

#[tokio::test]
async fn a_pool_without_enough_pages_is_told_of_before_qemu_starts() {
    let dir = tempfile::tempdir().unwrap();
    let mut plan = VmPlan { console_log: dir.path().join("console"), ..plan(Accelerator::Tcg) };
    (plan.kernel, plan.initrd) = ("/dev/null".into(), "/dev/null".into());
    plan.memory_backing.pages = MemoryPages::Huge { kib: 2048 };
    (plan.memory_mib, plan.max_memory_mib) = (1 << 30, 1 << 30);
    let error = launch(plan).await.unwrap_err();
    assert!(matches!(error, VmmError::Backing(BackingError::TooFew { .. })), "{error}");
}

#[tokio::test]
async fn a_vm_that_no_host_can_give_is_told_of_before_qemu_starts() {
    let dir = tempfile::tempdir().unwrap();
    let mut plan = VmPlan { console_log: dir.path().join("console"), ..plan(Accelerator::Tcg) };
    (plan.kernel, plan.initrd) = ("/dev/null".into(), "/dev/null".into());
    (plan.memory_mib, plan.max_memory_mib) = (1 << 30, 1 << 30);
    let error = launch(plan).await.unwrap_err();
    assert!(matches!(error, VmmError::Backing(BackingError::TooSmallHost { .. })), "{error}");
}

/// Whether the kernel may merge pages of the guest's memory, which is the largest that the process maps.
fn is_mergeable(pid: u32) -> bool {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let memory = smaps.split("\nSize:").filter(|mapping| mapping.trim_start().starts_with("131072 kB"));
    let mut flags = memory.map(|mapping| mapping.lines().find(|line| line.starts_with("VmFlags:")).unwrap());
    let found = flags.next().expect("the guest has memory").contains(" mg ");
    assert_eq!(flags.next(), None, "no other mapping is as large");
    found
}

#[tokio::test]
async fn the_host_may_merge_the_guests_pages_only_if_the_plan_says_so() {
    let dir = tempfile::tempdir().unwrap();
    for wanted in [true, false] {
        let Some(mut plan) = real(&dir) else { return };
        (plan.memory_mib, plan.max_memory_mib) = (128, 128);
        plan.memory_backing.is_mergeable = wanted;
        let vm = launch(plan).await.unwrap();
        vm.ready().await.unwrap();
        assert_eq!(is_mergeable(vm.pid()), wanted);
        vm.kill().await;
    }
}
