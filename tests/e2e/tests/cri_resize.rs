//! In-place resizes of a pod's containers through the Container Runtime Interface: the VM follows both ways, and container and VM
//! agree after each step.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kata_e2e::proto::LinuxContainerResources;
use kata_e2e::{Cri, Pod, PodContainer, amount, eventually, kata_cri_test};

/// What the VM boots with, and the most CPUs it may have.
const BOOT_MIB: u64 = 256;
const MOST_CPUS: u64 = 2;
const PATIENCE: Duration = Duration::from_secs(20);

fn small_vm<'c>(cri: &'c Cri<'c>) -> Pod<'c> {
    cri.reconfigure(|text| {
        text.replace("\ndefault_memory = 2048", &format!("\ndefault_memory = {BOOT_MIB}"))
            .replace("\ndefault_maxvcpus = 0", &format!("\ndefault_maxvcpus = {MOST_CPUS}"))
    });
    cri.pod().run()
}

fn resources(millicpus: u64, mib: u64) -> LinuxContainerResources {
    LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: i64::try_from(millicpus * 100).expect("a few CPUs"),
        memory_limit_in_bytes: i64::try_from(mib << 20).expect("a few GiB"),
        ..Default::default()
    }
}

/// As its cgroup has them: thousandths of a CPU, and MiB.
fn limits(container: &PodContainer<'_>) -> (u64, u64) {
    let text = container.shell("cut -d' ' -f1 /sys/fs/cgroup/cpu.max; cat /sys/fs/cgroup/memory.max");
    let (quota, bytes) = text.split_once('\n').expect("two lines");
    (quota.parse::<u64>().expect("a quota") / 100, bytes.parse::<u64>().expect("a limit") >> 20)
}

/// What the guest has: CPUs, and MiB without those that its kernel keeps for itself.
fn guest(container: &PodContainer<'_>) -> (u64, u64) {
    let text = container.shell("nproc; sed -n 's/^MemTotal: *//p' /proc/meminfo | cut -d' ' -f1");
    let (cpus, kib) = text.split_once('\n').expect("two lines");
    (cpus.parse().expect("a number"), kib.parse::<u64>().expect("a number") / 1024)
}

#[test]
fn a_resize_is_seen_in_the_container_and_in_its_vm_both_ways() {
    kata_cri_test(|cri| {
        let pod = small_vm(cri);
        let container = pod.container("main").idle().start();
        container.wait_for_line("ready");
        assert_eq!(guest(&container).0, 1);
        container.update(resources(1500, 1024));
        assert_eq!(limits(&container), (1500, 1024));
        let (cpus, mib) = guest(&container);
        assert!(cpus == 2 && mib > 1024, "{cpus} CPUs, {mib} MiB");
        container.update(resources(500, 64));
        assert_eq!(limits(&container), (500, 64));
        eventually("the VM gives back", PATIENCE, || {
            let (cpus, mib) = guest(&container);
            cpus == 1 && mib < BOOT_MIB
        });
    });
}

/// The same numbers for the same seed (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// What the guest is to have, by the rule of `docs/sizing.md`: CPUs, and the least and the most MiB that its kernel tells. What is
/// added comes in pieces of 128 MiB, and the kernel keeps up to a fifth of a small VM for itself.
fn needed(containers: &[(u64, u64)]) -> (u64, u64, u64) {
    let (millis, limit) = containers.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let cpus = millis.div_ceil(1000).clamp(1, MOST_CPUS);
    let mib = ((limit + 96) * 32).div_ceil(31).max(BOOT_MIB);
    let given = BOOT_MIB + (mib - BOOT_MIB).next_multiple_of(128);
    (cpus, limit.max(BOOT_MIB * 4 / 5).min(given), given)
}

#[test]
fn random_resizes_leave_containers_and_vm_in_step() {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later").subsec_nanos();
    println!("seed {seed}");
    let mut numbers = Numbers(u64::from(seed) | 1);
    kata_cri_test(|cri| {
        let pod = small_vm(cri);
        let containers = ["first", "second"].map(|name| {
            let first = |config: &mut kata_e2e::proto::ContainerConfig| {
                config.linux.get_or_insert_default().resources = Some(resources(500, 64));
            };
            pod.container(name).with(first).idle().start()
        });
        let mut wanted = [(500, 64); 2];
        for step in 0..amount(6, 100) {
            let which = usize::from(numbers.below(2) == 1);
            wanted[which] = (100 * (1 + numbers.below(15)), 32 * (1 + numbers.below(24)));
            println!("step {step}: {wanted:?}");
            containers[which].update(resources(wanted[which].0, wanted[which].1));
            assert_eq!([0, 1].map(|which| limits(&containers[which])), wanted);
            let (cpus, least, most) = needed(&wanted);
            eventually("the VM fits its containers", PATIENCE, || {
                let (has, mib) = guest(&containers[0]);
                has == cpus && (least..=most).contains(&mib)
            });
        }
    });
}
