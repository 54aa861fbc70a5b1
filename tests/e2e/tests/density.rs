//! What many idle pods cost their host: memory, and threads that wake.

use std::fs;
use std::time::Duration;

use kata_e2e::proto::LinuxContainerResources;
use kata_e2e::{Cri, Footprint, Idleness, Pod, amount, kata_cri_test};

/// Of each pod, in bytes.
const LIMIT: i64 = 128 << 20;
/// `docs/density.md` derives the `overhead` of the RuntimeClass from this.
const MOST_OF_GUEST: u64 = 60 << 20;
/// CPU time that an idle pod may take in each second, in milliseconds, once it has been idle for a while.
const MOST_CPU: f64 = 2.0;
/// How often a thread of shim and virtiofsd may wake in each second.
const MOST_WAKES: f64 = 1.0;
/// How often a virtual CPU may wake in each second. What wakes a guest costs up to five ticks (`docs/density.md`): in its first
/// seconds there is up to one wake each half second, as the kernel renews its random numbers in growing intervals and looks for routers,
/// later one each four seconds. With one more timer of once a second it would be more than 5, and 3.
const MOST_OF_VCPU: (f64, f64) = (4.0, 1.0);

fn run<'c>(cri: &'c Cri<'c>) -> Pod<'c> {
    let limits = || Some(LinuxContainerResources { memory_limit_in_bytes: LIMIT, ..Default::default() });
    let pod = cri.pod().with(|config| config.linux.get_or_insert_default().resources = limits()).run();
    let container = pod.container("main");
    container.with(|config| config.linux.get_or_insert_default().resources = limits()).idle().start();
    pod
}

/// In bytes.
fn available() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").expect("it is there");
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).expect("it is there");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

#[test]
fn idle_pods_hardly_wake_and_take_little_memory() {
    kata_cri_test(|cri| {
        let (count, seconds) = amount((3_u32, 8), (50, 60));
        let (most_cpu, most_of_vcpu) = amount((2.0 * MOST_CPU, MOST_OF_VCPU.0), (MOST_CPU, MOST_OF_VCPU.1));
        let before = available();
        let pods: Vec<_> = (0..count).map(|_| run(cri)).collect();
        // The guest's kernel is busy with its first random numbers and its neighbours for a while.
        let all: Vec<_> = pods.iter().collect();
        Idleness::of(&all, Duration::from_secs(seconds));
        let idle = Idleness::of(&all, Duration::from_secs(seconds));
        let taken = before.saturating_sub(available()) / u64::from(count);
        let footprints: Vec<_> = pods.iter().map(Footprint::of).collect();
        for (idle, footprint) in idle.iter().zip(&footprints).take(3) {
            println!("{footprint:?}\n{idle}");
        }
        let mean =
            |part: fn(&Footprint) -> u64| mib(footprints.iter().map(part).sum::<u64>() / u64::from(count));
        println!(
            "each of {count} pods: {} MiB of the host's memory; shim {}, virtiofsd {}, VMM {}, guest {}",
            mib(taken),
            mean(|all| all.shim),
            mean(|all| all.virtiofsd),
            mean(|all| all.vmm),
            mean(|all| all.guest)
        );
        let cpu = idle.iter().map(Idleness::cpu_ms).sum::<f64>() / f64::from(count);
        println!("{cpu:.2} ms of CPU time each second");
        for (idle, footprint) in idle.iter().zip(&footprints) {
            assert!(footprint.guest <= MOST_OF_GUEST, "{footprint:?}");
            assert!(idle.cpu_ms() <= most_cpu, "{idle}");
            for thread in &idle.threads {
                let most = match thread.process.as_str() {
                    "qemu-system-x86_64" if thread.name.starts_with("CPU ") => most_of_vcpu,
                    // It follows the virtual CPUs.
                    "qemu-system-x86_64" => continue,
                    _ => MOST_WAKES,
                };
                assert!(thread.count as f64 <= most * idle.over.as_secs_f64(), "{idle}");
            }
        }
    });
}
