//! What a sandbox tells of itself, in each state.

use crate::command::Stdio;
use crate::inspection::SandboxStatus;

use super::{Scene, cid, container, eid, exec, fake_host};

#[tokio::test]
async fn a_running_sandbox_tells_of_its_containers_and_their_processes() {
    let mut scene = Scene::running().await;
    scene.sandbox.exec(&cid("c"), exec("e", Stdio::default())).await.unwrap();
    scene.sandbox.start_exec(&cid("c"), &eid("e")).await.unwrap();
    scene.agent.exit("c/e", 7);
    assert_eq!(scene.exit_of("c", Some("e")).await, 7);
    scene.sandbox.create(container("d")).await.unwrap();
    let seen = scene.sandbox.inspect().await.unwrap();
    assert_eq!((seen.id.as_str(), seen.status, seen.pid), ("s", SandboxStatus::Running, fake_host::PID));
    let size = seen.size.as_ref().expect("it is known from the start");
    assert_eq!((size.boot.size.to_string().as_str(), size.most.vcpus), ("1 vCPU, 256 MiB", 4));
    let told =
        |index: usize| (seen.containers[index].id.as_str(), seen.containers[index].process.status.as_str());
    assert_eq!([told(0), told(1)], [("c", "running"), ("d", "created")], "by age");
    assert_eq!(seen.containers[0].bundle, std::path::Path::new("/bundle"));
    assert!(seen.containers[0].created_ns > 0 && seen.containers[0].process.exit_status.is_none());
    let exec = &seen.containers[0].execs[0];
    assert_eq!((exec.id.as_str(), exec.process.exit_status), ("e", Some(7)));
}

#[tokio::test]
async fn one_whose_vm_has_died_still_answers_and_says_why() {
    let scene = Scene::running().await;
    scene.sandbox.shutdown().await.unwrap();
    let seen = scene.sandbox.inspect().await.unwrap();
    assert_eq!((seen.status, seen.reason.as_deref()), (SandboxStatus::Stopped, Some("it is shut down")));
    assert_eq!(
        (seen.containers[0].process.status.as_str(), seen.containers[0].process.exit_status),
        ("stopped", Some(137))
    );
}
