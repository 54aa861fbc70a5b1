//! Privileged containers: the guest's devices, and container engines inside.

use std::path::Path;

use kata_e2e::{Bind, Container, Containerd, Image, kata_test};
use serde_json::json;

/// What is made on the host only, and what every guest has.
const LOOK: &str = "ls -d /dev/fuse /dev/net/tun /dev/loop-control /dev/kmsg /dev/fd /dev/pts/ptmx; \
                    for node in /dev/*; do test -b $node && echo block $node; done; \
                    dd if=/dev/kmsg of=/dev/null count=0 && echo opened";
const GUESTS: &str = "/dev/fd\n/dev/fuse\n/dev/kmsg\n/dev/loop-control\n/dev/net/tun\n/dev/pts/ptmx\nopened";

#[test]
fn a_privileged_container_has_the_guests_devices() {
    kata_test(|containerd| {
        let run = containerd.container().option("--privileged").shell(LOOK).run();
        assert_eq!(run.ok().text(), GUESTS);
    });
}

/// containerd's `privileged_without_host_devices`: everything is allowed, and no device is given.
#[test]
fn a_privileged_container_without_host_devices_has_the_guests_too() {
    kata_test(|containerd| {
        let run = containerd.container().spec(|spec| {
            for set in ["bounding", "effective", "permitted"] {
                spec["process"]["capabilities"][set] =
                    json!(["CAP_SYS_ADMIN", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_MKNOD", "CAP_SYSLOG"]);
            }
            spec["linux"]["maskedPaths"] = json!([]);
            spec["linux"]["readonlyPaths"] = json!([]);
            spec["process"]["args"] = json!(["/bin/sh", "-c", LOOK]);
        });
        assert_eq!(run.run().ok().text(), GUESTS);
    });
}

#[test]
fn a_privileged_container_has_a_terminal() {
    kata_test(|containerd| {
        let mut terminal = containerd
            .container()
            .option("--privileged")
            .shell("tty; exec tty < /dev/console")
            .terminal(80, 24);
        terminal.expect("/dev/pts/0");
        terminal.expect("/dev/console");
        assert_eq!(terminal.finish().0, 0);
    });
}

#[test]
fn a_device_that_only_the_host_has_is_refused() {
    kata_test(|containerd| {
        let run = containerd.container().spec(|spec| {
            spec["linux"]["devices"] =
                json!([{ "path": "/dev/disk", "type": "b", "major": 8, "minor": 77, "fileMode": 0o600 }]);
        });
        run.try_start().fails_because("The guest has no device for /dev/disk (block 8:77)");
    });
}

/// As Kubernetes has it in every container; `ctr` has it in none.
const CGROUPS: &str = "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=rw:nosuid:nodev:noexec";

/// A privileged Debian with the host's containerd and runc in it, and the images of the tests.
fn engine(containerd: &Containerd) -> Container<'_> {
    let images = containerd.stage.images();
    let mut recipe = containerd.container().image(Image::Debian).option("--privileged");
    recipe = recipe.option("--mount").option(CGROUPS);
    for program in
        ["/usr/bin/containerd", "/usr/bin/containerd-shim-runc-v2", "/usr/bin/ctr", "/usr/sbin/runc"]
    {
        recipe = recipe.bind(&Bind::read_only(Path::new(program), program));
    }
    recipe.bind(&Bind::read_only(&images, "/images")).command(["/bin/sleep", "1000"]).start()
}

/// Runs a container in a container: the engine's data is in `/data`.
const NESTED: &str = r"
    containerd --root /data/root --state /run/engine --address /run/engine.sock > /run/engine.log 2>&1 &
    engine=$!
    until ctr -a /run/engine.sock version > /dev/null 2>&1; do sleep 0.2; kill -0 $engine || cat /run/engine.log; done
    ctr() { command ctr -a /run/engine.sock $@; }
    ctr images import /images/busybox.tar > /dev/null
    ctr run --rm --memory-limit 100000000 localhost/kata/busybox:1 inner cat /proc/1/comm /etc/group
    ctr snapshots info inner > /dev/null 2>&1 && echo left
    grep -c overlay /proc/mounts
    kill $engine; wait $engine";

/// The first processes of the inner container, what its image holds, and the number of overlays that are left.
const DONE: &str = "cat\nroot:x:0:\nnogroup:x:65534:\n0";

#[test]
fn a_container_engine_works_on_a_tmpfs() {
    kata_test(|containerd| {
        let engine = engine(containerd);
        let line = format!("mkdir /data; mount -t tmpfs none /data\n{NESTED}\numount /data");
        let run = engine.exec_shell(&line).run();
        assert_eq!(run.text(), DONE, "{run:?}");
    });
}

#[test]
fn a_container_engine_works_on_a_loop_device() {
    kata_test(|containerd| {
        let engine = engine(containerd);
        let line = format!(
            "set -e; mkdir /data; truncate -s 300M /disk; mkfs.ext4 -q /disk; loop=$(losetup -f --show /disk)\n\
             mount $loop /data; set +e\n{NESTED}\numount /data && losetup -d $loop"
        );
        let run = engine.exec_shell(&line).run();
        assert_eq!(run.text(), DONE, "{run:?}");
    });
}

/// Without that no engine inside could limit its containers, and docker's own image would be in nobody's way.
#[test]
fn a_privileged_container_can_share_out_its_cgroup() {
    kata_test(|containerd| {
        let engine = containerd.container().option("--privileged").option("--mount").option(CGROUPS);
        let engine = engine.command(["/bin/sleep", "1000"]).start();
        let line = "cd /sys/fs/cgroup; echo +memory +pids > cgroup.subtree_control; mkdir box; echo 5 > box/pids.max; \
                    cat box/pids.max cgroup.procs";
        assert_eq!(engine.shell(line), "5");
        assert_eq!(engine.shell("cat /proc/self/cgroup /proc/1/cgroup"), "0::/init\n0::/init");
    });
}

#[test]
fn processes_can_be_added_where_an_engine_has_moved_the_first_one() {
    kata_test(|containerd| {
        let engine = containerd.container().option("--privileged").option("--mount").option(CGROUPS);
        let engine = engine.command(["/bin/sleep", "1000"]).start();
        engine.shell("mkdir /sys/fs/cgroup/deep; echo 1 > /sys/fs/cgroup/deep/cgroup.procs");
        assert_eq!(engine.shell("cat /proc/self/cgroup"), "0::/deep");
    });
}
