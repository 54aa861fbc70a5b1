//! inotify(7) in containers for what the host changes in their volumes: the same events in the same order as under runc.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use kata_e2e::{Container, Containerd, Live, RUNC, probe_on, test};

/// What happens while a container watches.
struct Case {
    name: &'static str,
    /// What the volume begins with.
    prepare: fn(&Path),
    /// What is watched.
    paths: &'static [&'static str],
    change: fn(&Path, &Container<'_>, &mut Live),
}

/// One volume, before anything happens: as kubelet makes a ConfigMap.
fn config_map(volume: &Path) {
    fs::create_dir(volume.join("..1")).unwrap();
    fs::write(volume.join("..1/config"), "first").unwrap();
    symlink("..1", volume.join("..data")).unwrap();
    symlink("..data/config", volume.join("config")).unwrap();
}

fn one_file(volume: &Path) {
    fs::write(volume.join("config"), "first").unwrap();
}

fn nothing(_: &Path) {}

fn append(file: &Path, text: &str) {
    OpenOptions::new().append(true).open(file).unwrap().write_all(text.as_bytes()).unwrap();
}

const CASES: [Case; 9] = [
    Case {
        name: "files are made, written and removed",
        prepare: one_file,
        paths: &["/data"],
        change: |volume, _, _| {
            fs::write(volume.join("new"), "x").unwrap();
            append(&volume.join("config"), " and more");
            fs::remove_file(volume.join("new")).unwrap();
        },
    },
    Case {
        name: "a file is replaced by rename",
        prepare: one_file,
        paths: &["/data"],
        change: |volume, _, live| {
            fs::write(volume.join("temporary"), "second").unwrap();
            fs::rename(volume.join("temporary"), volume.join("config")).unwrap();
            live.expect_line("/data\tcreate\ttemporary");
            live.expect_line("/data\tmodify\ttemporary");
            live.expect_line("/data\tclose\ttemporary");
            live.expect_line("/data\tfrom\ttemporary\t0");
            live.expect_line("/data\tto\tconfig\t0\tsecond");
        },
    },
    Case {
        name: "a ConfigMap is updated",
        prepare: config_map,
        paths: &["/data"],
        change: |volume, _, live| {
            fs::create_dir(volume.join("..2")).unwrap();
            fs::write(volume.join("..2/config"), "second").unwrap();
            symlink("..2", volume.join("..data_tmp")).unwrap();
            fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
            live.expect_line("/data\tcreate+dir\t..2");
            live.expect_line("/data\tcreate\t..data_tmp");
            live.expect_line("/data\tfrom\t..data_tmp\t0");
            live.expect_line("/data\tto\t..data\t0\tsecond");
            fs::remove_dir_all(volume.join("..1")).unwrap();
        },
    },
    Case {
        name: "modes, times and links change",
        prepare: one_file,
        paths: &["/data"],
        change: |volume, _, _| {
            fs::set_permissions(volume.join("config"), Permissions::from_mode(0o600)).unwrap();
            fs::hard_link(volume.join("config"), volume.join("link")).unwrap();
            fs::set_permissions(volume, Permissions::from_mode(0o700)).unwrap();
            fs::remove_file(volume.join("link")).unwrap();
        },
    },
    Case {
        name: "directories in directories",
        prepare: nothing,
        paths: &["/data"],
        change: |volume, _, live| {
            fs::create_dir(volume.join("sub")).unwrap();
            live.expect_line("/data\tcreate+dir\tsub");
            fs::write(volume.join("sub/f"), "x").unwrap();
            live.expect_line("/data/sub\tcreate\tf");
            fs::create_dir(volume.join("sub/sub")).unwrap();
            live.expect_line("/data/sub\tmodify\tf");
            live.expect_line("/data/sub\tclose\tf");
            live.expect_line("/data/sub\tcreate+dir\tsub");
            fs::write(volume.join("sub/sub/g"), "x").unwrap();
            fs::rename(volume.join("sub/sub/g"), volume.join("h")).unwrap();
            fs::rename(volume.join("sub/sub"), volume.join("moved")).unwrap();
            fs::write(volume.join("moved/i"), "x").unwrap();
            fs::remove_dir_all(volume.join("moved")).unwrap();
            fs::remove_dir_all(volume.join("sub")).unwrap();
        },
    },
    Case {
        name: "a thousand quick changes",
        prepare: nothing,
        paths: &["/data"],
        change: |volume, _, _| {
            for number in 0..250 {
                let file = volume.join(format!("quick-{number}"));
                fs::write(&file, "x").unwrap();
                fs::rename(&file, volume.join("kept")).unwrap();
            }
        },
    },
    Case {
        name: "a file itself is watched",
        prepare: one_file,
        paths: &["/data/config", "/data"],
        change: |volume, _, live| {
            fs::write(volume.join("config"), "longer than before").unwrap();
            live.expect_line("/data\tmodify\tconfig");
            fs::set_permissions(volume.join("config"), Permissions::from_mode(0o600)).unwrap();
            fs::rename(volume.join("config"), volume.join("old")).unwrap();
            fs::remove_file(volume.join("old")).unwrap();
        },
    },
    Case {
        name: "a file that is watched is replaced",
        prepare: one_file,
        paths: &["/data/config", "/data"],
        change: |volume, container, _| {
            // It is in the guest's memory.
            assert_eq!(container.shell("cat /data/config"), "first");
            fs::write(volume.join("temporary"), "second").unwrap();
            fs::rename(volume.join("temporary"), volume.join("config")).unwrap();
        },
    },
    Case {
        name: "the container changes files, too",
        prepare: one_file,
        paths: &["/data"],
        change: |volume, container, _| {
            container
                .shell("echo x >/data/own; mv /data/own /data/kept; chmod 600 /data/kept; rm /data/config");
            fs::write(volume.join("hosts"), "x").unwrap();
        },
    },
];

/// What a container of `runtime` is told.
fn told(containerd: &Containerd, runtime: &str, case: &Case, mode: &str) -> Vec<String> {
    let volume = containerd.directory();
    (case.prepare)(&volume);
    let words: Vec<&str> = std::iter::once("watch").chain(case.paths.iter().copied()).collect();
    let recipe = probe_on(containerd, runtime, (&volume, "/data", mode), &words);
    let (container, mut live) = recipe.start_in_background();
    live.expect_line("ready");
    (case.change)(&volume, &container, &mut live);
    fs::write(volume.join("end"), "").unwrap();
    let told = live.finish().ok().text();
    container.remove();
    told.lines().map(str::to_owned).collect()
}

#[track_caller]
fn same_as_under_runc(containerd: &Containerd, cases: &[Case], mode: &str) {
    for case in cases {
        let right = told(containerd, RUNC, case, mode);
        let ours = told(containerd, &containerd.stage.runtime, case, mode);
        assert!(!right.is_empty(), "{}: nothing", case.name);
        assert_eq!(ours, right, "{}: ours, and under runc", case.name);
    }
}

#[test]
fn changes_of_the_host_are_told_as_under_runc() {
    test(|containerd| same_as_under_runc(containerd, &CASES[..8], "ro"));
}

#[test]
fn changes_of_both_in_a_writable_volume_are_told_once() {
    test(|containerd| same_as_under_runc(containerd, &CASES, "rw"));
}

#[test]
fn changes_of_a_single_file_are_told() {
    test(|containerd| {
        for runtime in [RUNC, &containerd.stage.runtime] {
            let file = containerd.directory().join("hosts");
            fs::write(&file, "first").unwrap();
            let mount = (file.as_path(), "/etc/hosts", "ro");
            let recipe = probe_on(containerd, runtime, mount, &["watch", "/etc/hosts"]);
            let (container, mut live) = recipe.start_in_background();
            live.expect_line("ready");
            append(&file, " second");
            live.expect_line("/etc/hosts\tmodify\t");
            live.expect_line("/etc/hosts\tclose\t\tfirst second");
            fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
            live.expect_line("/etc/hosts\tattrib\t");
            container.signal("KILL");
            container.wait_until_stopped();
            container.remove();
        }
    });
}
