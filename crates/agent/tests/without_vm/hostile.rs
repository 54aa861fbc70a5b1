//! Images, specifications and workloads that are made to break out, or to break the agent.

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::collection::vec;
use proptest::sample::select;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use rustix::fs::{CWD, Mode, RenameFlags, mknodat, renameat_with};
use serde_json::{Value, json};

use super::guest::{Guest, message, process, skips};

/// What lies beside the container's root, and must stay as it is.
struct Outside(PathBuf);

impl Outside {
    fn beside(guest: &Guest) -> Self {
        let folder = guest.folder.path().join("outside");
        fs::create_dir_all(folder.join("kept")).expect("a folder");
        fs::write(folder.join("file"), "as it was").expect("a file");
        Self(folder)
    }

    #[track_caller]
    fn assert_untouched(&self, case: &Value) {
        let mut names: Vec<_> = fs::read_dir(&self.0)
            .expect("is there")
            .map(|entry| entry.expect("can be listed").file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["file", "kept"], "{case}");
        assert_eq!(fs::read_dir(self.0.join("kept")).expect("is there").count(), 0, "{case}");
        assert_eq!(fs::read(self.0.join("file")).expect("is there"), b"as it was", "{case}");
    }
}

/// Where links in the image lead.
fn target() -> impl Strategy<Value = &'static str> {
    select(vec![
        "../outside",
        "../../outside/kept",
        "/../outside",
        "../outside/file",
        "/proc/self/root/outside",
        "/proc/1/root",
        "/proc/self/cwd/../outside",
        "/proc/self/fd/3",
        "/dev/fd/4",
        "..",
        "/",
        "loop",
        "tmp/../..",
    ])
}

/// Names in the image that the agent goes through.
fn place() -> impl Strategy<Value = &'static str> {
    select(vec![
        "dev",
        "dev/pts",
        "dev/console",
        "dev/null",
        "dev/ptmx",
        "proc",
        "sys",
        "etc",
        "data",
        "data/x",
        "loop",
    ])
}

fn destination() -> impl Strategy<Value = &'static str> {
    select(vec![
        "/data/made",
        "/data/x/y/z",
        "/etc/new",
        "/../outside/made",
        "/data/../../outside/made",
        "/loop/x",
        "/dev/shm",
    ])
}

/// Links in an image, and what its specification asks for there.
fn case() -> impl Strategy<Value = Value> {
    let links = vec((place(), target()), 0..4);
    let mounts = vec((destination(), select(vec!["tmpfs", "file", "folder"])), 0..3);
    let paths = vec(destination(), 0..3);
    (links, mounts, paths, destination(), destination()).prop_map(|(links, mounts, paths, device, cwd)| {
        json!({ "links": links, "mounts": mounts, "paths": paths, "device": device, "cwd": cwd })
    })
}

/// Makes the image as the case says; the specification that goes with it.
fn arrange(guest: &Guest, case: &Value, outside: &Path) -> Value {
    let root = guest.folder.path().join("rootfs");
    for entry in fs::read_dir(&root).expect("is there").flatten() {
        if entry.file_name() != "bin" {
            let path = entry.path();
            let is_folder = entry.file_type().expect("is told").is_dir();
            let removed = if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            removed.expect("nothing is mounted there");
        }
    }
    for link in case["links"].as_array().expect("a list") {
        let place = root.join(link[0].as_str().expect("text"));
        let made = place.parent().is_some_and(|folder| fs::create_dir_all(folder).is_ok());
        if made
            && place
                .parent()
                .and_then(|folder| folder.canonicalize().ok())
                .is_some_and(|p| p.starts_with(&root))
        {
            // What is there already stays.
            let _ = symlink(link[1].as_str().expect("text"), place);
        }
    }
    let mut spec = guest.spec(&["true"]);
    for mount in case["mounts"].as_array().expect("a list") {
        let source = match mount[1].as_str() {
            Some("file") => outside.join("file"),
            _ => outside.join("kept"),
        };
        let mount = match mount[1].as_str() {
            Some("tmpfs") => json!({ "destination": mount[0], "type": "tmpfs", "source": "tmpfs" }),
            _ => {
                json!({ "destination": mount[0], "type": "bind", "source": source, "options": ["bind", "ro"] })
            }
        };
        spec["mounts"].as_array_mut().expect("a list").push(mount);
    }
    spec["linux"]["maskedPaths"] = case["paths"].clone();
    spec["linux"]["readonlyPaths"] = case["paths"].clone();
    spec["linux"]["devices"] = json!([{ "path": case["device"], "type": "c", "major": 1, "minor": 3 }]);
    spec["process"]["cwd"] = case["cwd"].clone();
    spec
}

agent_test!(nothing_outside_the_root_is_touched_whatever_the_image, |guest| {
    let outside = Outside::beside(&guest);
    let mut runner = TestRunner::deterministic();
    let mut made = 0;
    for _ in 0..150 {
        let case = case().new_tree(&mut runner).expect("can be made").current();
        let spec = arrange(&guest, &case, &outside.0);
        // Whether it is refused or made inside.
        if guest.create_with("c", &spec, false).await.is_ok() {
            made += 1;
            guest.start_container("c").await.expect("started");
            guest.wait("c", "").await.expect("ended");
            guest.remove("c").await.expect("removed");
        }
        outside.assert_untouched(&case);
    }
    assert!(made > 10, "only {made} of the images could be used: the others say nothing");
});

agent_test!(
    /// Another container may change a volume while this one is made.
    a_link_that_takes_a_folders_place_in_time_leads_nowhere,
    |guest| {
        let outside = Outside::beside(&guest);
        let volume = guest.folder.path().join("volume");
        fs::create_dir_all(volume.join("folder")).expect("a folder");
        symlink(&outside.0, volume.join("link")).expect("a link");
        let done = Arc::new(AtomicBool::new(false));
        let swapping = {
            let (volume, done) = (volume.clone(), Arc::clone(&done));
            std::thread::spawn(move || {
                let (folder, link) = (volume.join("folder"), volume.join("link"));
                while !done.load(Ordering::Relaxed) {
                    renameat_with(CWD, &folder, CWD, &link, RenameFlags::EXCHANGE).expect("both are there");
                }
            })
        };
        let mut spec = guest.spec(&["true"]);
        let mounts = spec["mounts"].as_array_mut().expect("a list");
        mounts.push(json!({ "destination": "/data", "type": "bind", "source": volume, "options": ["rbind"] }));
        mounts.push(json!({ "destination": "/data/folder/made", "type": "tmpfs", "source": "tmpfs" }));
        mounts.push(json!({ "destination": "/data/link/file2", "type": "bind", "source": "/dev/null", "options": ["bind"] }));
        for _ in 0..60 {
            if guest.create_with("c", &spec, false).await.is_ok() {
                guest.remove("c").await.expect("removed");
            }
        }
        done.store(true, Ordering::Relaxed);
        swapping.join().expect("no panic");
        outside.assert_untouched(&json!("links that are swapped"));
    }
);

/// A container whose root may do all that a guest's kernel lets it.
fn privileged(guest: &Guest, script: &str) -> Value {
    let mut spec = guest.spec(&["sh", "-c", script]);
    let all = json!([
        "CAP_SYS_ADMIN",
        "CAP_SYS_PTRACE",
        "CAP_SYS_CHROOT",
        "CAP_MKNOD",
        "CAP_DAC_OVERRIDE",
        "CAP_KILL"
    ]);
    spec["process"]["capabilities"] = json!({ "bounding": all, "effective": all, "permitted": all });
    spec
}

agent_test!(
    /// As in CVE-2023-28642 and its kind: what a runtime reads in a container is what the container says.
    a_workload_that_hides_proc_does_not_mislead_the_next_process,
    |guest| {
        let hide = "echo 0 > /tmp/zero; mount -o bind /tmp/zero /proc/sys/kernel/cap_last_cap && echo hidden; \
                    mount -t tmpfs none /proc && echo empty; exec sleep 1000";
        let mut spec = privileged(&guest, hide);
        let tmp = json!({ "destination": "/tmp", "type": "tmpfs", "source": "tmpfs" });
        spec["mounts"].as_array_mut().expect("a list").push(tmp);
        let mut streams = guest.create_with("c", &spec, false).await.expect("created");
        guest.start_container("c").await.expect("started");
        streams.expect("hidden\nempty\n").await;
        let mut added = process(&["sh", "-c", "echo runs; test -e /proc/self || echo blind"]);
        added["capabilities"] = json!({});
        added["rlimits"] = json!([{ "type": "RLIMIT_CORE", "soft": 0, "hard": 0 }]);
        let mut streams = guest.exec_with("c", "e", &added, false).await.expect("added");
        assert_eq!(streams.output().await, b"runs\nblind\n");
    }
);

agent_test!(a_pipe_in_the_place_of_the_list_of_users_blocks_nobody, |guest| {
    let root = guest.folder.path().join("rootfs");
    fs::create_dir_all(root.join("etc")).expect("a folder");
    let users = root.join("etc/passwd");
    let _ = fs::remove_file(&users);
    mknodat(CWD, &users, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o644), 0).expect("a pipe");
    assert!(fs::metadata(&users).expect("is there").file_type().is_fifo());
    let mut spec = guest.spec(&["sh", "-c", "echo $HOME"]);
    spec["process"]["env"] = json!(["PATH=/bin"]);
    let mut streams = guest.create_with("c", &spec, false).await.expect("created");
    guest.start_container("c").await.expect("started");
    assert_eq!(streams.output().await, b"/\n");
});

agent_test!(a_workload_that_kills_all_it_can_hits_only_its_own, |guest| {
    let spec = privileged(&guest, "kill -9 -1; kill -9 1; exit 5");
    guest.create_with("c", &spec, false).await.expect("created");
    guest.start_container("c").await.expect("started");
    assert_eq!(guest.wait("c", "").await.expect("ended"), 5);
    guest.remove("c").await.expect("removed");
    let mut streams = guest.run("next", &["echo", "alive"]).await;
    assert_eq!(streams.output().await, b"alive\n");
});

agent_test!(ids_and_numbers_without_sense_are_refused, |guest| {
    for id in ["", ".", "..", "a/b", "../x", "a\nb", &"x".repeat(5000)] {
        let refusal = message(guest.create_with(id, &guest.spec(&["true"]), false).await);
        assert!(refusal.contains("id"), "{id:?}: {refusal}");
    }
    let mut spec = guest.spec(&["true"]);
    spec["linux"]["devices"] = json!([{ "path": "/dev/x", "type": "c", "major": -7, "minor": 1 }]);
    let refusal = message(guest.create_with("c", &spec, false).await);
    assert!(refusal.contains("/dev/x"), "{refusal}");
    guest.run("c", &["true"]).await;
});
