//! Virtual CPUs follow the containers' cpusets.

use oci_spec::runtime::{LinuxCpuBuilder, LinuxResources, LinuxResourcesBuilder};

use super::{Scene, cid, container};
use crate::command::CreateContainer;
use crate::error::ErrorKind;
use crate::sizing::Size;

fn cpus(set: &str) -> LinuxResources {
    let cpu = LinuxCpuBuilder::default().cpus(set).build().unwrap();
    LinuxResourcesBuilder::default().cpu(cpu).build().unwrap()
}

fn on(id: &str, set: &str) -> CreateContainer {
    let mut request = container(id);
    let mut linux = oci_spec::runtime::Linux::default();
    linux.set_resources(Some(cpus(set)));
    request.spec.set_linux(Some(linux));
    request
}

/// What the VMM was last asked for, once that is this.
async fn pinned(scene: &Scene, wish: &str) {
    loop {
        let asked = scene.agent.asked();
        if asked.iter().rfind(|asked| asked.starts_with("Pin")).is_some_and(|asked| asked == wish) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_cpusets_of_all_containers_count() {
    let scene = Scene::new();
    scene.sandbox.create(on("c", "1")).await.unwrap();
    pinned(&scene, "Pin 1 [1]").await;
    scene.sandbox.create(on("d", "0")).await.unwrap();
    pinned(&scene, "Pin 1 [0, 1]").await;
    scene.sandbox.update(&cid("d"), cpus("1")).await.unwrap();
    pinned(&scene, "Pin 1 [1]").await;
    scene.sandbox.update(&cid("d"), cpus("0-2")).await.unwrap();
    pinned(&scene, "Pin 1 [0, 1, 2]").await;
    scene.sandbox.delete(&cid("d"), None).await.unwrap();
    pinned(&scene, "Pin 1 [1]").await;
}

#[tokio::test]
async fn a_vm_whose_containers_name_no_cpus_is_left_alone() {
    let scene = Scene::running().await;
    scene.sandbox.update(&cid("c"), LinuxResources::default()).await.unwrap();
    assert!(!scene.agent.asked().iter().any(|asked| asked.starts_with("Pin")));
}

#[tokio::test]
async fn pinning_follows_a_vm_that_grows_without_a_word_of_cpus() {
    let scene = Scene::new();
    *scene.host.levers.most.lock().unwrap() = Size { vcpus: 4, memory_mib: 4096 };
    scene.sandbox.create(on("c", "0-1")).await.unwrap();
    pinned(&scene, "Pin 1 [0, 1]").await;
    let cpu = LinuxCpuBuilder::default().quota(200_000).period(100_000_u64).build().unwrap();
    let two = LinuxResourcesBuilder::default().cpu(cpu).build().unwrap();
    scene.sandbox.update(&cid("c"), two).await.unwrap();
    pinned(&scene, "Pin 2 [0, 1]").await;
}

#[tokio::test]
async fn cpus_that_the_host_has_not_are_refused_before_anything_changes() {
    let scene = Scene::running().await;
    let before = scene.agent.asked();
    let refused = scene.sandbox.update(&cid("c"), cpus("77")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    assert!(refused.to_string().ends_with("none of this host's CPUs, which are 0-7"), "{refused}");
    let refused = scene.sandbox.create(on("d", "most")).await.unwrap_err();
    assert!(refused.to_string().contains("is no list of CPUs"), "{refused}");
    assert_eq!(scene.agent.asked(), before);
}

/// It took away the sandbox that had begun without a container, and told nobody that the VM was gone.
#[tokio::test]
async fn a_container_that_is_refused_leaves_the_running_sandbox() {
    let scene = Scene::new();
    scene.sandbox.boot(None).await.unwrap();
    scene.sandbox.create(on("c", "77")).await.unwrap_err();
    scene.sandbox.create(on("c", "1")).await.unwrap();
    scene.sandbox.start(&cid("c")).await.unwrap();
}

#[tokio::test]
async fn where_a_vm_could_not_run_it_is_put_when_that_is_asked_for_again() {
    let scene = Scene::new();
    *scene.host.levers.unpinned.lock().unwrap() = 1;
    scene.sandbox.create(on("c", "1")).await.unwrap();
    pinned(&scene, "Pin 1 [1]").await;
    let count = || scene.agent.asked().iter().filter(|asked| asked.starts_with("Pin")).count();
    assert_eq!(count(), 1);
    scene.sandbox.update(&cid("c"), cpus("1")).await.unwrap();
    while count() < 2 {
        tokio::task::yield_now().await;
    }
}
