//! What a VM's memory is made of on the host, and what its containers swap.

use std::fs;
use std::path::Path;
use std::time::Duration;

use kata_e2e::{Containerd, Recipe, eventually, kata_test};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(10);
/// The host's pool of pages of 2 MiB.
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

fn pages(file: &str) -> u64 {
    let text = fs::read_to_string(Path::new(POOL).join(file)).expect("the host has huge pages");
    text.trim().parse().expect("a number")
}

fn set_pages(count: u64) {
    fs::write(Path::new(POOL).join("nr_hugepages"), count.to_string()).expect("the test is root");
}

/// Pages that nobody has or was promised. A guest that runs takes what it was promised: both numbers are of one moment if
/// the first is still the same after the second.
fn free() -> u64 {
    loop {
        let (free, promised) = (pages("free_hugepages"), pages("resv_hugepages"));
        if pages("free_hugepages") == free {
            return free - promised;
        }
    }
}

/// So many pages more in the host's pool, until it is dropped.
struct Reserved {
    before: u64,
}

impl Reserved {
    fn new(count: u64) -> Self {
        let before = pages("nr_hugepages");
        let reserved = Self { before };
        set_pages(before + count);
        assert_eq!(pages("nr_hugepages"), before + count, "the host's memory is too fragmented");
        reserved
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        set_pages(self.before);
    }
}

/// VMs of 256 MiB, with these values in place of the shipped file's.
fn configure(containerd: &Containerd, values: &[(&str, &str)]) {
    containerd.configure(&[&[("default_memory", "256")], values].concat());
}

fn idle(containerd: &Containerd) -> Recipe<'_> {
    containerd.container().spec(|spec| spec["process"]["args"] = json!(["/bin/sleep", "1000"]))
}

#[test]
fn a_vm_of_huge_pages_has_them_from_the_pool_as_it_grows_and_gives_all_back() {
    kata_test(|containerd| {
        let reserved = Reserved::new(128 + 64);
        let before = free();
        configure(containerd, &[("enable_hugepages", "true")]);
        let container = idle(containerd).start();
        assert_eq!(before - free(), 128, "256 MiB");
        assert!(pages("free_hugepages") < before, "they are used, not only promised");
        container.update(&json!({ "memory": { "limit": 256 * MIB } })).expect("the pool has so many");
        assert_eq!(before - free(), 128 + 64, "and one more block of 128 MiB");
        let refused = idle(containerd).try_start();
        refused.fails_because("need 128 huge pages of 2048 KiB and the host has 0 free ones");
        container.remove();
        assert_eq!(free(), before);
        drop(reserved);
    });
}

#[test]
fn memory_may_be_in_a_file_system_of_the_hosts_and_all_there_from_the_start() {
    kata_test(|containerd| {
        configure(containerd, &[("file_mem_backend", "\"/dev/shm\""), ("enable_mem_prealloc", "true")]);
        let container = idle(containerd).start();
        let vmm = containerd.processes_of("qemu-system-x86_64").remove(0);
        let status = fs::read_to_string(format!("/proc/{}/status", vmm.pid)).expect("it runs");
        let shared =
            status.lines().find_map(|line| line.strip_prefix("RssShmem:")).expect("the kernel tells");
        let shared: u64 = shared.trim().trim_end_matches(" kB").parse().expect("a number");
        assert!(shared >= 256 << 10, "{shared} KiB");
        let maps = fs::read_to_string(format!("/proc/{}/maps", vmm.pid)).expect("it runs");
        assert!(maps.lines().any(|line| line.contains("/dev/shm/") && line.ends_with("(deleted)")), "{maps}");
        container.remove();
    });
}

/// The flags of the mapping that is the guest's memory: 256 MiB that no file is behind.
fn flags_of_memory(containerd: &Containerd) -> String {
    let vmm = containerd.processes_of("qemu-system-x86_64").remove(0);
    let smaps = fs::read_to_string(format!("/proc/{}/smaps", vmm.pid)).expect("it runs");
    let memory = smaps.split("\nSize:").find(|mapping| mapping.trim_start().starts_with("262144 kB"));
    let memory = memory.expect("the guest has memory");
    memory.lines().find(|line| line.starts_with("VmFlags:")).expect("the kernel tells").to_owned()
}

#[test]
fn the_host_may_merge_a_vms_pages_only_with_the_key_and_without_a_daemon() {
    kata_test(|containerd| {
        for (key, is_offered) in [("true", true), ("false", false)] {
            configure(containerd, &[("enable_ksm", key), ("shared_fs", "\"virtio-9p\"")]);
            let container = idle(containerd).start();
            let flags = flags_of_memory(containerd);
            assert_eq!(flags.split(' ').any(|flag| flag == "mg"), is_offered, "{flags}");
            container.remove();
        }
        configure(containerd, &[("enable_ksm", "true")]);
        idle(containerd).try_start().fails_because("set `shared_fs = \"virtio-9p\"`");
    });
}

#[test]
fn more_memory_than_the_host_has_is_an_error_with_the_numbers_and_not_a_wait() {
    kata_test(|containerd| {
        // 16 TiB, the most that the key takes.
        containerd.configure(&[("default_memory", "16777216")]);
        let refused = idle(containerd).try_start();
        refused.fails_because("The VM is to have 16777216 MiB and this host has ");
        refused.fails_because("lower `default_memory`");
    });
}

/// A container of 64 MiB of memory, and swap as its annotations say.
fn small<'c>(containerd: &'c Containerd, annotations: &Value) -> Recipe<'c> {
    let annotations = annotations.clone();
    containerd.container().spec(move |spec| {
        spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
        spec["annotations"] = annotations;
        spec["linux"]["resources"]["memory"] = json!({ "limit": 64 * MIB });
        let cgroup = json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"] });
        spec["mounts"].as_array_mut().expect("a list").push(cgroup);
    })
}

/// A block of 100 MB, which is all written to.
const HOG: &str = "dd if=/dev/zero of=/dev/null bs=100000000 count=1 2>/dev/null && echo done";

#[test]
fn a_container_with_swap_outlives_a_lack_of_memory_that_kills_one_without() {
    kata_test(|containerd| {
        configure(containerd, &[("enable_guest_swap", "true")]);
        let asks = json!({ "io.katacontainers.container.resource.swappiness": "60",
            "io.katacontainers.container.resource.swap_in_bytes": (192 * MIB).to_string() });
        let container = small(containerd, &asks).start();
        assert_eq!(
            container.shell("cat /sys/fs/cgroup/memory.swap.max /proc/sys/vm/swappiness"),
            "134217728\n60"
        );
        assert_eq!(container.shell(HOG), "done");
        let swapped = container.shell("cat /sys/fs/cgroup/memory.swap.peak");
        assert!(swapped.parse::<u64>().expect("a number") > 30 * MIB, "{swapped}");
        container.remove();
        let without = small(containerd, &json!({})).start();
        assert_eq!(without.shell("cat /sys/fs/cgroup/memory.swap.max"), "0");
        let killed = without.exec_shell(HOG).run();
        assert!(killed.code != 0, "{}", killed.text());
        assert_eq!(without.shell("grep -w oom_kill /sys/fs/cgroup/memory.events"), "oom_kill 1");
    });
}

#[test]
fn swap_that_guests_do_not_have_is_refused() {
    kata_test(|containerd| {
        let asks = json!({ "io.katacontainers.container.resource.swappiness": "60" });
        small(containerd, &asks).try_start().fails_because("enable_guest_swap = true");
    });
}

/// The CPUs of the host that the VMM's first thread, or that of its first virtual CPU, may run on.
fn may_run_on(containerd: &Containerd, thread: &str) -> String {
    containerd.processes_of("qemu-system-x86_64").remove(0).may_run_on(thread)
}

#[test]
fn a_vm_runs_on_the_cpus_that_its_container_names() {
    kata_test(|containerd| {
        let on_one = containerd.container().spec(|spec| {
            spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
            spec["linux"]["resources"]["cpu"] = json!({ "cpus": "1", "mems": "0" });
        });
        let container = on_one.start();
        let threads = || ["qemu-system", "CPU 0/"].map(|thread| may_run_on(containerd, thread));
        eventually("the VM runs there", PATIENCE, || threads() == ["1", "1"]);
        assert_eq!(
            container.shell("nproc; grep -o 'list:.*0$' /proc/self/status | head -n 1"),
            "1\nlist:\t0"
        );
        container.update(&json!({ "cpu": { "cpus": "0" } })).expect("the host has it");
        eventually("it has moved", PATIENCE, || threads() == ["0", "0"]);
    });
}

#[test]
fn a_virtual_cpu_is_on_the_one_cpu_of_its_container_until_there_are_more() {
    kata_test(|containerd| {
        configure(containerd, &[("enable_vcpus_pinning", "true")]);
        let pinned = containerd.container().spec(|spec| {
            spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
            spec["linux"]["resources"]["cpu"] = json!({ "cpus": "1" });
        });
        let container = pinned.start();
        eventually("the virtual CPU is pinned", PATIENCE, || may_run_on(containerd, "CPU 0/") == "1");
        container.update(&json!({ "cpu": { "cpus": "0-1" } })).expect("they are the host's");
        eventually("it runs on both", PATIENCE, || may_run_on(containerd, "CPU 0/") == "0-1");
    });
}
