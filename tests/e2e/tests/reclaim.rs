//! Memory that a guest gives back to its host.

use std::fs;
use std::time::Duration;

use kata_e2e::{Containerd, eventually, kata_test};

/// The guest's kernel reports a sixteenth of what is free every two seconds; more on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Holds 1 GB until there is a file `/free`, and runs on.
const HOARDER: &str = "dd if=/dev/zero bs=1000M count=1 | sleep 1000 & hoard=$!
    while [ ! -e /free ]; do sleep 0.1; done; kill $hoard; sleep 1000";

/// What the VM takes of the host's memory, in MiB.
fn resident(containerd: &Containerd) -> u64 {
    let vmm = &containerd.processes_of("qemu-system-x86_64")[0];
    let status = fs::read_to_string(format!("/proc/{}/status", vmm.pid)).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") >> 10
}

/// An eighth of the guest's memory stayed on the lists of its CPU, and came back in minutes: less than 350 MiB was seldom reached.
#[test]
fn what_a_container_has_freed_is_the_hosts_again() {
    kata_test(|containerd| {
        containerd.reconfigure(|text| {
            text.replacen("reclaim_guest_freed_memory = false", "reclaim_guest_freed_memory = true", 1)
        });
        let container = containerd.container().command(["/bin/sh", "-c", HOARDER]).start();
        eventually("the container has 1 GB", LIMIT, || resident(containerd) > 1000);
        container.shell("touch /free");
        eventually("the host has it again", LIMIT, || resident(containerd) < 350);
        assert_eq!(container.shell("echo alive"), "alive");
    });
}
