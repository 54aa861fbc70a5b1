//! A container's and its processes' life, from created to deleted.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Flaw, PATIENCE, Scene, cid, container, eid, exec};
use crate::agent::Deadlines;
use crate::command::{CreateContainer, ProcessStatus, Stdio};
use crate::error::ErrorKind;
use crate::event::Event;

async fn status(scene: &Scene, id: &str, exec: Option<&str>) -> ProcessStatus {
    scene.sandbox.state(&cid(id), exec.map(eid).as_ref()).await.unwrap().status
}

#[tokio::test]
async fn a_container_lives_and_leaves() {
    let mut scene = Scene::new();
    scene.sandbox.create(container("c")).await.unwrap();
    assert_eq!(status(&scene, "c", None).await, ProcessStatus::Created);
    assert_eq!(scene.sandbox.start(&cid("c")).await.unwrap(), super::fake_host::PID);
    assert_eq!(status(&scene, "c", None).await, ProcessStatus::Running);
    let running = scene.sandbox.delete(&cid("c"), None).await.unwrap_err();
    assert_eq!(running.kind(), ErrorKind::FailedPrecondition);
    let again = scene.sandbox.start(&cid("c")).await.unwrap_err();
    assert_eq!(again.to_string(), "Cannot start while c is running");

    let waiting = scene.sandbox.clone();
    let waiting = tokio::spawn(async move { waiting.wait(&cid("c"), None).await });
    scene.agent.exit("c", 3);
    assert_eq!(scene.exit_of("c", None).await, 3);
    assert_eq!(waiting.await.unwrap().unwrap().status, 3);
    assert_eq!(scene.sandbox.wait(&cid("c"), None).await.unwrap().status, 3);
    let late = scene.sandbox.kill(&cid("c"), None, 9, false).await.unwrap_err();
    assert_eq!(
        (late.kind(), late.to_string().as_str()),
        (ErrorKind::NotFound, "The process c has already finished")
    );

    assert_eq!(scene.sandbox.delete(&cid("c"), None).await.unwrap().status, 3);
    assert_eq!(scene.host.asked(), ["boot", "attach c", "detach c"]);
    assert_eq!(scene.sandbox.state(&cid("c"), None).await.unwrap_err().kind(), ErrorKind::NotFound);
    // Another may come in the living sandbox.
    scene.sandbox.create(container("c")).await.unwrap();
    scene.no_event().await;
}

/// What was not written within the deadline of a request was lost.
#[tokio::test(start_paused = true)]
async fn a_removal_waits_for_what_is_written_to_disks_as_long_as_the_guest_answers() {
    for (writes, is_removed) in [(true, true), (false, false)] {
        let mut scene = Scene::running().await;
        scene.host.levers.writes.store(writes, std::sync::atomic::Ordering::Relaxed);
        *scene.agent.removal.lock().unwrap() = PATIENCE * 5;
        scene.agent.exit("c", 0);
        assert_eq!(scene.exit_of("c", None).await, 0);
        scene.sandbox.delete(&cid("c"), None).await.unwrap();
        assert_eq!(scene.agent.asked().contains(&"Remove c".to_owned()), is_removed);
        assert_eq!(scene.host.asked().last().map(String::as_str), Some("detach c"));
    }
}

#[tokio::test]
async fn a_guest_that_writes_to_disks_lets_go_of_them_before_its_vm_is_ended() {
    for writes in [true, false] {
        let scene = Scene::running().await;
        scene.host.levers.writes.store(writes, std::sync::atomic::Ordering::Relaxed);
        scene.sandbox.shutdown().await.unwrap();
        assert_eq!(scene.agent.asked().contains(&"Destroy".to_owned()), writes);
        assert!(scene.host.levers.is_dead());
    }
}

/// Regression: `ctr run -t` of a short command complained that its terminal could not be resized.
#[tokio::test]
async fn resizing_the_terminal_of_what_has_just_ended_is_no_error() {
    let mut scene = Scene::running().await;
    scene.agent.exit("c", 0);
    assert_eq!(scene.exit_of("c", None).await, 0);
    scene.sandbox.resize_pty(&cid("c"), None, 80, 24).await.unwrap();
}

#[tokio::test]
async fn signals_go_to_one_or_to_all() {
    let mut scene = Scene::running().await;
    scene.sandbox.exec(&cid("c"), exec("e", Stdio::default())).await.unwrap();
    scene.sandbox.start_exec(&cid("c"), &eid("e")).await.unwrap();
    scene.sandbox.kill(&cid("c"), Some(&eid("e")), 15, false).await.unwrap();
    assert_eq!(scene.exit_of("c", Some("e")).await, 143);
    scene.sandbox.kill(&cid("c"), None, 10, true).await.unwrap();
    assert_eq!(scene.exit_of("c", None).await, 138);
    let signals: Vec<String> =
        scene.agent.asked().into_iter().filter(|rpc| rpc.starts_with("Signal")).collect();
    assert_eq!(signals, [r#"Signal c "e" 15"#, r#"Signal c "" 10"#]);
}

/// Its end is told only after who killed it has an answer.
#[tokio::test]
async fn an_end_that_overtakes_the_answer_to_its_kill_is_that_answer() {
    let deadlines = Deadlines { dial: PATIENCE, request: PATIENCE, create: PATIENCE };
    let mut scene = Scene::with_deadlines(&[Flaw::Deaf], deadlines);
    scene.sandbox.create(container("c")).await.unwrap();
    scene.sandbox.start(&cid("c")).await.unwrap();
    let sandbox = scene.sandbox.clone();
    let kill = tokio::spawn(async move { sandbox.kill(&cid("c"), None, 15, false).await });
    while !scene.agent.asked().iter().any(|asked| asked.starts_with("Signal ")) {
        tokio::task::yield_now().await;
    }
    scene.agent.exit("c", 143);
    assert_eq!(scene.exit_of("c", None).await, 143);
    timeout(PATIENCE, kill).await.unwrap().unwrap().unwrap();
}

/// A caller whose creation took too long removes it, and does not come back: it stayed as long as the pod.
#[tokio::test]
async fn a_container_that_is_removed_while_it_is_made_goes_once_it_is_made() {
    let deadlines = Deadlines { dial: PATIENCE, request: PATIENCE, create: PATIENCE };
    let scene = Scene::with_deadlines(&[Flaw::Late], deadlines);
    let c = cid("c");
    let (creation, removal) = (scene.sandbox.create(container("c")), scene.sandbox.delete(&c, None));
    tokio::pin!(creation, removal);
    assert!(timeout(Duration::from_millis(50), &mut creation).await.is_err());
    assert!(timeout(Duration::from_millis(50), &mut removal).await.is_err());
    scene.host.wake_guest();
    timeout(PATIENCE, creation).await.unwrap().unwrap();
    assert_eq!(timeout(PATIENCE, removal).await.unwrap().unwrap().status, 137);
    let error = scene.sandbox.state(&c, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn who_removes_what_cannot_be_made_is_told_that_there_is_none() {
    let scene = Scene::with(&[Flaw::Hanging]);
    scene.sandbox.boot(None).await.unwrap();
    let c = cid("c");
    let (creation, removal) = (scene.sandbox.create(container("c")), scene.sandbox.delete(&c, None));
    tokio::pin!(creation, removal);
    assert!(timeout(Duration::from_millis(50), &mut creation).await.is_err());
    let (made, removed) = tokio::join!(creation, removal);
    assert_eq!(made.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    assert_eq!(removed.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn an_added_process_lives_and_leaves() {
    let mut scene = Scene::running().await;
    let (c, e) = (cid("c"), eid("e"));
    scene.sandbox.exec(&c, exec("e", Stdio::default())).await.unwrap();
    assert_eq!(status(&scene, "c", Some("e")).await, ProcessStatus::Created);
    let twice = scene.sandbox.exec(&c, exec("e", Stdio::default())).await.unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::AlreadyExists);
    // Its terminal's size may be told before it runs.
    scene.sandbox.resize_pty(&c, Some(&e), 80, 24).await.unwrap();
    scene.sandbox.start_exec(&c, &e).await.unwrap();
    assert_eq!(status(&scene, "c", Some("e")).await, ProcessStatus::Running);
    scene.agent.exit("c/e", 0);
    assert_eq!(scene.exit_of("c", Some("e")).await, 0);
    assert!(scene.agent.asked().contains(&"Resize c/e 80x24".to_owned()));
    assert_eq!(scene.sandbox.delete(&c, Some(&e)).await.unwrap().status, 0);
    assert_eq!(scene.sandbox.state(&c, Some(&e)).await.unwrap_err().kind(), ErrorKind::NotFound);
    // Never started: nothing but its name is forgotten.
    scene.sandbox.exec(&c, exec("e", Stdio::default())).await.unwrap();
    scene.sandbox.delete(&c, Some(&e)).await.unwrap();
    scene.no_event().await;
}

#[tokio::test]
async fn a_program_that_does_not_exist_is_told_by_the_start() {
    let mut scene = Scene::running().await;
    scene.sandbox.exec(&cid("c"), exec("missing", Stdio::default())).await.unwrap();
    let error = scene.sandbox.start_exec(&cid("c"), &eid("missing")).await.unwrap_err();
    assert!(error.to_string().contains("No such program"), "{error}");
    assert_eq!(status(&scene, "c", Some("missing")).await, ProcessStatus::Stopped);
    scene.sandbox.delete(&cid("c"), Some(&eid("missing"))).await.unwrap();
    scene.no_event().await;
}

/// It ran as long as its container, though its caller had been told that it was late.
#[tokio::test(start_paused = true)]
async fn a_process_that_is_made_too_late_is_ended() {
    let deadlines = Deadlines { dial: PATIENCE, request: Duration::from_millis(200), create: PATIENCE };
    let scene = Scene::with_deadlines(&[], deadlines);
    scene.sandbox.create(container("c")).await.unwrap();
    scene.sandbox.start(&cid("c")).await.unwrap();
    scene.sandbox.exec(&cid("c"), exec("late", Stdio::default())).await.unwrap();
    let error = scene.sandbox.start_exec(&cid("c"), &eid("late")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    let ended = async {
        while !scene.agent.asked().contains(&r#"Signal c "late" 9"#.to_owned()) {
            // Time goes on only while nobody is busy.
            let _ = timeout(Duration::from_millis(1), std::future::pending::<()>()).await;
        }
    };
    timeout(PATIENCE, ended).await.unwrap();
}

#[tokio::test]
async fn ten_processes_are_added_at_once() {
    let mut scene = Scene::running().await;
    let names: Vec<String> = (0..10).map(|n| format!("e{n}")).collect();
    let starts = names.iter().map(|name| {
        let sandbox = scene.sandbox.clone();
        async move {
            sandbox.exec(&cid("c"), exec(name, Stdio::default())).await.unwrap();
            sandbox.start_exec(&cid("c"), &eid(name)).await.unwrap();
        }
    });
    futures::future::join_all(starts).await;
    for name in &names {
        scene.agent.exit(&format!("c/{name}"), 7);
        assert_eq!(scene.exit_of("c", Some(name)).await, 7);
    }
}

#[tokio::test]
async fn a_paused_container_takes_no_new_processes() {
    let mut scene = Scene::running().await;
    let c = cid("c");
    scene.sandbox.exec(&c, exec("before", Stdio::default())).await.unwrap();
    scene.sandbox.pause(&c).await.unwrap();
    assert_eq!(status(&scene, "c", None).await, ProcessStatus::Paused);
    for refused in [
        scene.sandbox.exec(&c, exec("e", Stdio::default())).await,
        scene.sandbox.start_exec(&c, &eid("before")).await.map(drop),
        scene.sandbox.pause(&c).await,
    ] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    }
    let pids = scene.sandbox.pids(&c).await.unwrap();
    let names: Vec<_> = pids.iter().map(|info| (info.pid, info.exec.as_deref())).collect();
    assert_eq!(names, [(1, None), (2, Some("e"))]);
    scene.sandbox.resume(&c).await.unwrap();
    assert_eq!(status(&scene, "c", None).await, ProcessStatus::Running);
    scene.sandbox.start_exec(&c, &eid("before")).await.unwrap();
    scene.agent.exit("c", 0);
    assert_eq!(scene.exit_of("c", None).await, 0);
    let ended = scene.sandbox.exec(&c, exec("e", Stdio::default())).await.unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::FailedPrecondition);
}

#[tokio::test]
async fn an_end_that_overtakes_the_answer_to_the_start_is_told_after_it() {
    let mut scene = Scene::new();
    scene.sandbox.create(container("c")).await.unwrap();
    let (open, gate) = mpsc::unbounded_channel();
    *scene.agent.starts.lock().unwrap() = Some(gate);
    let sandbox = scene.sandbox.clone();
    let start = tokio::spawn(async move { sandbox.start(&cid("c")).await });
    while !scene.agent.asked().contains(&"StartContainer c".to_owned()) {
        tokio::task::yield_now().await;
    }
    scene.agent.exit("c", 0);
    scene.no_event().await;
    assert_eq!(status(&scene, "c", None).await, ProcessStatus::Created);
    open.send(()).unwrap();
    timeout(PATIENCE, start).await.unwrap().unwrap().unwrap();
    assert_eq!(scene.exit_of("c", None).await, 0);
}

#[tokio::test]
async fn a_container_that_was_never_started_is_killed_by_its_removal() {
    let mut scene = Scene::new();
    scene.sandbox.create(container("c")).await.unwrap();
    assert_eq!(scene.sandbox.delete(&cid("c"), None).await.unwrap().status, 137);
    assert_eq!(scene.exit_of("c", None).await, 137);
    assert_eq!(scene.agent.asked()[1..], [r#"Signal c "" 9"#, "Remove c"]);
    scene.no_event().await;
}

#[tokio::test]
async fn what_is_unknown_is_not_found() {
    let scene = Scene::running().await;
    let (x, e) = (cid("x"), eid("e"));
    for error in [
        scene.sandbox.start(&x).await.unwrap_err(),
        scene.sandbox.wait(&x, None).await.unwrap_err(),
        scene.sandbox.delete(&cid("c"), Some(&e)).await.unwrap_err(),
        scene.sandbox.stats(&x).await.unwrap_err(),
        scene.sandbox.exec(&x, exec("e", Stdio::default())).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
}

#[tokio::test]
async fn a_shutdown_ends_everything_and_can_be_repeated() {
    let mut scene = Scene::running().await;
    let (first, second) = tokio::join!(scene.sandbox.shutdown(), scene.sandbox.shutdown());
    first.and(second).unwrap();
    scene.sandbox.shutdown().await.unwrap();
    assert_eq!(scene.exit_of("c", None).await, 137);
    assert!(scene.host.levers.is_dead());
    assert_eq!(scene.host.asked(), ["boot", "attach c", "undo"]);
    // No word of a death: it was wanted.
    assert!(timeout(Duration::from_millis(100), scene.events.recv()).await.is_err());
    assert_eq!(scene.sandbox.create(container("d")).await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn the_vm_ends_when_nobody_holds_the_sandbox_any_more() {
    let Scene { sandbox, mut events, host, .. } = Scene::running().await;
    drop(sandbox);
    let end = async { while events.recv().await.is_some() {} };
    timeout(PATIENCE, end).await.unwrap();
    assert!(host.levers.is_dead());
}

#[tokio::test]
async fn limits_are_changed_while_it_lives() {
    let mut scene = Scene::running().await;
    let limits = || serde_json::from_str(r#"{ "pids": { "limit": 7 } }"#).unwrap();
    scene.sandbox.update(&cid("c"), limits()).await.unwrap();
    assert_eq!(scene.agent.asked().last().map(String::as_str), Some("Update c pids 7"));
    scene.agent.exit("c", 0);
    scene.exit_of("c", None).await;
    let ended = scene.sandbox.update(&cid("c"), limits()).await.unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::FailedPrecondition);
}

#[tokio::test]
async fn each_lack_of_memory_is_told() {
    let mut scene = Scene::running().await;
    for _ in 0..2 {
        scene.agent.starve();
        assert!(matches!(scene.event().await, Event::OutOfMemory { container } if container == cid("c")));
    }
}

/// The container `c` with a poststop hook that writes a line into the file `told` of the scene.
fn with_hook(scene: &Scene) -> CreateContainer {
    let line = format!("echo poststop >> {}", scene.dir.path().join("told").display());
    let hooks = serde_json::json!({ "ociVersion": "1.2.0",
        "hooks": { "poststop": [{ "path": "/bin/sh", "args": ["sh", "-c", line] }] } });
    let spec = serde_json::from_value(hooks).unwrap();
    CreateContainer { spec, bundle: scene.dir.path().to_owned(), ..container("c") }
}

fn told(scene: &Scene) -> String {
    std::fs::read_to_string(scene.dir.path().join("told")).unwrap_or_default()
}

/// A Delete that failed half-way and was repeated ran the poststop hooks again.
#[tokio::test]
async fn poststop_hooks_run_once_when_a_delete_is_repeated() {
    let scene = Scene::with(&[Flaw::StuckFiles]);
    let c = cid("c");
    scene.sandbox.create(with_hook(&scene)).await.unwrap();
    scene.sandbox.delete(&c, None).await.unwrap_err();
    assert_eq!(told(&scene), "", "the container is not gone yet");
    scene.sandbox.delete(&c, None).await.unwrap();
    assert_eq!(told(&scene), "poststop\n");
    scene.sandbox.shutdown().await.unwrap();
    assert_eq!(told(&scene), "poststop\n");
}

#[tokio::test]
async fn poststop_hooks_of_a_container_that_was_never_deleted_run_at_the_end() {
    let scene = Scene::new();
    scene.sandbox.create(with_hook(&scene)).await.unwrap();
    scene.sandbox.shutdown().await.unwrap();
    scene.sandbox.delete(&cid("c"), None).await.unwrap();
    assert_eq!(told(&scene), "poststop\n");
}

#[tokio::test]
async fn poststop_hooks_run_when_the_creation_fails() {
    let scene = Scene::with(&[Flaw::Refusing]);
    scene.sandbox.create(with_hook(&scene)).await.unwrap_err();
    assert_eq!(told(&scene), "poststop\n");
}

/// The guest kept the container, and the mounts of disks that the host then unplugged.
#[tokio::test(start_paused = true)]
async fn a_container_whose_creation_takes_too_long_is_removed_in_the_guest() {
    let create = Duration::from_millis(300);
    let deadlines = Deadlines { dial: PATIENCE, request: PATIENCE, create };
    let scene = Scene::with_deadlines(&[], deadlines);
    scene.sandbox.create(container("c")).await.unwrap();
    scene.agent.hangs.lock().unwrap().push("d".to_owned());
    let late = scene.sandbox.create(container("d")).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::DeadlineExceeded);
    assert_eq!(scene.agent.asked()[1..], ["CreateContainer d", "Remove d"]);
    assert_eq!(scene.host.asked(), ["boot", "attach c", "attach d", "detach d"]);
}

/// The guest had made it, and kept it until the VM's end.
#[tokio::test]
async fn a_container_that_cannot_swap_is_removed_in_the_guest() {
    let scene = Scene::new();
    scene.sandbox.create(container("c")).await.unwrap();
    let address = kata_vmm::DiskAddress::Pci("11/00".to_owned());
    *scene.host.swap.lock().unwrap() =
        Some(crate::swap::SwapDisk { id: "swap-1".into(), address, bytes: 1 << 20 });
    scene.agent.refuses_swap.store(true, std::sync::atomic::Ordering::Relaxed);
    scene.sandbox.create(container("d")).await.unwrap_err();
    assert_eq!(scene.agent.asked()[1..], ["CreateContainer d", "Swap [17, 0]", "Remove d"]);
}
