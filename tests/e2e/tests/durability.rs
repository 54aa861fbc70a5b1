//! Nothing that was synced is lost when the VM or the shim is killed, or a disk is taken away, while a container writes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use kata_e2e::{
    Bind, Container, Containerd, Live, Recipe, RootMount, amount, check_ext4, eventually, kata_test, read_ext4,
};
use serde_json::json;

const SHIM: &str = "containerd-shim-kata-v2";
const QEMU: &str = "qemu-system-x86_64";

/// Writes numbers to the end of these files, one after the other, and tells of each that is synced in all of them.
fn write(container: &Container<'_>, files: &[&str]) -> Live {
    let each = |what: &str| files.iter().map(|file| format!("{what} {file} && ")).collect::<String>();
    let line =
        format!("i=0; while i=$((i+1)); do {} {} echo $i || exit 1; done", each("echo $i >>"), each("sync"));
    let mut writer = container.exec_shell(&line).attach();
    (1..=amount(50, 1000)).for_each(|number| writer.expect_line(&number.to_string()));
    writer
}

/// The last number that was told, after the writer's end.
fn last_told(writer: Live) -> usize {
    let told = writer.finish_within(Duration::from_secs(30)).text();
    told.lines().last().and_then(|line| line.parse().ok()).unwrap_or_else(|| amount(50, 1000))
}

/// All numbers up to the one told are there.
#[track_caller]
fn holds(what: &str, text: &str, told: usize) {
    let mut expected = String::new();
    (1..=told).for_each(|number| expected += &format!("{number}\n"));
    assert!(format!("{text}\n").starts_with(&expected), "{what}: {told} were synced, and there are:\n{text}");
}

/// As an operator cleans up after a crash.
fn remove(containerd: &Containerd, container: &Container<'_>) {
    eventually("no process is left", Duration::from_secs(30), || containerd.processes().is_empty());
    container.remove();
}

fn killed_while_a_container_writes(program: &str) {
    kata_test(|containerd| {
        let volume = containerd.directory();
        let container = containerd.container().bind(&Bind::writable(&volume, "/data"));
        let container = container.command(["/bin/sleep", "1000"]).start();
        let writer = write(&container, &["/numbers", "/data/numbers"]);
        for process in containerd.processes_of(program) {
            process.kill();
        }
        let told = last_told(writer);
        let root = container.changes_on_host().join("numbers");
        for file in [root, volume.join("numbers")] {
            holds(&format!("{}", file.display()), fs::read_to_string(&file).unwrap().trim_end(), told);
        }
        remove(containerd, &container);
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

fn on_disk<'c>(containerd: &'c Containerd, sandbox: Option<&str>) -> Recipe<'c> {
    containerd.container().spec(|spec| {
        spec["root"]["path"] = json!("rootfs");
        spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
        if let Some(sandbox) = sandbox {
            spec["annotations"] = json!({
                "io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": sandbox,
            });
        }
    })
}

fn disk(path: &Path) -> RootMount {
    RootMount::new("ext4", path, ["loop"])
}

#[test]
fn what_was_synced_to_a_disk_is_in_its_image_when_the_shim_is_killed() {
    kata_test(|containerd| {
        let ext4 = containerd.ext4_of_busybox();
        let container = on_disk(containerd, None).start_on(&[disk(&ext4)]);
        let writer = write(&container, &["/numbers"]);
        for process in containerd.processes_of(SHIM) {
            process.kill();
        }
        let told = last_told(writer);
        remove(containerd, &container);
        check_ext4(&ext4);
        holds("the disk", &read_ext4(&ext4, "/numbers"), told);
    });
}

/// The container is killed, its file system unmounted, and only then is the disk unplugged.
#[test]
fn a_disk_that_is_unplugged_while_it_is_written_to_is_whole() {
    kata_test(|containerd| {
        let pod = containerd.container().command(["/bin/sleep", "1000"]).start();
        let ext4 = containerd.ext4_of_busybox();
        let container = on_disk(containerd, Some(pod.id())).start_on(&[disk(&ext4)]);
        let writer = write(&container, &["/numbers"]);
        container.remove();
        let told = last_told(writer);
        assert_eq!(pod.shell("ls /sys/block | grep -c '^[sv]d' || true"), "0");
        check_ext4(&ext4);
        holds("the disk", &read_ext4(&ext4, "/numbers"), told);
        assert_eq!(pod.shell("echo alive"), "alive");
        pod.remove();
    });
}
