//! A pod's pause container: told of as under runc, with nothing in the guest.

use oci_spec::runtime::{LinuxResources, Spec};
use serde_json::json;

use super::{Flaw, Scene, cid, container, exec};
use crate::command::{CreateContainer, ProcessStatus, Stdio};
use crate::error::ErrorKind;
use crate::event::Event;

fn pause_with(spec: serde_json::Value) -> CreateContainer {
    let spec: Spec = serde_json::from_value(spec).unwrap();
    CreateContainer { is_pause: true, spec, ..container("pod") }
}

fn pause() -> CreateContainer {
    pause_with(json!({ "ociVersion": "1.1.0" }))
}

/// A pod, running.
async fn running() -> Scene {
    let scene = Scene::new();
    scene.sandbox.create(pause()).await.unwrap();
    scene.sandbox.start(&cid("pod")).await.unwrap();
    scene
}

/// A pod whose VM has died, and with it a container that is not removed yet.
async fn died_beside_another() -> Scene {
    let mut scene = running().await;
    scene.sandbox.create(container("c")).await.unwrap();
    scene.host.levers.die(9);
    assert!(matches!(scene.event().await, Event::VmDied { .. }));
    assert_eq!(scene.exit_of("c", None).await, 137);
    scene
}

async fn status(scene: &Scene) -> ProcessStatus {
    scene.sandbox.state(&cid("pod"), None).await.unwrap().status
}

#[tokio::test]
async fn it_lives_and_leaves_without_the_guest() {
    let mut scene = Scene::new();
    assert_eq!(scene.sandbox.create(pause()).await.unwrap().pid, super::fake_host::PID);
    assert_eq!(status(&scene).await, ProcessStatus::Created);
    assert_eq!(scene.sandbox.start(&cid("pod")).await.unwrap(), super::fake_host::PID);
    assert_eq!(status(&scene).await, ProcessStatus::Running);
    scene.sandbox.create(container("c")).await.unwrap();
    scene.sandbox.kill(&cid("pod"), None, 9, true).await.unwrap();
    assert_eq!(scene.exit_of("pod", None).await, 137);
    assert_eq!(scene.sandbox.wait(&cid("pod"), None).await.unwrap().status, 137);
    let late = scene.sandbox.kill(&cid("pod"), None, 9, false).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::NotFound);
    assert_eq!(scene.sandbox.delete(&cid("pod"), None).await.unwrap().status, 137);
    assert_eq!(scene.agent.asked(), ["StartSandbox  virtio-fs", "CreateContainer c"]);
    assert_eq!(scene.host.asked(), ["boot", "memory pod", "attach c", "detach pod"]);
}

#[tokio::test]
async fn it_heeds_the_signals_that_pause_heeds() {
    let mut scene = running().await;
    scene.sandbox.kill(&cid("pod"), None, 1, false).await.unwrap();
    scene.no_event().await;
    assert_eq!(status(&scene).await, ProcessStatus::Running);
    scene.sandbox.kill(&cid("pod"), None, 15, false).await.unwrap();
    assert_eq!(scene.exit_of("pod", None).await, 0);
}

#[tokio::test]
async fn what_was_never_started_ends_by_being_removed() {
    let mut scene = Scene::new();
    scene.sandbox.create(pause()).await.unwrap();
    assert_eq!(scene.sandbox.delete(&cid("pod"), None).await.unwrap().status, 137);
    assert_eq!(scene.exit_of("pod", None).await, 137);
}

#[tokio::test]
async fn it_dies_with_the_vm() {
    let mut scene = running().await;
    scene.host.levers.die(9);
    assert!(matches!(scene.event().await, Event::VmDied { .. }));
    assert_eq!(scene.exit_of("pod", None).await, 137);
    assert_eq!(scene.sandbox.delete(&cid("pod"), None).await.unwrap().status, 137);
}

/// containerd removed the pod's pause container before it had noted the other one's end, which then was "still running".
#[tokio::test(start_paused = true)]
async fn it_outlives_the_vm_until_the_others_are_removed() {
    let mut scene = died_beside_another().await;
    assert_eq!(status(&scene).await, ProcessStatus::Running);
    scene.sandbox.delete(&cid("c"), None).await.unwrap();
    assert_eq!(scene.exit_of("pod", None).await, 137);
}

#[tokio::test(start_paused = true)]
async fn it_does_not_outlive_the_vm_for_ever() {
    let mut scene = died_beside_another().await;
    assert_eq!(scene.exit_of("pod", None).await, 137);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_it_with_the_others() {
    let scene = died_beside_another().await;
    assert_eq!(status(&scene).await, ProcessStatus::Running);
    scene.sandbox.shutdown().await.unwrap();
    assert_eq!(status(&scene).await, ProcessStatus::Stopped);
}

#[tokio::test]
async fn it_stands_still_and_goes_on() {
    let scene = running().await;
    scene.sandbox.pause(&cid("pod")).await.unwrap();
    assert_eq!(status(&scene).await, ProcessStatus::Paused);
    scene.sandbox.resume(&cid("pod")).await.unwrap();
    assert_eq!(status(&scene).await, ProcessStatus::Running);
}

#[tokio::test]
async fn it_is_the_vmms_process_and_takes_none() {
    let scene = running().await;
    let pod = cid("pod");
    let vmm = crate::PidInfo { pid: super::fake_host::PID, exec: None };
    assert_eq!(scene.sandbox.pids(&pod).await.unwrap(), [vmm], "none would be a leak for containerd 1.7");
    assert_eq!(scene.sandbox.stats(&pod).await.unwrap(), crate::Stats::default());
    let exec = scene.sandbox.exec(&pod, exec("e", Stdio::default())).await.unwrap_err();
    assert_eq!(exec.kind(), ErrorKind::FailedPrecondition);
    assert!(exec.to_string().contains("no processes in the guest"), "{exec}");
    let limits = scene.sandbox.update(&pod, LinuxResources::default()).await.unwrap_err();
    assert!(limits.to_string().starts_with("Cannot update pod"), "{limits}");
    let size = scene.sandbox.resize_pty(&pod, None, 80, 24).await.unwrap_err();
    assert_eq!(size.kind(), ErrorKind::FailedPrecondition);
}

#[tokio::test]
async fn what_the_pod_shares_goes_to_the_guest() {
    let scene = Scene::new();
    let linux = json!({
        "sysctl": { "kernel.shmmni": "7" },
        "namespaces": [{ "type": "ipc" }, { "type": "user" }],
        "uidMappings": [{ "containerID": 0, "hostID": 5, "size": 10 }],
        "maskedPaths": ["/proc/keys"],
    });
    let process = json!({ "args": ["/pause"], "cwd": "/", "user": { "uid": 0, "gid": 0 } });
    let spec = json!({ "ociVersion": "1.1.0", "hostname": "h", "process": process, "linux": linux });
    scene.sandbox.create(pause_with(spec)).await.unwrap();
    let request = scene.agent.sandbox.lock().unwrap().clone();
    let drivers = request.sandbox.storages.iter().map(|storage| storage.driver.as_str());
    assert_eq!(drivers.collect::<Vec<_>>(), ["virtio-fs", "ephemeral"]);
    assert_eq!(request.sandbox.hostname, "h");
    let pod = request.pod.unwrap();
    assert_eq!(pod.Linux.Sysctl["kernel.shmmni"], "7");
    assert_eq!((pod.Linux.Namespaces.len(), pod.Linux.UIDMappings[0].HostID), (2, 5));
    assert!(pod.Process.is_none() && pod.Linux.MaskedPaths.is_empty(), "they are of no process");
}

#[tokio::test]
async fn its_hooks_run_at_their_moments() {
    let scene = Scene::new();
    let log = scene.dir.path().join("hooks");
    let hook = |name: &str| {
        let line = format!("echo {name} >> {}", log.display());
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", line] }])
    };
    let names = ["prestart", "createRuntime", "poststart", "poststop"];
    let hooks: serde_json::Map<_, _> = names.map(|name| (name.to_owned(), hook(name))).into_iter().collect();
    let mut request = pause_with(json!({ "ociVersion": "1.1.0", "hooks": hooks }));
    request.bundle = scene.dir.path().to_owned();
    let ran = |count: usize| {
        let log = std::fs::read_to_string(&log).unwrap();
        assert_eq!(log.lines().collect::<Vec<_>>(), names[..count]);
    };
    scene.sandbox.create(request).await.unwrap();
    ran(2);
    scene.sandbox.start(&cid("pod")).await.unwrap();
    ran(3);
    scene.sandbox.kill(&cid("pod"), None, 9, false).await.unwrap();
    scene.sandbox.delete(&cid("pod"), None).await.unwrap();
    ran(4);
}

#[tokio::test]
async fn a_hook_that_fails_at_its_start_ends_it() {
    let mut scene = Scene::new();
    let hooks = json!({ "poststart": [{ "path": "/bin/false" }] });
    let mut request = pause_with(json!({ "ociVersion": "1.1.0", "hooks": hooks }));
    request.bundle = scene.dir.path().to_owned();
    scene.sandbox.create(request).await.unwrap();
    let error = scene.sandbox.start(&cid("pod")).await.unwrap_err();
    assert!(error.to_string().contains("pod"), "{error}");
    assert_eq!(scene.exit_of("pod", None).await, 137);
}

#[tokio::test]
async fn a_vm_that_does_not_start_is_told_and_everything_undone() {
    let scene = Scene::with(&[Flaw::NoVmm]);
    let error = scene.sandbox.create(pause()).await.unwrap_err();
    assert!(error.to_string().contains("There is no QEMU"), "{error}");
    assert_eq!(scene.host.asked().last().map(String::as_str), Some("undo"));
}

#[tokio::test]
async fn settings_that_a_foreign_agent_cannot_make_are_refused() {
    let scene = Scene::with(&[Flaw::Foreign]);
    let sysctl = json!({ "ociVersion": "1.1.0", "linux": { "sysctl": { "kernel.shmmni": "7" } } });
    let error = scene.sandbox.create(pause_with(sysctl)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unimplemented, "{error}");
    let scene = Scene::with(&[Flaw::Foreign]);
    scene.sandbox.create(pause()).await.unwrap();
    assert_eq!(scene.agent.asked(), ["upstream CreateSandbox"]);
}
