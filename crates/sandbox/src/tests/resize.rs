//! The VM's size follows its containers' limits.

use oci_spec::runtime::{LinuxCpuBuilder, LinuxMemoryBuilder, LinuxResources, LinuxResourcesBuilder};

use super::{Scene, cid, container};
use crate::sizing::Size;

/// So many CPUs and MiB.
fn limits(cpus: i64, mib: i64) -> LinuxResources {
    let cpu = LinuxCpuBuilder::default().quota(cpus * 100_000).period(100_000_u64).build().unwrap();
    let memory = LinuxMemoryBuilder::default().limit(mib << 20).build().unwrap();
    LinuxResourcesBuilder::default().cpu(cpu).memory(memory).build().unwrap()
}

/// A sandbox, whose guest's kernel keeps a 32nd of its memory, and whose VM can have 4 CPUs and 4 GiB, with the container `c`, running.
async fn growing() -> Scene {
    let scene = Scene::new();
    *scene.host.levers.most.lock().unwrap() = Size { vcpus: 4, memory_mib: 4096 };
    scene.sandbox.create(container("c")).await.unwrap();
    scene.sandbox.start(&cid("c")).await.unwrap();
    scene
}

/// What was asked for about sizes, once that is so much.
async fn sizes(scene: &Scene, count: usize) -> Vec<String> {
    let is_size =
        |asked: &String| ["vCPUs", "memory", "Resources", "Update"].iter().any(|w| asked.starts_with(w));
    loop {
        let asked: Vec<_> = scene.agent.asked().into_iter().filter(is_size).collect();
        if asked.len() >= count {
            return asked;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_vm_grows_before_the_container() {
    let scene = growing().await;
    scene.sandbox.update(&cid("c"), limits(2, 1024)).await.unwrap();
    assert_eq!(sizes(&scene, 4).await, ["vCPUs 2", "memory 1058", "Resources 2 1058", "Update c pids 0"]);
}

#[tokio::test]
async fn the_vm_gives_back_after_the_container() {
    let scene = growing().await;
    scene.sandbox.update(&cid("c"), limits(2, 1024)).await.unwrap();
    scene.sandbox.update(&cid("c"), limits(1, 512)).await.unwrap();
    let asked = sizes(&scene, 8).await;
    assert_eq!(asked[4..], ["Update c pids 0", "Resources 1 0", "vCPUs 1", "memory 529"]);
}

#[tokio::test]
async fn limits_that_fit_the_vm_leave_it_alone() {
    let scene = growing().await;
    scene.sandbox.update(&cid("c"), limits(1, 128)).await.unwrap();
    assert_eq!(sizes(&scene, 1).await, ["Update c pids 0"]);
}

#[tokio::test]
async fn a_vm_that_cannot_grow_is_not_asked_to() {
    let scene = Scene::running().await;
    scene.sandbox.update(&cid("c"), limits(2, 1024)).await.unwrap();
    assert_eq!(sizes(&scene, 1).await, ["Update c pids 0"]);
}

#[tokio::test]
async fn a_container_keeps_its_limits_if_the_vm_does_not_grow() {
    let scene = growing().await;
    *scene.agent.refusals.lock().unwrap() = 1;
    let error = scene.sandbox.update(&cid("c"), limits(2, 128)).await.unwrap_err();
    assert!(error.to_string().contains("use its new CPUs and memory: No CPU came"), "{error}");
    assert_eq!(sizes(&scene, 4).await, ["vCPUs 2", "Resources 2 256", "Resources 1 0", "vCPUs 1"]);
    // It counts as before.
    scene.sandbox.update(&cid("c"), LinuxResources::default()).await.unwrap();
    assert_eq!(sizes(&scene, 5).await[4..], ["Update c pids 0"]);
}

#[tokio::test]
async fn a_later_container_adds_to_what_the_vm_has_until_it_is_deleted() {
    let scene = growing().await;
    scene.sandbox.update(&cid("c"), limits(1, 512)).await.unwrap();
    let mut later = container("d");
    let mut linux = oci_spec::runtime::Linux::default();
    linux.set_resources(Some(limits(1, 512)));
    later.spec.set_linux(Some(linux));
    scene.sandbox.create(later).await.unwrap();
    assert_eq!(sizes(&scene, 6).await[3..], ["vCPUs 2", "memory 1058", "Resources 2 1058"]);
    scene.sandbox.delete(&cid("d"), None).await.unwrap();
    assert_eq!(sizes(&scene, 9).await[6..], ["Resources 1 0", "vCPUs 1", "memory 529"]);
}

/// Seen in memory modules: a VM that had less than it was last given was not asked to grow, and its container died.
#[tokio::test]
async fn a_vm_grows_again_from_what_its_guest_kept_of_its_memory() {
    let scene = growing().await;
    scene.sandbox.update(&cid("c"), limits(1, 2048)).await.unwrap();
    *scene.host.levers.kept.lock().unwrap() = Size { vcpus: 0, memory_mib: 1024 };
    scene.sandbox.update(&cid("c"), limits(1, 128)).await.unwrap();
    assert_eq!(sizes(&scene, 5).await[4..], ["memory 256"]);
    scene.sandbox.update(&cid("c"), limits(1, 2048)).await.unwrap();
    assert_eq!(sizes(&scene, 8).await[5..], ["memory 2115", "Resources 1 2115", "Update c pids 0"]);
}

#[tokio::test]
async fn a_cpu_that_stays_in_the_vm_is_switched_on_again_and_keeps_no_memory() {
    let scene = growing().await;
    scene.sandbox.update(&cid("c"), limits(2, 1024)).await.unwrap();
    *scene.host.levers.kept.lock().unwrap() = Size { vcpus: 2, memory_mib: 0 };
    scene.sandbox.update(&cid("c"), limits(1, 512)).await.unwrap();
    assert_eq!(sizes(&scene, 8).await[5..], ["Resources 1 0", "vCPUs 1", "memory 529"]);
    scene.sandbox.update(&cid("c"), limits(2, 512)).await.unwrap();
    assert_eq!(sizes(&scene, 11).await[8..], ["vCPUs 2", "Resources 2 529", "Update c pids 0"]);
}

#[tokio::test]
async fn a_growth_that_was_not_undone_is_made_anew() {
    let scene = growing().await;
    *scene.agent.refusals.lock().unwrap() = 3;
    scene.sandbox.update(&cid("c"), limits(2, 1024)).await.unwrap_err();
    // Back, and once more as the VM is to fit its containers.
    let asked = sizes(&scene, 5).await;
    assert_eq!(asked[..5], ["vCPUs 2", "memory 1058", "Resources 2 1058", "Resources 1 0", "memory 256"]);
    scene.sandbox.update(&cid("c"), limits(2, 1024)).await.unwrap();
    let asked = scene.agent.asked();
    assert!(asked.ends_with(&["Resources 2 1058".into(), "Update c pids 0".into()]), "{asked:?}");
}
