//! inotify(7) in containers for what the host changes in their volumes: the same events in the same order as under runc.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use kata_e2e::{Container, Containerd, Live, RUNC, test, with_probe};

/// What happens while a container watches.
struct Case {
    name: &'static str,
    /// What the volume begins with.
    prepare: fn(&Path) -> io::Result<()>,
    /// What is watched.
    paths: &'static [&'static str],
    change: fn(&Path, &Container<'_>, &mut Live) -> io::Result<()>,
}

/// One volume, before anything happens: as kubelet makes a ConfigMap.
fn config_map(volume: &Path) -> io::Result<()> {
    fs::create_dir(volume.join("..1"))?;
    fs::write(volume.join("..1/config"), "first")?;
    symlink("..1", volume.join("..data"))?;
    symlink("..data/config", volume.join("config"))
}

fn one_file(volume: &Path) -> io::Result<()> {
    fs::write(volume.join("config"), "first")
}

fn a_directory(volume: &Path) -> io::Result<()> {
    fs::create_dir(volume.join("there"))
}

fn append(file: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().append(true).open(file)?.write_all(text.as_bytes())
}

const CASES: [Case; 9] = [
    Case {
        name: "files are made, written and removed",
        prepare: one_file,
        paths: &["/data"],
        change: |volume, _, _| {
            fs::write(volume.join("new"), "x")?;
            append(&volume.join("config"), " and more")?;
            fs::remove_file(volume.join("new"))?;
            Ok(())
        },
    },
    Case {
        name: "a file is replaced by rename",
        prepare: one_file,
        paths: &["/data"],
        change: |volume, _, live| {
            fs::write(volume.join("temporary"), "second")?;
            fs::rename(volume.join("temporary"), volume.join("config"))?;
            live.expect_line("/data\tcreate\ttemporary");
            live.expect_line("/data\tmodify\ttemporary");
            live.expect_line("/data\tclose\ttemporary");
            live.expect_line("/data\tfrom\ttemporary\t0");
            live.expect_line("/data\tto\tconfig\t0\tsecond");
            fs::remove_file(volume.join("config"))?;
            Ok(())
        },
    },
    Case {
        name: "a ConfigMap is updated",
        prepare: config_map,
        paths: &["/data"],
        change: |volume, _, live| {
            fs::create_dir(volume.join("..2"))?;
            fs::write(volume.join("..2/config"), "second")?;
            symlink("..2", volume.join("..data_tmp"))?;
            fs::rename(volume.join("..data_tmp"), volume.join("..data"))?;
            live.expect_line("/data\tcreate+dir\t..2");
            live.expect_line("/data\tcreate\t..data_tmp");
            live.expect_line("/data\tfrom\t..data_tmp\t0");
            live.expect_line("/data\tto\t..data\t0\tsecond");
            fs::remove_dir_all(volume.join("..1"))?;
            Ok(())
        },
    },
    Case {
        name: "modes, times and links change",
        prepare: one_file,
        paths: &["/data"],
        change: |volume, _, _| {
            fs::set_permissions(volume.join("config"), Permissions::from_mode(0o600))?;
            fs::hard_link(volume.join("config"), volume.join("link"))?;
            fs::set_permissions(volume, Permissions::from_mode(0o700))?;
            fs::remove_file(volume.join("link"))?;
            Ok(())
        },
    },
    Case {
        name: "directories in directories",
        prepare: a_directory,
        paths: &["/data"],
        change: |volume, _, live| {
            fs::create_dir(volume.join("sub"))?;
            live.expect_line("/data\tcreate+dir\tsub");
            fs::write(volume.join("sub/f"), "x")?;
            live.expect_line("/data/sub\tcreate\tf");
            fs::create_dir(volume.join("sub/sub"))?;
            live.expect_line("/data/sub\tmodify\tf");
            live.expect_line("/data/sub\tclose\tf");
            live.expect_line("/data/sub\tcreate+dir\tsub");
            fs::write(volume.join("sub/sub/g"), "x")?;
            fs::rename(volume.join("sub/sub/g"), volume.join("h"))?;
            fs::rename(volume.join("sub/sub"), volume.join("moved"))?;
            fs::write(volume.join("moved/i"), "x")?;
            fs::remove_dir_all(volume.join("moved"))?;
            fs::remove_dir_all(volume.join("sub"))?;
            Ok(())
        },
    },
    Case {
        name: "a thousand quick changes",
        prepare: a_directory,
        paths: &["/data"],
        change: |volume, _, _| {
            for number in 0..1000 {
                let file = volume.join(format!("quick-{number}"));
                fs::write(&file, "x")?;
                fs::rename(&file, volume.join("kept"))?;
            }
            Ok(())
        },
    },
    Case {
        name: "a file itself is watched",
        prepare: one_file,
        paths: &["/data/config", "/data"],
        change: |volume, _, live| {
            append(&volume.join("config"), " and more")?;
            live.expect_line("/data\tmodify\tconfig");
            live.expect_line("/data/config\tmodify\t");
            live.expect_line("/data\tclose\tconfig\tfirst and more");
            live.expect_line("/data/config\tclose\t\tfirst and more");
            fs::set_permissions(volume.join("config"), Permissions::from_mode(0o600))?;
            fs::rename(volume.join("config"), volume.join("old"))?;
            fs::remove_file(volume.join("old"))?;
            Ok(())
        },
    },
    Case {
        name: "a file that is watched is replaced",
        prepare: one_file,
        paths: &["/data/config", "/data"],
        change: |volume, container, _| {
            // It is in the guest's memory.
            assert_eq!(container.shell("cat /data/config"), "first");
            fs::write(volume.join("temporary"), "second")?;
            fs::rename(volume.join("temporary"), volume.join("config"))?;
            Ok(())
        },
    },
    Case {
        name: "the container changes files, too",
        prepare: one_file,
        paths: &["/data"],
        change: |volume, container, _| {
            container
                .shell("echo x >/data/own; mv /data/own /data/kept; chmod 600 /data/kept; rm /data/config");
            fs::write(volume.join("hosts"), "x")?;
            Ok(())
        },
    },
];

/// What a container of `runtime` is told.
fn told(containerd: &Containerd, runtime: &str, case: &Case, mode: &str) -> Vec<String> {
    let volume = containerd.directory();
    (case.prepare)(&volume).expect("a directory of the test's");
    let container = with_probe(containerd, runtime, (&volume, "/data", mode));
    let mut live = container.exec([&["/bin/kata-probe", "watch"], case.paths].concat()).attach();
    live.expect_line("ready");
    (case.change)(&volume, &container, &mut live).expect("a directory of the test's");
    fs::write(volume.join("end"), "").expect("a directory of the test's");
    let told = live.finish().ok().text();
    container.remove();
    told.lines().map(str::to_owned).collect()
}

#[track_caller]
fn same_as_under_runc(containerd: &Containerd, cases: &[Case], mode: &str) {
    for case in cases {
        let right = told(containerd, RUNC, case, mode);
        let ours = told(containerd, &containerd.stage.runtime, case, mode);
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
            let container = with_probe(containerd, runtime, mount);
            let mut live = container.exec(["/bin/kata-probe", "watch", "/etc/hosts"]).attach();
            live.expect_line("ready");
            append(&file, " second").unwrap();
            live.expect_line("/etc/hosts\tmodify\t");
            live.expect_line("/etc/hosts\tclose\t\tfirst second");
            fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
            live.expect_line("/etc/hosts\tattrib\t");
            container.shell("kill $(pidof kata-probe)");
            assert_eq!(live.finish().with_code(143).text(), "", "nothing more is told");
            container.remove();
        }
    });
}
