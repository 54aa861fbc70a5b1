//! Direct-assigned volumes, as a CSI driver assigns them: by `kata-runtime direct-volume`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use kata_e2e::{Containerd, Finished, Recipe, kata_test, read_ext4};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// An image with a file system, and the directory that a pod's volume is published at.
struct Volume<'c> {
    containerd: &'c Containerd,
    image: PathBuf,
    path: PathBuf,
}

impl<'c> Volume<'c> {
    fn new(containerd: &'c Containerd) -> Self {
        let (image, path) = (containerd.directory().join("image"), containerd.directory().join("volume"));
        fs::create_dir(&path).expect("the directory is the test's own");
        File::create(&image)
            .expect("the directory is the test's own")
            .set_len(64 * MIB)
            .expect("the directory is the test's own");
        let made = Command::new("mkfs.ext4").arg("-q").arg(&image).status().expect("mkfs.ext4 is there");
        assert!(made.success());
        Self { containerd, image, path }
    }

    fn run(&self, command: &str, more: &[&str]) -> Finished {
        let path = self.path.display().to_string();
        let words = ["direct-volume", command, "--volume-path", &path];
        self.containerd.kata_runtime(words.iter().chain(more))
    }

    /// With what belongs to its files.
    fn add(&self, metadata: &Value) {
        let info = json!({
            "volume-type": "block", "device": self.image, "fstype": "ext4", "options": ["noatime"],
            "metadata": metadata,
        });
        self.run("add", &["--mount-info", &info.to_string()]).ok().done();
    }

    /// A container that has it.
    fn container(&self) -> Recipe<'c> {
        let path = self.path.clone();
        self.containerd.container().spec(move |spec| {
            spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
            mount(spec, &path);
        })
    }
}

fn mount(spec: &mut Value, path: &Path) {
    let mount = json!({ "destination": "/data", "type": "bind", "source": path, "options": ["rbind", "rprivate", "rw"] });
    spec["mounts"].as_array_mut().expect("a specification has mounts").push(mount);
}

#[test]
fn an_assigned_volume_is_mounted_in_the_guest_measured_and_grows() {
    kata_test(|containerd| {
        let volume = Volume::new(containerd);
        volume.add(&json!({ "fsGroup": "1234" }));
        let container = volume.container().start();
        assert_eq!(container.shell("grep ' /data ' /proc/mounts | cut -d' ' -f3"), "ext4");
        assert_eq!(container.shell("echo kept > /data/file; sync; stat -c %g /data"), "1234");
        let total = || -> u64 {
            let stats: Value = serde_json::from_str(&volume.run("stats", &[]).ok().text()).expect("JSON");
            let usage = stats["usage"].as_array().expect("a list");
            let bytes = usage.iter().find(|usage| usage["unit"] == 1).expect("bytes are counted");
            bytes["total"].as_u64().expect("a number")
        };
        let before = total();
        assert!((40 * MIB..64 * MIB).contains(&before), "{before}");
        volume.run("resize", &["--size", "128Mi"]).ok().done();
        let after = total();
        assert!((100 * MIB..128 * MIB).contains(&after), "{after}");
        volume.run("resize", &["--size", "64Mi"]).fails_because("cannot shrink");
        assert_eq!(container.shell("cat /data/file"), "kept");

        let id = container.id().to_owned();
        volume.run("remove", &[]).fails_because(&format!("in use by the sandbox {id}"));
        container.remove();
        volume.run("stats", &[]).fails_because("No sandbox that runs has the volume");
        volume.run("remove", &[]).ok().done();
        assert_eq!(read_ext4(&volume.image, "/file"), "kept");
        assert_eq!(fs::read_dir(&volume.path).unwrap().count(), 0, "nothing was mounted on the host");
    });
}

#[test]
fn an_assigned_block_device_with_xfs_grows_while_it_is_used() {
    kata_test(|containerd| {
        let device = containerd.loop_device(512 * MIB);
        let made = Command::new("mkfs.xfs").arg("-q").arg(&device.node).status();
        assert!(made.expect("mkfs.xfs is there").success());
        let path = containerd.directory();
        let run = |command: &str, more: &[&str]| {
            let path = path.display().to_string();
            let words = ["direct-volume", command, "--volume-path", &path];
            containerd.kata_runtime(words.iter().chain(more)).ok().done();
        };
        let info = json!({ "volume-type": "block", "device": device.node, "fstype": "xfs" });
        run("add", &["--mount-info", &info.to_string()]);
        let container = containerd.container().spec(|spec| {
            spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
            mount(spec, &path);
        });
        let container = container.start();
        let megabytes = || -> u64 {
            let told =
                container.shell("grep -q ' /data xfs ' /proc/mounts && df -m /data | awk 'END { print $2 }'");
            told.parse().expect("a number")
        };
        assert!((400..512).contains(&megabytes()), "{}", megabytes());
        device.grow(768 * MIB);
        run("resize", &["--size", "768Mi"]);
        assert!((656..768).contains(&megabytes()), "{}", megabytes());
        container.remove();
        run("remove", &[]);
    });
}

#[test]
fn an_assigned_volume_is_for_one_sandbox() {
    kata_test(|containerd| {
        let volume = Volume::new(containerd);
        volume.add(&json!({ "fsGroup": "1234" }));
        let first = volume.container().start();
        let words = format!("in use by the sandbox {}", first.id());
        volume.container().try_start().fails_because(&words);
        first.remove();
        let second = volume.container().start();
        assert_eq!(second.shell("touch /data/again; ls /data"), "again\nlost+found");
        second.remove();
        volume.run("remove", &[]).ok().done();
    });
}

/// `Always` gives all to the group, and `OnRootMismatch` nothing if the root is the group's already.
#[test]
fn the_policy_decides_whether_all_files_are_given_to_the_group() {
    kata_test(|containerd| {
        let volume = Volume::new(containerd);
        for (policy, line, groups) in [
            ("Always", "touch /data/file && chgrp 0 /data/file", ["1234", "0"]),
            ("OnRootMismatch", "true", ["1234", "0"]),
            ("Always", "true", ["1234", "1234"]),
        ] {
            volume.add(&json!({ "fsGroup": "1234", "fsGroupChangePolicy": policy }));
            let container = volume.container().start();
            container.shell(line);
            assert_eq!(container.shell("stat -c %g /data /data/file"), groups.join("\n"), "{policy}");
            container.remove();
            volume.run("remove", &[]).ok().done();
        }
    });
}
