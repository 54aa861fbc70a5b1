//! Sandboxes and the container manager come and go, in any order.

use std::time::Instant;

use crate::cri::Manager;
use crate::scene::Scene;

const TEXT: &str = "# TYPE a gauge\na 1\n";

#[test]
fn sandboxes_are_known_whether_they_come_before_or_after_the_monitor() {
    let scene = Scene::new();
    let first = scene.shim("first", TEXT);
    let monitor = scene.monitor(&[]);
    monitor.awaits("the first one", |monitor| monitor.ids() == "first");
    let second = scene.shim("second", TEXT);
    monitor.awaits("both", |monitor| monitor.ids() == "first second");
    drop(first);
    monitor.awaits("the second one alone", |monitor| monitor.ids() == "second");
    drop(second);
    monitor.awaits("none", |monitor| monitor.ids().is_empty());
}

#[test]
fn a_monitor_that_is_started_again_knows_all_there_is() {
    let scene = Scene::new();
    let _shims = (scene.shim("a", TEXT), scene.shim("b", TEXT));
    let manager = Manager::start(&scene.path("cri.sock"));
    manager.add("a", "web");
    for _ in 0..2 {
        let monitor = scene.monitor(&[]);
        monitor.awaits("both", |monitor| monitor.ids() == "a b");
        assert!(monitor.metrics().contains(
            "a{sandbox_id=\"a\",cri_uid=\"uid-web\",cri_name=\"web\",cri_namespace=\"default\"} 1"
        ));
    }
}

#[test]
fn a_pod_has_its_names_as_soon_as_the_manager_has_them() {
    let scene = Scene::new();
    let _shim = scene.shim("a", TEXT);
    let monitor = scene.monitor(&[]);
    monitor.awaits("figures without names", |monitor| monitor.metrics().contains("a{sandbox_id=\"a\"} 1"));
    let manager = Manager::start(&scene.path("cri.sock"));
    manager.add("a", "web");
    let name = "cri_name=\"web\"";
    monitor.awaits("the name", |monitor| monitor.metrics().contains(name));
    // What has a name keeps it while the manager is away.
    drop(manager);
    assert!(monitor.metrics().contains(name));
    let _other = scene.shim("b", TEXT);
    let manager = Manager::start(&scene.path("cri.sock"));
    manager.add("b", "db");
    monitor.awaits("the other's name", |monitor| monitor.metrics().contains("cri_name=\"db\""));
}

#[test]
fn a_pod_that_comes_late_to_the_managers_list_stays_and_a_dead_one_goes() {
    let scene = Scene::new();
    let (_late, dead) = (scene.shim("late", TEXT), scene.shim("dead", TEXT));
    let manager = Manager::start(&scene.path("cri.sock"));
    let monitor = scene.monitor(&["-sync-delay", "0.2"]);
    monitor.awaits("both", |monitor| monitor.ids() == "dead late");
    dead.die();
    monitor.awaits("the dead one is dropped", |monitor| {
        monitor.metrics();
        monitor.ids() == "late"
    });
    manager.add("late", "web");
    monitor.awaits("the late one's name", |monitor| monitor.metrics().contains("cri_name=\"web\""));
    // Its directory is left, and does not make it live again.
    let _new = scene.shim("new", TEXT);
    monitor.awaits("a new one", |monitor| monitor.ids() == "late new");
}

/// It may be busy: its word counts, and a dead shim of a pod that it knows is not dropped behind its back.
#[test]
fn a_dead_pod_that_the_manager_knows_stays_until_it_has_been_removed() {
    let scene = Scene::new();
    let (dead, stray) = (scene.shim("dead", TEXT), scene.shim("stray", TEXT));
    let manager = Manager::start(&scene.path("cri.sock"));
    manager.add("dead", "web");
    let monitor = scene.monitor(&["-sync-delay", "0.2"]);
    monitor.awaits("both", |monitor| monitor.ids() == "dead stray");
    dead.die();
    stray.die();
    monitor.awaits("the stray one is dropped", |monitor| {
        monitor.metrics();
        monitor.ids() == "dead"
    });
    assert!(monitor.metrics().contains("kata_monitor_shim_up{sandbox_id=\"dead\",cri_uid=\"uid-web\""));
    drop(dead);
    monitor.awaits("none", |monitor| monitor.ids().is_empty());
}

#[test]
fn a_manager_that_does_not_answer_costs_only_the_names() {
    let scene = Scene::new();
    let _shim = scene.shim("a", TEXT);
    let deaf = std::os::unix::net::UnixListener::bind(scene.path("cri.sock")).unwrap();
    deaf.set_nonblocking(true).unwrap();
    let begun = Instant::now();
    let monitor = scene.monitor(&[]);
    monitor.awaits("the figures", |monitor| monitor.metrics().contains("a{sandbox_id=\"a\"} 1"));
    assert!(monitor.metrics().contains("a{sandbox_id=\"a\"} 1"));
    // It was waited for once, and is left alone for 5 s.
    let asked = std::iter::from_fn(|| deaf.accept().ok()).count();
    let most = 1 + begun.elapsed().as_secs() / 5;
    assert!((1..=most).contains(&(asked as u64)), "{asked} times, and not up to {most}");
}
