//! What a pod costs its host in memory.

use std::fs;

use crate::cri::Pod;
use crate::failure::fail;
use crate::processes::{self, Process};

/// The guest's memory as `/proc/PID/smaps` names it.
const GUEST_MEMORY: &str = "/memfd:memory-backend-memfd";

/// Bytes of a pod's processes: proportional set sizes without the guest's memory, and that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// `containerd-shim-kata-v2`.
    pub shim: u64,
    /// All processes of `virtiofsd`.
    pub virtiofsd: u64,
    /// The VMM without the guest's memory.
    pub vmm: u64,
    /// Pages of the guest's memory that were touched.
    pub guest: u64,
}

impl Footprint {
    /// Of a running pod.
    #[track_caller]
    pub fn of(pod: &Pod<'_>) -> Self {
        let all = processes::with_command(pod.id());
        let memory = |program: &str| -> Memory {
            let mine = all.iter().filter(|process| process.is(program));
            mine.map(Memory::of).fold(Memory::default(), Memory::and)
        };
        let vmm = memory("qemu-system-x86_64");
        let shim = memory("containerd-shim-kata-v2").own;
        Self { shim, virtiofsd: memory("virtiofsd").own, vmm: vmm.own, guest: vmm.guest }
    }
}

#[derive(Clone, Copy, Default)]
struct Memory {
    own: u64,
    guest: u64,
}

impl Memory {
    fn of(process: &Process) -> Self {
        let smaps = fs::read_to_string(format!("/proc/{}/smaps", process.pid));
        Self::read(&smaps.unwrap_or_else(|e| fail(format_args!("No memory of {process:?}: {e}"))))
    }

    fn read(smaps: &str) -> Self {
        let mut memory = Self::default();
        let mut is_guests = false;
        for line in smaps.lines() {
            let mut words = line.split_ascii_whitespace();
            match (words.next(), words.next()) {
                (Some("Pss:"), Some(kib)) if !is_guests => memory.own += bytes(kib),
                (Some("Rss:"), Some(kib)) if is_guests => memory.guest += bytes(kib),
                // A mapping begins with its range of addresses.
                (Some(word), _) if !word.ends_with(':') => is_guests = line.contains(GUEST_MEMORY),
                _ => {}
            }
        }
        memory
    }

    fn and(self, other: Self) -> Self {
        Self { own: self.own + other.own, guest: self.guest + other.guest }
    }
}

fn bytes(kib: &str) -> u64 {
    kib.parse::<u64>().map_or(0, |kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_memory_is_no_overhead() {
        let smaps = "7f00-7f10 rw-p 00000000 00:00 0 \nSize: 64 kB\nRss: 40 kB\nPss: 20 kB\nPss_Dirty: 4 kB\n\
                     7f20-7f90 rw-s 00000000 00:01 9   /memfd:memory-backend-memfd (deleted)\nRss: 900 kB\n\
                     Pss: 450 kB\n\
                     7fa0-7fb0 r-xp 00000000 08:01 77  /usr/bin/qemu\nRss: 8 kB\nPss: 3 kB\n";
        let Memory { own, guest } = Memory::read(smaps);
        assert_eq!((own, guest), (23 * 1024, 900 * 1024));
    }
}
