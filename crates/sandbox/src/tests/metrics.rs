//! What can be measured of a sandbox.

use std::time::Duration;

use super::fake_host::{DAEMON_PID, PID};
use super::{Flaw, PATIENCE, Scene, cid, container};
use crate::command::{GuestMetrics, GuestUse, Parts};
use crate::error::ErrorKind;

fn counted(scene: &Scene) -> Vec<&'static str> {
    scene.sandbox.downgrade().requests().each().map(|(name, _)| name).collect()
}

#[tokio::test]
async fn a_sandbox_has_its_vmm_its_daemon_and_what_runs() {
    let mut scene = Scene::running().await;
    scene.sandbox.create(container("made")).await.unwrap();
    let parts = Parts { vmm: Some(PID), daemon: Some(DAEMON_PID), containers: vec![cid("c")] };
    assert_eq!(scene.sandbox.parts().await.unwrap(), parts);
    scene.agent.exit("c", 0);
    scene.exit_of("c", None).await;
    assert!(scene.sandbox.parts().await.unwrap().containers.is_empty());
}

#[tokio::test]
async fn the_guest_tells_its_figures_and_what_its_containers_use() {
    let scene = Scene::running().await;
    let told = scene.sandbox.guest_metrics(vec!["kata_guest".into()], PATIENCE).await.unwrap();
    let containers = Some(GuestUse { cpu: Duration::from_micros(7), memory_bytes: 4096 });
    assert_eq!(told, GuestMetrics { text: "kata_guest".into(), containers });
}

#[tokio::test]
async fn another_agent_does_not_say_what_its_containers_use() {
    let scene = Scene::with(&[Flaw::Foreign]);
    scene.sandbox.create(container("c")).await.unwrap();
    let told = scene.sandbox.guest_metrics(Vec::new(), PATIENCE).await.unwrap();
    assert_eq!(told, GuestMetrics { text: "upstream's".into(), containers: None });
}

#[tokio::test]
async fn an_agent_that_does_not_answer_is_waited_for_as_long_as_it_was_said() {
    let scene = Scene::with(&[Flaw::Mute]);
    scene.sandbox.create(container("c")).await.unwrap();
    let patience = Duration::from_millis(50);
    let error = scene.sandbox.guest_metrics(Vec::new(), patience).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert_eq!(scene.sandbox.parts().await.unwrap().vmm, Some(PID), "others are answered");
}

#[tokio::test]
async fn a_dead_vm_has_no_figures_and_no_processes() {
    let scene = Scene::running().await;
    scene.host.levers.die(1);
    scene.sandbox.wait(&cid("c"), None).await.unwrap();
    assert_eq!(scene.sandbox.parts().await.unwrap(), Parts::default());
    let error = scene.sandbox.guest_metrics(Vec::new(), PATIENCE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn each_request_to_the_agent_is_counted_once_by_upstreams_name() {
    let scene = Scene::running().await;
    let before = counted(&scene);
    assert!(before.contains(&"grpc.CreateSandboxRequest") && before.contains(&"grpc.StartContainerRequest"));
    assert!(!before.contains(&"grpc.PauseContainerRequest"));
    scene.sandbox.pause(&cid("c")).await.unwrap();
    assert!(counted(&scene).contains(&"grpc.PauseContainerRequest"));
}
