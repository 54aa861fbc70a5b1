//! The pod's network, with a namespace of its own and cards that lead nowhere. Root is needed.

use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;
use tokio::time::timeout;

use super::{PATIENCE, Scene, cid, container};
use crate::ErrorKind;
use crate::network::json::{Interface, Route};

/// A network namespace with `eth0`, kept by a thread.
struct Namespace {
    thread: i32,
    stop: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
}

impl Namespace {
    fn new() -> Self {
        let (ready, made) = mpsc::channel();
        let (stop, stopped) = mpsc::channel::<()>();
        let keeper = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ready.send(gettid().as_raw()).unwrap();
            // Ends when the other side is dropped.
            let _ = stopped.recv();
        });
        let namespace = Self { thread: made.recv().unwrap(), stop: Some((stop, keeper)) };
        namespace.ip("link add eth0 address 02:00:00:00:00:10 type veth peer name peer");
        namespace.ip("addr add 10.1.0.2/24 dev eth0");
        namespace.ip("link set eth0 up");
        namespace
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/task/{}/ns/net", std::process::id(), self.thread).into()
    }

    /// What `ip` or `tc` say in it.
    fn command(&self, program: &str, words: &str) -> String {
        let net = format!("--net={}", self.path().display());
        let output = Command::new("nsenter").arg(net).arg(program).args(words.split(' ')).output().unwrap();
        assert!(output.status.success(), "{program} {words}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn ip(&self, words: &str) {
        self.command("ip", words);
    }

    /// Its interfaces and queueing disciplines.
    fn holdings(&self) -> [String; 2] {
        [self.command("ls", "/proc/thread-self/net/dev_snmp6"), self.command("tc", "qdisc show")]
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let (stop, keeper) = self.stop.take().unwrap();
        drop(stop);
        keeper.join().unwrap();
    }
}

fn told(scene: &Scene) -> Vec<String> {
    scene.agent.asked().into_iter().filter(|asked| asked.starts_with("Update")).collect()
}

async fn running(namespace: &Namespace) -> Scene {
    let scene = Scene::in_namespace(namespace.path());
    scene.sandbox.create(container("c")).await.unwrap();
    scene.sandbox.start(&cid("c")).await.unwrap();
    scene
}

fn eth0() -> Interface {
    Interface { device: "eth0".to_owned(), ..Interface::default() }
}

/// Regression: what was compared was the last look, so what the guest refused once it was never told again.
#[tokio::test]
async fn a_change_that_the_guest_refused_is_told_again() {
    let namespace = Namespace::new();
    let scene = Scene::in_namespace(namespace.path());
    scene.sandbox.create(container("c")).await.unwrap();
    assert!(told(&scene).is_empty(), "it came with the start of the sandbox: {:?}", told(&scene));
    *scene.agent.refusals.lock().unwrap() = 1;
    namespace.ip("addr add 10.1.0.3/24 dev eth0");
    // Who meets the refusal is the start, or the task that watches the namespace.
    if scene.sandbox.start(&cid("c")).await.is_err() {
        scene.sandbox.start(&cid("c")).await.unwrap();
    }
    let interfaces = told(&scene).into_iter().filter(|asked| asked.starts_with("UpdateInterface"));
    assert_eq!(interfaces.collect::<Vec<_>>(), ["UpdateInterface eth0 2"; 2]);
}

#[tokio::test]
async fn an_interface_is_taken_out_with_all_that_was_made_for_it_and_comes_back() {
    let namespace = Namespace::new();
    let before = namespace.holdings();
    let scene = running(&namespace).await;
    assert_ne!(namespace.holdings(), before);
    scene.sandbox.remove_interface("eth0").await.unwrap();
    assert_eq!(namespace.holdings(), before);
    assert!(scene.host.levers.nics.lock().unwrap().is_empty());
    let twice = scene.sandbox.remove_interface("eth0").await.unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::NotFound);
    assert!(told(&scene).is_empty(), "the guest's kernel has seen the card go: {:?}", told(&scene));
    scene.sandbox.add_interface(eth0()).await.unwrap();
    assert_eq!(scene.host.levers.nics.lock().unwrap().len(), 1);
    assert_eq!(told(&scene), ["UpdateInterface eth0 1"]);
}

#[tokio::test]
async fn a_change_that_fails_is_none() {
    let namespace = Namespace::new();
    let scene = running(&namespace).await;
    *scene.agent.refusals.lock().unwrap() = 1;
    let refused = scene.sandbox.add_interface(Interface { mtu: 9000, ..eth0() }).await.unwrap_err();
    assert!(refused.to_string().contains("The kernel says no"), "{refused}");
    scene.sandbox.add_interface(Interface { name: "lan".into(), ..eth0() }).await.unwrap();
    let told = told(&scene);
    assert_eq!(told[0], "UpdateInterface eth0 1");
    assert_eq!(told.last().unwrap(), "UpdateInterface lan 1");
}

#[tokio::test]
async fn the_last_route_of_the_namespace_leaves_the_guest() {
    let namespace = Namespace::new();
    namespace.ip("route add default via 10.1.0.1");
    let scene = running(&namespace).await;
    namespace.ip("route del default");
    scene.sandbox.add_interface(eth0()).await.unwrap();
    assert_eq!(told(&scene), ["UpdateRoutes "]);
    let own: Route = "192.0.2.0/24 dev eth0".parse().unwrap();
    scene.sandbox.set_routes(Some(vec![own])).await.unwrap();
    assert_eq!(told(&scene)[1..], ["UpdateRoutes 192.0.2.0/24"]);
}

#[tokio::test]
async fn interfaces_are_listed_with_what_they_are_connected_to() {
    let namespace = Namespace::new();
    let scene = running(&namespace).await;
    let all = scene.sandbox.interfaces().await.unwrap();
    let shown: Vec<_> = all.iter().map(|one| (one.name.as_str(), one.device.as_str())).collect();
    assert_eq!(shown, [("lo", ""), ("lan", "eth0")]);
}

/// Each attempt makes a TAP and takes it away, which are changes of the namespace: it was tried again and again, without pause.
#[tokio::test]
async fn what_finds_no_port_is_tried_once_for_each_change() {
    let namespace = Namespace::new();
    let scene = running(&namespace).await;
    let mut portless = scene.host.levers.portless.subscribe();
    scene.host.levers.portless.send_replace(Some(0));
    for attempt in 1..=2 {
        namespace.ip(&format!("link add more{attempt} type veth peer name other{attempt}"));
        namespace.ip(&format!("addr add 10.{attempt}.1.2/24 dev more{attempt}"));
        namespace.ip(&format!("link set more{attempt} up"));
        timeout(PATIENCE, portless.wait_for(|count| *count > Some(0))).await.unwrap().unwrap();
    }
    let tried = || *scene.host.levers.portless.borrow();
    let mut seen = None;
    // Each of the commands may have been a change of its own.
    while seen != tried() {
        seen = tried();
        assert!(seen < Some(50), "{seen:?}");
        let _ = timeout(Duration::from_millis(300), portless.wait_for(|count| *count > seen)).await;
    }
}

#[tokio::test]
async fn without_a_namespace_there_is_nothing_to_attach() {
    let scene = Scene::running().await;
    let refused = scene.sandbox.add_interface(eth0()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::FailedPrecondition);
}
