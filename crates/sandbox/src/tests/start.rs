//! The start graph: its order, its one request, and what comes of its failures.

use std::time::Duration;

use tokio::time::timeout;

use super::{Flaw, PATIENCE, Scene, cid, container};
use crate::agent::Deadlines;
use crate::command::ProcessStatus;
use crate::error::{ErrorKind, SandboxError as Error};
use crate::event::Event;
use crate::timeline::{Side, phase};

#[tokio::test]
async fn the_vm_is_started_before_anybody_asks_for_a_container() {
    let scene = Scene::new();
    let booted = async {
        while scene.host.asked().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, booted).await.unwrap();
    assert_eq!(scene.host.asked(), ["boot"]);
    assert_eq!(scene.agent.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn the_first_container_comes_with_the_sandbox_in_one_request_and_others_after_it() {
    let mut scene = Scene::new();
    let created = scene.sandbox.create(container("c")).await.unwrap();
    assert_eq!(created.pid, super::fake_host::PID);
    assert_eq!(scene.agent.asked(), ["StartSandbox c virtio-fs"]);
    scene.sandbox.create(container("d")).await.unwrap();
    scene.sandbox.start(&cid("c")).await.unwrap();
    assert_eq!(scene.agent.asked()[1..], ["CreateContainer d", "StartContainer c"]);
    let error = scene.sandbox.create(container("d")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    scene.no_event().await;
}

#[tokio::test]
async fn a_sandbox_can_be_started_before_its_first_container() {
    let mut scene = Scene::new();
    let pid = scene.sandbox.boot(Some("pod".into())).await.unwrap();
    assert_eq!(pid, super::fake_host::PID);
    assert_eq!(scene.agent.asked(), ["StartSandbox  virtio-fs"]);
    assert_eq!(scene.sandbox.boot(None).await.unwrap(), pid, "it is started once");
    scene.sandbox.create(container("c")).await.unwrap();
    scene.sandbox.start(&cid("c")).await.unwrap();
    assert_eq!(scene.agent.asked()[1..], ["CreateContainer c", "StartContainer c"]);
    scene.no_event().await;
}

#[tokio::test]
async fn a_sandbox_that_was_started_by_itself_survives_a_refused_first_container() {
    let scene = Scene::new();
    scene.sandbox.boot(None).await.unwrap();
    let mut refused = container("c");
    refused.spec =
        serde_json::from_str(r#"{"ociVersion": "1.1.0", "linux": {"netDevices": {"eth9": {}}}}"#).unwrap();
    let _ = scene.sandbox.create(refused).await;
    assert!(!scene.host.levers.is_dead());
    scene.sandbox.create(container("d")).await.unwrap();
}

/// The processes had not started in time, it was said, and nobody looked at systemd.
#[tokio::test(start_paused = true)]
async fn a_systemd_that_makes_no_scope_is_told() {
    let scene = Scene::with(&[Flaw::SilentSystemd]);
    let error = scene.sandbox.create(container("c")).await.unwrap_err();
    assert!(error.to_string().contains("Cannot start the scope"), "{error}");
}

/// A scope that came later than that ended this process.
#[tokio::test(start_paused = true)]
async fn nothing_is_undone_while_systemd_may_make_a_scope() {
    let scene = Scene::with(&[Flaw::SilentSystemd]);
    scene.sandbox.shutdown().await.unwrap();
    assert_eq!(scene.host.asked(), ["boot", "no scope", "undo"]);
}

#[tokio::test]
async fn a_guest_that_never_answers_is_told_to_who_starts_the_sandbox() {
    let scene = Scene::with(&[Flaw::Silent]);
    let error = timeout(PATIENCE, scene.sandbox.boot(None)).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("Kernel panic"), "{error}");
    assert!(scene.sandbox.boot(None).await.is_err());
    scene.sandbox.shutdown().await.unwrap();
    assert_eq!(scene.host.asked().last().map(String::as_str), Some("undo"));
}

#[tokio::test]
async fn containers_asked_for_at_once_start_the_sandbox_once() {
    let scene = Scene::new();
    let (c, d, e) = tokio::join!(
        scene.sandbox.create(container("c")),
        scene.sandbox.create(container("d")),
        scene.sandbox.create(container("e")),
    );
    c.and(d).and(e).unwrap();
    let asked = scene.agent.asked();
    assert_eq!(asked.iter().filter(|rpc| rpc.starts_with("StartSandbox")).count(), 1, "{asked:?}");
    assert_eq!(asked.iter().filter(|rpc| rpc.starts_with("CreateContainer")).count(), 2, "{asked:?}");
}

#[tokio::test]
async fn the_request_is_sent_before_the_guest_is_up() {
    let scene = Scene::with(&[Flaw::Late]);
    let creation = scene.sandbox.create(container("c"));
    tokio::pin!(creation);
    assert!(timeout(Duration::from_millis(50), &mut creation).await.is_err());
    assert_eq!(scene.host.asked(), ["boot", "attach c"], "files are prepared meanwhile");
    scene.host.wake_guest();
    timeout(PATIENCE, creation).await.unwrap().unwrap();
}

/// Thirty pods that booted at once on two processors failed: the boot counted as the making of a container.
#[tokio::test(start_paused = true)]
async fn the_deadline_of_the_first_container_counts_from_when_the_guest_is_up() {
    let create = Duration::from_millis(100);
    let deadlines = Deadlines { dial: PATIENCE, request: PATIENCE, create };
    let scene = Scene::with_deadlines(&[Flaw::Late], deadlines);
    let creation = scene.sandbox.create(container("c"));
    tokio::pin!(creation);
    assert!(timeout(3 * create, &mut creation).await.is_err(), "it waits for the guest");
    scene.host.wake_guest();
    timeout(PATIENCE, creation).await.unwrap().unwrap();
    let scene = Scene::with_deadlines(&[Flaw::Hanging], deadlines);
    let error = timeout(PATIENCE, scene.sandbox.create(container("c"))).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
}

/// virtiofsd copies the share's mounts and attaches the copy later; a root file system mounted between the two was
/// missing in the guest: "Cannot make the place to mount on, /proc: Read-only file system".
#[tokio::test]
async fn nothing_is_mounted_into_the_share_while_its_daemon_sets_itself_up() {
    let scene = Scene::with(&[Flaw::Late, Flaw::Unequipped]);
    let creation = scene.sandbox.create(container("c"));
    tokio::pin!(creation);
    assert!(timeout(Duration::from_millis(50), &mut creation).await.is_err());
    assert_eq!(scene.host.asked(), ["boot"]);
    scene.host.levers.equip();
    assert!(timeout(Duration::from_millis(50), &mut creation).await.is_err());
    assert_eq!(scene.host.asked(), ["boot", "attach c"]);
    scene.host.wake_guest();
    timeout(PATIENCE, creation).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_first_root_is_told_of_while_the_vm_has_no_devices_yet() {
    let scene = Scene::with(&[Flaw::Late, Flaw::Unequipped]);
    let mut request = container("c");
    request.rootfs.push(kata_storage::RootfsMount { source: "/layer".into(), ..Default::default() });
    let creation = scene.sandbox.create(request);
    tokio::pin!(creation);
    assert!(timeout(Duration::from_millis(50), &mut creation).await.is_err());
    assert_eq!(scene.host.asked(), ["boot"]);
    assert_eq!(*scene.host.foreseen.lock().unwrap(), ["/layer"]);
}

#[tokio::test]
async fn a_vmm_that_ends_before_it_has_its_devices_is_told() {
    let scene = Scene::with(&[Flaw::Late, Flaw::Unequipped]);
    let creation = scene.sandbox.create(container("c"));
    tokio::pin!(creation);
    assert!(timeout(Duration::from_millis(50), &mut creation).await.is_err());
    scene.host.levers.die(9);
    let error = timeout(PATIENCE, creation).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("killed by signal 9"), "{error}");
    assert_eq!(scene.host.asked(), ["boot", "detach c", "undo"]);
}

#[tokio::test]
async fn each_phase_is_on_the_timeline() {
    let scene = Scene::running().await;
    let timeline = scene.sandbox.timeline();
    for name in [phase::PREPARE, phase::BOOT, phase::FILES, phase::START_SANDBOX, phase::STARTED] {
        assert!(timeline.span(name).is_some(), "{name}");
    }
    assert_eq!(timeline.span("guest").unwrap().side, Side::Guest);
    assert_eq!(timeline.agent_version.as_deref(), Some("7"));
    let written = async {
        while crate::Timeline::read(scene.dir.path()).ok().is_none_or(|read| read != timeline) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, written).await.unwrap();
}

#[tokio::test]
async fn a_vmm_that_does_not_start_is_told_and_everything_undone() {
    let mut scene = Scene::with(&[Flaw::NoVmm]);
    let error = scene.sandbox.create(container("c")).await.unwrap_err();
    assert!(error.to_string().contains("There is no QEMU"), "{error}");
    assert_eq!(scene.host.asked().last().map(String::as_str), Some("undo"), "before the error was told");
    assert!(matches!(scene.event().await, Event::VmDied { reason } if reason.contains("no QEMU")));
    scene.sandbox.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_guest_that_never_answers_is_told_with_its_console() {
    let scene = Scene::with(&[Flaw::Silent]);
    let error = timeout(PATIENCE, scene.sandbox.create(container("c"))).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("Kernel panic"), "{error}");
    assert!(scene.host.levers.is_dead(), "the VM is not left running");
    assert_eq!(scene.host.asked().last().map(String::as_str), Some("undo"));
    assert!(scene.sandbox.create(container("d")).await.is_err());
}

#[tokio::test]
async fn an_agent_that_hangs_meets_the_deadline() {
    let scene = Scene::with(&[Flaw::Hanging]);
    let error = timeout(PATIENCE, scene.sandbox.create(container("c"))).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert!(error.to_string().contains("Kernel panic"), "{error}");
    assert!(scene.host.levers.is_dead());
}

#[tokio::test]
async fn a_refused_first_container_undoes_the_start() {
    let mut scene = Scene::with(&[Flaw::Refusing]);
    let error = scene.sandbox.create(container("c")).await.unwrap_err();
    assert!(error.to_string().contains("no arguments"), "{error}");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert_eq!(scene.host.asked(), ["boot", "attach c", "detach c", "undo"]);
    scene.no_event().await;
}

#[tokio::test]
async fn files_that_cannot_be_prepared_undo_the_start() {
    let scene = Scene::with(&[Flaw::NoFiles]);
    let error = scene.sandbox.create(container("c")).await.unwrap_err();
    assert!(matches!(error, Error::Files { .. }), "{error}");
    assert_eq!(scene.host.asked(), ["boot", "attach c", "detach c", "undo"]);
    assert!(scene.host.levers.is_dead());
}

#[tokio::test]
async fn a_foreign_agent_is_asked_one_by_one() {
    let scene = Scene::with(&[Flaw::Foreign]);
    scene.sandbox.create(container("c")).await.unwrap();
    scene.sandbox.start(&cid("c")).await.unwrap();
    scene.sandbox.create(container("d")).await.unwrap();
    let expected = [
        "upstream CreateSandbox",
        "upstream CreateContainer c",
        "StartContainer c",
        "upstream CreateContainer d",
    ];
    assert_eq!(scene.agent.asked(), expected);
    assert_eq!(scene.sandbox.pids(&cid("c")).await.unwrap_err().kind(), ErrorKind::Unimplemented);
    let state = scene.sandbox.state(&cid("c"), None).await.unwrap();
    assert_eq!(state.status, ProcessStatus::Running);
}
