//! Copies of volumes that are kept up to date, which upstream's runtime asks for.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use kata_protocol::agent::Storage;
use kata_protocol::kata::ContainerRequest;
use protobuf::MessageField;
use serde_json::{Value, json};

use super::guest::{Guest, as_message, limit, skips};

/// A new version of a volume as kubelet makes a ConfigMap.
fn update(volume: &Path, version: &str) {
    fs::create_dir_all(volume.join(format!("..{version}"))).expect("a directory");
    fs::write(volume.join(format!("..{version}/key")), version).expect("a file");
    symlink(format!("..{version}"), volume.join("..data_tmp")).expect("a link");
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).expect("replaced");
}

fn watchable(guest: &Guest) -> (PathBuf, Storage) {
    let (source, target) = (guest.folder.path().join("volume"), guest.folder.path().join("watchable/volume"));
    update(&source, "first");
    symlink("..data/key", source.join("key")).expect("a link");
    let storage = Storage {
        driver: "watchable-bind".into(),
        source: source.to_str().expect("is text").into(),
        fstype: "bind".into(),
        options: vec!["rbind".into(), "ro".into()],
        mount_point: target.to_str().expect("is text").into(),
        ..Default::default()
    };
    (source, storage)
}

fn request(guest: &Guest, arguments: &[&str], storage: Storage) -> (Value, ContainerRequest) {
    let mut spec = guest.spec(arguments);
    spec["mounts"].as_array_mut().expect("a list").push(json!({
        "destination": "/mnt", "type": "bind", "source": storage.mount_point, "options": ["rbind", "ro"],
    }));
    let request = ContainerRequest {
        container_id: "c".into(),
        oci: as_message(&spec),
        storages: vec![storage],
        ..Default::default()
    };
    (spec, request)
}

/// Where the agent has its copies, as its process sees it.
fn copies(guest: &Guest) -> Vec<PathBuf> {
    let path = format!("/proc/{}/root/run/kata-containers/watchable", guest.agent_id());
    let found = fs::read_dir(path).into_iter().flatten();
    found.map(|entry| entry.expect("is read").path()).collect()
}

agent_test!(a_watched_volume_follows_its_source, |guest| {
    let (source, storage) = watchable(&guest);
    let script = "cat /mnt/key; until grep -q second /mnt/key; do sleep 0.1; done; readlink /mnt/key; \
                  echo x 2>/dev/null >/mnt/new || echo kept";
    let (_, mut request) = request(&guest, &["sh", "-c", script], storage);
    let (mut streams, stdio) = guest.streams().await;
    request.stdio = MessageField::some(stdio);
    guest.sandbox.create_container(limit(), &request).await.expect("created");
    guest.start_container("c").await.expect("started");
    streams.expect("first").await;
    update(&source, "second");
    assert_eq!(streams.output().await, b"..data/key\nkept\n");
    guest.wait("c", "").await.expect("ended");
    assert_eq!(copies(&guest).len(), 1);
    guest.remove("c").await.expect("removed");
    assert!(copies(&guest).is_empty(), "the copy is gone with its container");
});

agent_test!(a_container_that_fails_leaves_no_copy, |guest| {
    let (_, storage) = watchable(&guest);
    let (mut spec, mut request) = request(&guest, &["true"], storage);
    spec["mounts"].as_array_mut().expect("a list").push(json!({
        "destination": "/x", "type": "bind", "source": "/no/such/source", "options": ["rbind"],
    }));
    request.oci = as_message(&spec);
    guest.sandbox.create_container(limit(), &request).await.expect_err("has no source");
    assert!(copies(&guest).is_empty());
    assert!(!guest.folder.path().join("watchable").exists(), "its mount point is taken back");
});
