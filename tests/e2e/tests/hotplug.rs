//! The VM's CPUs and memory follow what its container may use, both ways, while it runs.

use std::time::Duration;

use kata_e2e::{Container, Containerd, eventually, kata_test};
use serde_json::json;

const MIB: u64 = 1 << 20;
/// What the VM has at boot, in MiB.
const BOOT: u64 = 256;
/// Nobody waits for a VM to give back, and no time is promised.
const PATIENCE: Duration = Duration::from_secs(60);

/// A configuration whose VMs are small and may have a second CPU.
fn small(containerd: &Containerd, more: (&str, &str)) {
    containerd.reconfigure(|text| {
        text.replace("\ndefault_memory = 2048", &format!("\ndefault_memory = {BOOT}"))
            .replace("\ndefault_maxvcpus = 0", "\ndefault_maxvcpus = 2")
            .replace(more.0, more.1)
    });
}

fn idle(containerd: &Containerd) -> Container<'_> {
    containerd.container().spec(|spec| spec["process"]["args"] = json!(["/bin/sleep", "1000"])).start()
}

fn resize(container: &Container<'_>, cpus: u64, mib: u64) {
    let limits =
        json!({ "cpu": { "quota": cpus * 100_000, "period": 100_000 }, "memory": { "limit": mib * MIB } });
    container.update(&limits).expect("the VM can have so much");
}

fn cpus(container: &Container<'_>) -> String {
    container.shell("nproc")
}

/// MiB, without what the guest's kernel keeps for itself.
fn memory(container: &Container<'_>) -> u64 {
    let kib = container.shell("sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo");
    kib.trim().parse::<u64>().expect("a number") / 1024
}

#[test]
fn the_vm_grows_with_its_container_and_shrinks_again() {
    kata_test(|containerd| {
        small(containerd, ("", ""));
        let container = idle(containerd);
        assert_eq!(cpus(&container), "1");
        assert!(memory(&container) < BOOT);
        for _ in 0..2 {
            resize(&container, 2, BOOT + 1024);
            assert_eq!(cpus(&container), "2");
            assert!(memory(&container) > 1024, "{} MiB", memory(&container));
            resize(&container, 1, 128);
            eventually("the VM gives back", PATIENCE, || {
                cpus(&container) == "1" && memory(&container) < BOOT
            });
        }
    });
}

#[test]
fn without_virtio_mem_memory_comes_by_modules() {
    kata_test(|containerd| {
        small(containerd, ("enable_virtio_mem = true", "enable_virtio_mem = false"));
        let container = idle(containerd);
        resize(&container, 1, BOOT + 512);
        assert!(memory(&container) > 512, "{} MiB", memory(&container));
        resize(&container, 1, 128);
        eventually("the VM gives back", PATIENCE, || memory(&container) < BOOT);
    });
}

/// virtiofsd reads and writes in the guest's memory: it must know of what has come.
#[test]
fn files_go_through_memory_that_came_later() {
    kata_test(|containerd| {
        small(containerd, ("", ""));
        let container = idle(containerd);
        resize(&container, 1, BOOT + 1024);
        let copied = "dd if=/dev/zero of=/tmp/x bs=1M count=320 2>&1 && dd if=/tmp/x bs=1M 2>/dev/null | wc -c; rm /tmp/x";
        let output = container.shell(copied);
        assert_eq!(output.lines().last(), Some("335544320"), "{output}");
    });
}
