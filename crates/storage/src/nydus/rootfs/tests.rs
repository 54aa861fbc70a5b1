//! Mounts as nydus-snapshotter returns them, and as it never should.

use std::fs;
use std::path::Path;

use data_encoding::BASE64;

use super::{NydusRootfs, NydusRootfsError, TYPE, as_overlay};
use crate::block::What;
use crate::rootfs::RootfsMount;
use crate::share::SharedDirectory;
use crate::testing::{MemoryLog, in_private_mounts};

const CONFIG: &str =
    r#"{"device":{"backend":{"type":"registry","config":{"auth":"c2VjcmV0"}}},"mode":"direct"}"#;

fn extra(source: &str, config: &str, snapshot: &str) -> String {
    let json = serde_json::json!({
        "source": source, "config": config, "snapshotdir": snapshot, "fs_version": "v6",
    });
    format!("extraoption={}", BASE64.encode(json.to_string().as_bytes()))
}

fn mount(options: &[&str]) -> RootfsMount {
    RootfsMount {
        fs_type: TYPE.to_owned(),
        source: "overlay".into(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..Default::default()
    }
}

/// As the snapshotter returns it for a snapshot in `dir`.
fn usual(dir: &str) -> RootfsMount {
    mount(&[
        "lowerdir=/snapshots/1/mnt",
        &format!("upperdir={dir}/fs"),
        &format!("workdir={dir}/work"),
        "dev",
        &extra("/snapshots/1/image.boot", CONFIG, dir),
    ])
}

fn refusal(mounts: &[RootfsMount]) -> NydusRootfsError {
    NydusRootfs::of(mounts).unwrap_err()
}

#[test]
fn the_image_and_the_snapshot_are_understood() {
    let image = NydusRootfs::of(&[usual("/snapshots/2")]).unwrap().unwrap();
    assert_eq!((image.source.as_str(), image.config.as_str()), ("/snapshots/1/image.boot", CONFIG));
    assert_eq!(image.snapshot, Path::new("/snapshots/2"));
    let mount = image.guest_mount("/run/kata-containers/shared/containers/passthrough/c1".as_ref());
    assert_eq!(mount.what, What::Overlay { folders: Vec::new() });
    assert_eq!(mount.target, Path::new("/run/kata-containers/c1/rootfs"));
    assert_eq!(
        mount.options,
        [
            "dev",
            "lowerdir=/run/kata-containers/shared/rafs/c1/lowerdir",
            "upperdir=/run/kata-containers/shared/containers/passthrough/c1/snapshotdir/fs",
            "workdir=/run/kata-containers/shared/containers/passthrough/c1/snapshotdir/work",
        ]
    );
}

#[test]
fn the_configuration_with_its_secrets_is_not_shown() {
    let image = NydusRootfs::of(&[usual("/snapshots/2")]).unwrap().unwrap();
    let shown = format!("{image:?}");
    assert!(shown.contains("image.boot") && !shown.contains("c2VjcmV0"), "{shown}");
}

#[test]
fn other_root_file_systems_are_left_alone() {
    let overlay = RootfsMount { fs_type: "overlay".to_owned(), ..usual("/s") };
    assert_eq!(NydusRootfs::of(&[overlay]).unwrap(), None);
    assert_eq!(NydusRootfs::of(&[]).unwrap(), None);
    // To the helper that is a plain overlay, too.
    assert_eq!(NydusRootfs::of(&[mount(&["lowerdir=/a:/b"])]).unwrap(), None);
}

#[test]
fn the_helper_may_be_elsewhere() {
    for helper in ["fuse./opt/nydus/bin/nydus-overlayfs", "fuse.nydus-overlayfs-a1b2"] {
        let mount = RootfsMount { fs_type: helper.to_owned(), ..usual("/s") };
        assert!(NydusRootfs::of(&[mount]).unwrap().is_some(), "{helper}");
    }
}

#[test]
fn without_nydusd_it_is_the_overlay_of_its_directories() {
    let overlay = as_overlay(&usual("/s")).unwrap();
    assert_eq!(overlay.fs_type, "overlay");
    assert_eq!(overlay.options, ["lowerdir=/snapshots/1/mnt", "upperdir=/s/fs", "workdir=/s/work", "dev"]);
    let error = as_overlay(&mount(&[&extra("/a", CONFIG, "/s")])).unwrap_err();
    assert!(error.to_string().contains("shared_fs"), "{error}");
}

#[test]
fn the_overlay_in_its_place_is_mounted_in_the_share() {
    in_private_mounts(|| {
        let temp = tempfile::tempdir().unwrap();
        let mut share = SharedDirectory::create(temp.path(), "s", MemoryLog::new()).unwrap();
        let memory = temp.path().join("memory");
        fs::create_dir(&memory).unwrap();
        let none = rustix::mount::MountFlags::empty();
        rustix::mount::mount("none", &memory, "tmpfs", none, c"size=1m").unwrap();
        for name in ["lower", "fs", "work"] {
            fs::create_dir(memory.join(name)).unwrap();
        }
        fs::write(memory.join("lower/file"), "x").unwrap();
        let memory = memory.to_str().unwrap();
        let mut files = share.container("c1").unwrap();
        let directories = ["lowerdir={}/lower", "upperdir={}/fs", "workdir={}/work"];
        let [lower, upper, work] = directories.map(|option| option.replace("{}", memory));
        files.mount_rootfs(&[mount(&[&lower, &upper, &work, "extraoption=!"])], "/none".as_ref()).unwrap();
        let root = share.exported_dir().join("passthrough/c1/rootfs");
        assert_eq!(fs::read(root.join("file")).unwrap(), b"x");
        files.remove().unwrap();
        rustix::mount::unmount(memory, rustix::mount::UnmountFlags::DETACH).unwrap();
        share.remove().unwrap();
    });
}

#[test]
fn the_snapshot_is_in_the_share_as_long_as_the_container() {
    in_private_mounts(|| {
        let temp = tempfile::tempdir().unwrap();
        let log = MemoryLog::new();
        let mut share = SharedDirectory::create(temp.path(), "s", log.clone()).unwrap();
        let before = log.open();
        let snapshot = temp.path().join("snapshot");
        fs::create_dir_all(snapshot.join("fs")).unwrap();
        let image = NydusRootfs::of(&[usual(snapshot.to_str().unwrap())]).unwrap().unwrap();
        let mut files = share.container("c1").unwrap();
        files.share_image(&image).unwrap();
        let seen = share.exported_dir().join("passthrough/c1/snapshotdir/fs");
        fs::write(seen.join("new"), "x").unwrap();
        files.remove().unwrap();
        assert!(!seen.exists() && snapshot.join("fs/new").exists());
        assert_eq!(log.open(), before);
        share.remove().unwrap();
    });
}

#[test]
fn what_is_not_there_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let option = extra(dir.join("boot").to_str().unwrap(), CONFIG, dir.to_str().unwrap());
    let image = NydusRootfs::of(&[mount(&[&option])]).unwrap().unwrap();
    let error = image.check().unwrap_err();
    assert!(error.to_string().contains("boot"), "{error}");
    fs::write(dir.join("boot"), "").unwrap();
    fs::create_dir(dir.join("fs")).unwrap();
    // In the guest it would lead to a directory of the guest's.
    std::os::unix::fs::symlink("/tmp", dir.join("work")).unwrap();
    let error = image.check().unwrap_err();
    assert!(error.to_string().contains("work"), "{error}");
    fs::remove_file(dir.join("work")).unwrap();
    fs::create_dir(dir.join("work")).unwrap();
    image.check().unwrap();
}

#[test]
fn broken_options_are_refused_each_with_its_reason() {
    let json = |text: &str| format!("extraoption={}", BASE64.encode(text.as_bytes()));
    for (option, reason) in [
        ("extraoption=%%%".to_owned(), "not Base64"),
        ("extraoption=".to_owned(), "not JSON"),
        (json("[]"), "not JSON"),
        (json(r#"{"source":"/a","config":"{}"}"#), "not JSON"),
        (json(r#"{"source":"/a","config":{},"snapshotdir":"/s"}"#), "not JSON"),
        (extra("/a", "", "/s"), "no JSON object"),
        (extra("/a", "[1]", "/s"), "no JSON object"),
        (extra("a", "{}", "/s"), "no absolute path"),
        (extra("/a", "{}", "s"), "no absolute path"),
        (extra("/a", "{}", "/s/../etc"), "no absolute path"),
        (extra("/a\0b", "{}", "/s"), "no absolute path"),
        (format!("extraoption={}", "A".repeat(2 << 20)), "are taken at most"),
    ] {
        let error = refusal(&[mount(&[&option])]);
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn contradictions_are_refused() {
    let good = extra("/a", "{}", "/s");
    assert!(matches!(refusal(&[mount(&[&good, &good])]), NydusRootfsError::Twice { .. }));
    let elsewhere = mount(&["upperdir=/other/fs", &good]);
    assert!(matches!(refusal(&[elsewhere]), NydusRootfsError::Elsewhere { .. }));
    let others = [mount(&[&good]), RootfsMount { fs_type: "bind".to_owned(), ..Default::default() }];
    assert!(matches!(refusal(&others), NydusRootfsError::Others { count: 2 }));
    let below = RootfsMount { target: "/etc".into(), ..mount(&[&good]) };
    assert!(matches!(refusal(&[below]), NydusRootfsError::Others { count: 1 }));
}
