//! What is watched in the guest, and what the host changes of it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kata_protocol::kata;
use nix::libc::{IN_CLOSE_WRITE, IN_CREATE};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use super::{PATIENCE, Scene, cid, container};

const VOLUME: &str = "volumes/0-vol";

/// A running container with a volume; what it watches, and what it is told.
async fn scene() -> (Scene, UnboundedSender<kata::Watch>, UnboundedReceiver<kata::HostChange>) {
    let scene = Scene::new();
    fs::create_dir_all(scene.dir.path().join(VOLUME)).unwrap();
    let (watches, asked) = unbounded_channel();
    let (changes, told) = unbounded_channel();
    *scene.agent.watches.lock().await = Some(asked);
    *scene.agent.changes.lock().unwrap() = Some(changes);
    scene.sandbox.create(container("c")).await.unwrap();
    scene.sandbox.start(&cid("c")).await.unwrap();
    (scene, watches, told)
}

fn watch(id: u32, dir: &Path, path: &str) -> kata::Watch {
    let inode = fs::metadata(dir.join(path)).unwrap().ino();
    kata::Watch { id, path: path.into(), inode, ..Default::default() }
}

async fn next(told: &mut UnboundedReceiver<kata::HostChange>) -> (u32, u32, Vec<u8>) {
    let change = timeout(PATIENCE, told.recv()).await.expect("in time").expect("a change");
    (change.id, change.mask, change.name)
}

#[tokio::test]
async fn who_watches_is_told_after_the_host_watches() {
    let (scene, watches, mut told) = scene().await;
    let dir = scene.dir.path();
    watches.send(watch(5, dir, VOLUME)).unwrap();
    assert_eq!(next(&mut told).await, (5, 0, Vec::new()));
    fs::write(dir.join(VOLUME).join("new"), "").unwrap();
    assert_eq!(next(&mut told).await, (5, IN_CREATE, b"new".to_vec()));
    assert_eq!(next(&mut told).await, (5, IN_CLOSE_WRITE, b"new".to_vec()));
}

#[tokio::test]
async fn who_watches_what_cannot_be_watched_does_not_wait() {
    let (_scene, watches, mut told) = scene().await;
    watches.send(kata::Watch { id: 6, path: b"../etc".to_vec(), ..Default::default() }).unwrap();
    assert_eq!(next(&mut told).await, (6, 0, Vec::new()));
}

#[tokio::test]
async fn what_is_not_watched_any_more_is_not_told() {
    let (scene, watches, mut told) = scene().await;
    let dir = scene.dir.path();
    watches.send(watch(1, dir, VOLUME)).unwrap();
    watches.send(kata::Watch { id: 1, ..Default::default() }).unwrap();
    // The answer comes when the one before is done with.
    watches.send(watch(2, dir, VOLUME)).unwrap();
    assert_eq!(next(&mut told).await, (1, 0, Vec::new()));
    assert_eq!(next(&mut told).await, (2, 0, Vec::new()));
    fs::write(dir.join(VOLUME).join("new"), "").unwrap();
    assert_eq!(next(&mut told).await, (2, IN_CREATE, b"new".to_vec()));
}
