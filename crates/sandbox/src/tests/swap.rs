//! A guest gets its swap before its container runs.

use kata_vmm::DiskAddress;

use super::{Scene, cid, container};
use crate::swap::SwapDisk;

/// A container with a disk to swap to at this address; what the agent was asked for, and what the host was told.
async fn swapping_to(address: DiskAddress) -> (Vec<String>, Vec<String>) {
    let scene = Scene::new();
    *scene.host.swap.lock().unwrap() = Some(SwapDisk { id: "swap-1".into(), address, bytes: 1 << 20 });
    scene.sandbox.create(container("c")).await.unwrap();
    scene.sandbox.start(&cid("c")).await.unwrap();
    let asked = scene.agent.asked().into_iter();
    let asked = asked.filter(|asked| asked.starts_with("Swap") || asked.starts_with("Start c"));
    let told = scene.host.asked().into_iter().filter(|asked| asked.starts_with("swaps"));
    (asked.collect(), told.collect())
}

#[tokio::test]
async fn a_disk_in_a_port_is_told_by_its_slots() {
    let (asked, told) = swapping_to(DiskAddress::Pci("11/00".to_owned())).await;
    assert_eq!(asked.first().map(String::as_str), Some("Swap [17, 0]"), "{asked:?}");
    assert_eq!(told, ["swaps to 11/00"]);
}

#[tokio::test]
async fn a_scsi_disk_is_told_by_its_unit() {
    let (asked, _) = swapping_to(DiskAddress::Scsi { id: 0, lun: 3 }).await;
    assert_eq!(asked.first().map(String::as_str), Some("SwapPath 0:3"), "{asked:?}");
}
