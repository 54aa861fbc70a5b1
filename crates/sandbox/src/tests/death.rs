//! The VM or its daemon dies: everything in it has ended at once, and the rest can still be removed.

use std::time::Duration;

use tokio::time::timeout;

use super::fake_host::Flaw;
use super::{PATIENCE, Scene, cid, container, eid, exec};
use crate::agent::Deadlines;
use crate::command::{ProcessStatus, Stdio};
use crate::error::ErrorKind;
use crate::event::Event;

#[tokio::test]
async fn everything_exits_137_within_a_second_and_can_be_deleted() {
    let mut scene = Scene::running().await;
    let c = cid("c");
    scene.sandbox.exec(&c, exec("e", Stdio::default())).await.unwrap();
    scene.sandbox.start_exec(&c, &eid("e")).await.unwrap();
    scene.sandbox.exec(&c, exec("waiting", Stdio::default())).await.unwrap();
    scene.sandbox.create(container("d")).await.unwrap();
    let waiter = scene.sandbox.clone();
    let waiter = tokio::spawn(async move { waiter.wait(&cid("c"), Some(&eid("e"))).await });

    scene.host.levers.die(9);
    let Event::VmDied { reason } = scene.event().await else { panic!("the death comes first") };
    assert!(reason.contains("signal 9") && reason.contains("Kernel panic"), "{reason}");
    let mut ends = Vec::new();
    for _ in 0..3 {
        let Event::Exited { container, exec, exit, pid } = scene.event().await else { panic!("an end") };
        assert_eq!((exit.status, pid), (137, super::fake_host::PID));
        ends.push((container.to_string(), exec.map(|exec| exec.to_string())));
    }
    ends.sort();
    let end = |c: &str, e: Option<&str>| (c.to_owned(), e.map(str::to_owned));
    assert_eq!(ends, [end("c", None), end("c", Some("e")), end("d", None)]);
    scene.no_event().await;

    assert_eq!(waiter.await.unwrap().unwrap().status, 137);
    let state = scene.sandbox.state(&c, None).await.unwrap();
    assert_eq!((state.status, state.exit.unwrap().status), (ProcessStatus::Stopped, 137));
    let killed = scene.sandbox.kill(&c, None, 9, false).await.unwrap_err();
    assert_eq!(killed.kind(), ErrorKind::NotFound);
    assert_eq!(scene.sandbox.delete(&c, Some(&eid("e"))).await.unwrap().status, 137);
    assert_eq!(scene.sandbox.delete(&c, None).await.unwrap().status, 137);
    scene.sandbox.delete(&cid("d"), None).await.unwrap();
    scene.sandbox.shutdown().await.unwrap();
    assert_eq!(scene.host.asked().last().map(String::as_str), Some("undo"));
}

#[tokio::test]
async fn the_daemons_death_is_the_vms() {
    let mut scene = Scene::running().await;
    scene.host.levers.end_daemon();
    let Event::VmDied { reason } = scene.event().await else { panic!("the death comes first") };
    assert!(reason.contains("virtiofsd"), "{reason}");
    assert_eq!(scene.exit_of("c", None).await, 137);
    let killed = async {
        while !scene.host.levers.is_dead() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, killed).await.unwrap();
    scene.no_event().await;
    let error = scene.sandbox.create(container("x")).await.unwrap_err();
    assert!(error.to_string().contains("virtiofsd"), "{error}");
}

#[tokio::test]
async fn a_death_during_the_start_is_the_starts_error() {
    let scene = Scene::with(&[Flaw::Silent]);
    let creation = scene.sandbox.create(container("c"));
    tokio::pin!(creation);
    assert!(timeout(Duration::from_millis(50), &mut creation).await.is_err());
    scene.host.levers.die(256);
    let error = timeout(PATIENCE, creation).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("status 1") && error.to_string().contains("Kernel panic"), "{error}");
    assert_eq!(scene.host.asked(), ["boot", "attach c", "detach c", "undo"]);
}

#[tokio::test]
async fn a_request_under_way_ends_with_the_vm() {
    let mut scene = Scene::new();
    scene.sandbox.create(container("c")).await.unwrap();
    let (_gate, closed) = tokio::sync::mpsc::unbounded_channel();
    *scene.agent.starts.lock().unwrap() = Some(closed);
    let sandbox = scene.sandbox.clone();
    let start = tokio::spawn(async move { sandbox.start(&cid("c")).await });
    while !scene.agent.asked().contains(&"StartContainer c".to_owned()) {
        tokio::task::yield_now().await;
    }
    scene.host.levers.die(9);
    let error = timeout(PATIENCE, start).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(matches!(scene.event().await, Event::VmDied { .. }));
    assert_eq!(scene.exit_of("c", None).await, 137);
    scene.no_event().await;
}

#[tokio::test]
async fn a_guest_that_does_not_take_a_sigkill_is_killed_itself() {
    let mut scene = Scene::with(&[Flaw::Deaf]);
    scene.sandbox.create(container("c")).await.unwrap();
    scene.sandbox.start(&cid("c")).await.unwrap();
    let polite = scene.sandbox.kill(&cid("c"), None, 15, false).await.unwrap_err();
    assert_eq!(polite.kind(), ErrorKind::DeadlineExceeded);
    assert!(!scene.host.levers.is_dead());
    scene.sandbox.kill(&cid("c"), None, 9, false).await.unwrap();
    assert!(matches!(scene.event().await, Event::VmDied { .. }));
    assert_eq!(scene.exit_of("c", None).await, 137);
}

/// A containerd that came back while the VM booted could not kill the container that it found: "Cannot kill while it is
/// being created", as long as the guest took.
#[tokio::test]
async fn a_sigkill_ends_a_sandbox_whose_first_container_is_being_made() {
    let scene = Scene::with(&[Flaw::Late]);
    let sandbox = scene.sandbox.clone();
    let creation = tokio::spawn(async move { sandbox.create(container("c")).await });
    while scene.host.asked() != ["boot", "attach c"] {
        tokio::task::yield_now().await;
    }
    let sandbox = scene.sandbox.clone();
    let waiting = tokio::spawn(async move { sandbox.wait(&cid("c"), None).await });
    let polite = scene.sandbox.kill(&cid("c"), None, 15, true).await.unwrap_err();
    assert_eq!(polite.kind(), ErrorKind::FailedPrecondition);
    timeout(PATIENCE, scene.sandbox.kill(&cid("c"), None, 9, true)).await.unwrap().unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().status, 137);
    assert!(creation.await.unwrap().is_err());
    assert!(scene.host.levers.is_dead());
    assert_eq!(scene.host.asked().last().map(String::as_str), Some("undo"));
}

#[tokio::test]
async fn a_sigkill_of_a_further_container_waits_until_it_is_made() {
    let scene = Scene::with(&[Flaw::Hanging]);
    scene.sandbox.boot(None).await.unwrap();
    let sandbox = scene.sandbox.clone();
    let creation = tokio::spawn(async move { sandbox.create(container("c")).await });
    while !scene.host.asked().contains(&"attach c".to_owned()) {
        tokio::task::yield_now().await;
    }
    scene.sandbox.kill(&cid("c"), None, 9, true).await.unwrap();
    assert_eq!(creation.await.unwrap().unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    assert!(!scene.host.levers.is_dead(), "others may be in it");
}

/// `StopPodSandbox` failed when the VM died while it was killing.
#[tokio::test]
async fn who_kills_what_dies_meanwhile_has_what_was_wanted() {
    let deadlines = Deadlines { dial: PATIENCE, request: PATIENCE, create: PATIENCE };
    let scene = Scene::with_deadlines(&[Flaw::Deaf], deadlines);
    scene.sandbox.create(container("c")).await.unwrap();
    scene.sandbox.start(&cid("c")).await.unwrap();
    let sandbox = scene.sandbox.clone();
    let kill = tokio::spawn(async move { sandbox.kill(&cid("c"), None, 9, true).await });
    while !scene.agent.asked().iter().any(|asked| asked.starts_with("Signal ")) {
        tokio::task::yield_now().await;
    }
    scene.host.levers.die(9);
    timeout(PATIENCE, kill).await.unwrap().unwrap().unwrap();
}

/// Its containers were told to have ended, its pause container was not, and every other container failed as long as the pod was there.
#[tokio::test]
async fn a_sandbox_whose_agent_cannot_be_reached_any_more_ends() {
    let mut scene = Scene::running().await;
    scene.host.levers.cut();
    let event = scene.event().await;
    assert!(matches!(&event, Event::VmDied { reason } if reason.contains("agent")), "{event:?}");
    let killed = async {
        while !scene.host.levers.is_dead() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, killed).await.unwrap();
    assert_eq!(scene.exit_of("c", None).await, 137);
}

/// `StopPodSandbox` was never answered where QEMU waited for storage that is gone.
#[tokio::test(start_paused = true)]
async fn a_vmm_that_cannot_be_killed_does_not_keep_the_rest_from_being_undone() {
    let scene = Scene::with(&[Flaw::Silent]);
    scene.host.levers.is_stuck.store(true, std::sync::atomic::Ordering::Relaxed);
    scene.sandbox.shutdown().await.unwrap();
    assert_eq!(scene.host.asked(), ["boot", "undo"]);
}
