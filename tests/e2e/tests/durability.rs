//! Nothing that was synced is lost when the VM or the shim is killed, or a disk is taken away, while a container writes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use kata_e2e::{
    Container, Containerd, Created, Process, RootMount, check_ext4, eventually, fail, kata_test, read_ext4,
};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use serde_json::{Value, json};

const SHIM: &str = "containerd-shim-kata-v2";
const QEMU: &str = "qemu-system-x86_64";

/// So many are written before something is killed.
const ENOUGH: usize = 50;

/// Its process writes numbers to the end of these files, one after the other, and tells of each that is synced in all.
fn writes(spec: &mut Value, files: &[&str]) {
    let each = |what: &str| files.iter().map(|file| format!("{what} {file} && ")).collect::<String>();
    let line =
        format!("i=0; while i=$((i+1)); do {} {} echo $i || exit 1; done", each("echo $i >>"), each("sync"));
    spec["process"]["args"] = json!(["/bin/sh", "-c", line]);
}

/// Lets it write for a while.
fn begin(created: &Created<'_>) {
    created.start();
    // Each number waits for the host's disk, which others may use, too.
    while told(created) < ENOUGH {
        let before = told(created);
        eventually("it writes", Duration::from_secs(60), || told(created) > before);
    }
}

/// How many numbers were told.
fn told(created: &Created<'_>) -> usize {
    fs::read_to_string(&created.output).unwrap_or_default().lines().count()
}

/// All numbers up to the one told are there.
#[track_caller]
fn holds(what: &str, text: &str, told: usize) {
    let mut expected = String::new();
    (1..=told).for_each(|number| expected += &format!("{number}\n"));
    assert!(format!("{text}\n").starts_with(&expected), "{what}: {told} were synced, and there are:\n{text}");
}

fn kill(containerd: &Containerd, program: &str) {
    let found = containerd.processes_of(program);
    assert!(!found.is_empty(), "{program} runs");
    found.iter().for_each(Process::kill);
}

/// As an operator cleans up after a crash.
fn remove(containerd: &Containerd, container: &Container<'_>) {
    container.remove();
    eventually("no process is left", Duration::from_secs(30), || containerd.processes().is_empty());
}

fn killed_while_a_container_writes(program: &str) {
    kata_test(|containerd| {
        let (volume, mut root) = (containerd.directory(), String::new());
        let recipe = containerd.container().spec(|spec| {
            let options = ["rbind", "rw"];
            let mount =
                json!({ "destination": "/data", "type": "bind", "source": volume, "options": options });
            spec["mounts"].as_array_mut().expect("a list").push(mount);
            writes(spec, &["/numbers", "/data/numbers"]);
            spec["root"]["path"].as_str().expect("a path").clone_into(&mut root);
        });
        let created = recipe.create_task();
        begin(&created);
        kill(containerd, program);
        remove(containerd, &created.container);
        for file in [Path::new(&root).join("numbers"), volume.join("numbers")] {
            holds(
                &file.display().to_string(),
                fs::read_to_string(&file).unwrap_or_default().trim_end(),
                told(&created),
            );
        }
    });
}

/// It was in the memory of a guest that was ended.
#[test]
fn what_was_written_to_a_disk_is_there_when_its_sandbox_is_ended_around_it() {
    kata_test(|containerd| {
        let ext4 = containerd.ext4_of_busybox();
        let recipe = containerd.container().spec(|spec| {
            spec["root"]["path"] = json!("rootfs");
            spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
        });
        let container = recipe.start_on(&[RootMount::new("ext4", &ext4, ["loop"])]);
        container.shell("echo kept > /written");
        for shim in containerd.processes_of(SHIM) {
            signal::kill(Pid::from_raw(shim.pid), Signal::SIGTERM).expect("it lives");
        }
        remove(containerd, &container);
        assert_eq!(read_ext4(&ext4, "/written"), "kept");
        check_ext4(&ext4);
    });
}

#[test]
fn what_was_synced_to_the_share_is_on_the_host_when_qemu_is_killed() {
    killed_while_a_container_writes(QEMU);
}

#[test]
fn what_was_synced_to_the_share_is_on_the_host_when_the_shim_is_killed() {
    killed_while_a_container_writes(SHIM);
}

/// A container that writes to its root, which is on this disk.
fn on_disk<'c>(containerd: &'c Containerd, sandbox: Option<&str>, disk: &Path) -> Created<'c> {
    let recipe = containerd.container().spec(|spec| {
        spec["root"]["path"] = json!("rootfs");
        writes(spec, &["/numbers"]);
        if let Some(sandbox) = sandbox {
            spec["annotations"] = json!({
                "io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": sandbox,
            });
        }
    });
    let created = recipe.try_create_task_on(&[RootMount::new("ext4", disk, ["loop"])]);
    created.unwrap_or_else(|e| fail(e))
}

#[test]
fn what_was_synced_to_a_disk_is_in_its_image_when_the_shim_is_killed() {
    kata_test(|containerd| {
        let ext4 = containerd.ext4_of_busybox();
        let created = on_disk(containerd, None, &ext4);
        begin(&created);
        kill(containerd, SHIM);
        remove(containerd, &created.container);
        check_ext4(&ext4);
        holds("the disk", &read_ext4(&ext4, "/numbers"), told(&created));
    });
}

/// The container is killed, its file system unmounted, and only then is the disk unplugged.
#[test]
fn a_disk_that_is_unplugged_while_it_is_written_to_is_whole() {
    kata_test(|containerd| {
        let pod = containerd.container().command(["/bin/sleep", "1000"]).start();
        let ext4 = containerd.ext4_of_busybox();
        let created = on_disk(containerd, Some(pod.id()), &ext4);
        begin(&created);
        created.container.remove();
        assert_eq!(pod.shell("ls /sys/block | grep -c '^[sv]d' || true"), "0");
        check_ext4(&ext4);
        holds("the disk", &read_ext4(&ext4, "/numbers"), told(&created));
        assert_eq!(pod.shell("echo alive"), "alive");
        pod.remove();
    });
}
