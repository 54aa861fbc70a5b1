//! Bind mounts of the host's files and directories, and the file systems every container has.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::time::Duration;

use kata_e2e::{Bind, eventually, kata_test, test};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

#[test]
fn a_directory_can_be_read() {
    test(|containerd| {
        let data = containerd.directory();
        fs::create_dir(data.join("sub")).unwrap();
        fs::write(data.join("sub/file"), "from the host\n").unwrap();
        let run =
            containerd.container().bind(&Bind::read_only(&data, "/data")).shell("cat /data/sub/file").run();
        assert_eq!(run.ok().text(), "from the host");
    });
}

#[test]
fn a_read_only_directory_cannot_be_written() {
    test(|containerd| {
        let data = containerd.directory();
        let run =
            containerd.container().bind(&Bind::read_only(&data, "/data")).shell("echo x > /data/new").run();
        run.fails_because("Read-only file system");
        assert!(!data.join("new").exists());
    });
}

#[test]
fn a_writable_directory_is_written_on_the_host() {
    test(|containerd| {
        let data = containerd.directory();
        let line = "mkdir /data/d; echo x > /data/d/f; chown 12:34 /data/d/f; chmod 640 /data/d/f";
        containerd.container().bind(&Bind::writable(&data, "/data")).shell(line).run().ok().done();
        let metadata = fs::metadata(data.join("d/f")).unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (12, 34, 0o640));
    });
}

#[test]
fn a_single_file_can_be_read_and_not_written() {
    test(|containerd| {
        let file = containerd.directory().join("single");
        fs::write(&file, "only this\n").unwrap();
        let run = containerd.container().bind(&Bind::read_only(&file, "/etc/single"));
        let run = run.shell("cat /etc/single; echo x > /etc/single").run();
        assert_eq!(run.text(), "only this");
        run.fails_because("Read-only file system");
    });
}

#[test]
fn a_single_writable_file_is_written_on_the_host() {
    test(|containerd| {
        let directory = containerd.directory();
        let file = directory.join("single");
        fs::write(&file, "first\n").unwrap();
        fs::write(directory.join("neighbour"), "private").unwrap();
        let run = containerd.container().bind(&Bind::writable(&file, "/deep/down/single"));
        let run = run.shell("echo second >> /deep/down/single; ls /deep/down").run().ok();
        assert_eq!(run.text(), "single");
        assert_eq!(fs::read_to_string(&file).unwrap(), "first\nsecond\n");
    });
}

#[test]
fn a_file_hides_the_images_own() {
    test(|containerd| {
        let file = containerd.directory().join("passwd");
        fs::write(&file, "me:x:0:0::/:/bin/sh\n").unwrap();
        let container =
            containerd.container().bind(&Bind::read_only(&file, "/etc/passwd")).shell("id -un; sleep 1000");
        let container = container.start();
        assert_eq!(container.shell("id -un"), "me");
        assert!(!container.changes_on_host().join("etc/passwd").exists(), "the image's file is not touched");
    });
}

#[test]
fn changes_on_the_host_are_seen_inside() {
    test(|containerd| {
        let data = containerd.directory();
        fs::write(data.join("file"), "old").unwrap();
        let container = containerd.container().bind(&Bind::read_only(&data, "/data"));
        let container = container.command(["/bin/sleep", "1000"]).start();
        assert_eq!(container.shell("cat /data/file; ls /data"), "old\u{66}ile");
        fs::write(data.join("file"), "something new and longer").unwrap();
        fs::write(data.join("second"), "").unwrap();
        eventually("the new content is there", Duration::from_secs(10), || {
            container.shell("cat /data/file; ls /data") == "something new and longerfile\nsecond"
        });
    });
}

#[test]
fn two_mounts_of_one_directory_show_the_same() {
    test(|containerd| {
        let data = containerd.directory();
        let run =
            containerd.container().bind(&Bind::writable(&data, "/a")).bind(&Bind::read_only(&data, "/b"));
        assert_eq!(
            run.shell("echo x > /a/f; cat /b/f; echo y > /b/f 2>/dev/null || echo refused").run().ok().text(),
            "x\nrefused"
        );
    });
}

#[test]
fn a_mount_below_the_directory_comes_with_it() {
    test(|containerd| {
        let data = containerd.directory();
        let below = data.join("below");
        fs::create_dir(&below).unwrap();
        mount(Some("e2e"), &below, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        fs::write(below.join("file"), "on another file system\n").unwrap();
        let run =
            containerd.container().bind(&Bind::writable(&data, "/data")).shell("cat /data/below/file").run();
        umount2(&below, MntFlags::empty()).unwrap();
        assert_eq!(run.ok().text(), "on another file system");
    });
}

#[test]
fn a_source_that_is_not_there_is_named_in_the_error() {
    test(|containerd| {
        let source = containerd.directory().join("no-such-directory");
        let failed =
            containerd.container().bind(&Bind::read_only(&source, "/data")).command(["/bin/true"]).run();
        failed.fails_because("no-such-directory");
    });
}

#[test]
fn names_with_odd_characters_work() {
    test(|containerd| {
        let data = containerd.directory().join("with space ünï");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("a\\b'c"), "odd").unwrap();
        let run =
            containerd.container().bind(&Bind::read_only(&data, "/da ta")).shell("cat '/da ta'/*").run();
        assert_eq!(run.ok().text(), "odd");
    });
}

#[test]
fn the_usual_file_systems_are_there() {
    test(|containerd| {
        let line = "for m in /proc /dev /dev/pts /dev/shm /dev/mqueue /sys; do stat -f -c \"$m %T\" $m; done; \
                    echo x > /dev/null; head -c 4 /dev/zero | wc -c; ls -l /proc/self/exe | grep -c busybox; ls /dev/fd/0";
        let run = containerd.container().shell(line).run().ok().text();
        for mount in ["/proc proc", "/dev tmpfs", "/dev/shm tmpfs", "/sys sysfs"] {
            assert!(run.contains(mount), "{mount} in {run}");
        }
        assert!(run.ends_with("4\n1\n/dev/fd/0"), "{run}");
    });
}

#[test]
fn a_tmpfs_has_the_size_asked_for() {
    test(|containerd| {
        let mount = "type=tmpfs,src=tmpfs,dst=/scratch,options=size=1048576:nosuid";
        let run = containerd.container().option("--mount").option(mount);
        let run = run
            .shell("dd if=/dev/zero of=/scratch/x bs=1k count=2000 2>/dev/null; stat -c %s /scratch/x")
            .run();
        assert_eq!(run.text(), "1048576");
    });
}

/// The ids from 0 on are others on the mount, `to` and so on.
fn mapped(source: &Path, to: u32) -> Value {
    let ids = json!([{ "containerID": 0, "hostID": to, "size": 100 }]);
    json!({ "destination": "/data", "type": "bind", "source": source, "options": ["rbind", "idmap"],
        "uidMappings": ids, "gidMappings": ids })
}

#[test]
fn files_of_a_mapped_mount_belong_to_others() {
    kata_test(|containerd| {
        let data = containerd.directory().join("data");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("file"), "x").unwrap();
        chown(data.join("file"), Some(7), Some(8)).unwrap();
        let container = containerd.container().spec(|spec| {
            spec["mounts"].as_array_mut().unwrap().push(mapped(&data, 5000));
            let line = "stat -c %u:%g /data/file; touch /data/own; chown 5003:5004 /data/own; stat -c %u:%g /data/own";
            spec["process"]["args"] = json!(["/bin/sh", "-c", line]);
            spec["process"]["user"] = json!({ "uid": 5000, "gid": 5000 });
            let all = json!(["CAP_CHOWN"]);
            spec["process"]["capabilities"] = json!({ "bounding": all, "effective": all, "permitted": all,
                "inheritable": all, "ambient": all });
        });
        assert_eq!(container.run().ok().text(), "5007:5008\n5003:5004");
        let own = fs::metadata(data.join("own")).unwrap();
        assert_eq!((own.uid(), own.gid()), (3, 4), "on the host they are as they were");
    });
}
