//! What to load, and from where.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// The places where a configuration file is looked for, best first.
///
/// The order of directories is upstream's with `/usr/local` (our own install prefix) added after `/etc`; in each
/// directory `runtime-rs/`, where upstream's Rust runtime looks, comes second.
pub const DEFAULT_PATHS: [&str; 8] = [
    "/etc/kata-containers/configuration.toml",
    "/etc/kata-containers/runtime-rs/configuration.toml",
    "/usr/local/share/defaults/kata-containers/configuration.toml",
    "/usr/local/share/defaults/kata-containers/runtime-rs/configuration.toml",
    "/usr/share/defaults/kata-containers/configuration.toml",
    "/usr/share/defaults/kata-containers/runtime-rs/configuration.toml",
    "/opt/kata/share/defaults/kata-containers/configuration.toml",
    "/opt/kata/share/defaults/kata-containers/runtime-rs/configuration.toml",
];

/// Everything that decides which configuration results.
///
/// Precedence of the file: annotation, `explicit`, `env_conf_file`, then the first of `search` that exists.
#[derive(Debug, Clone)]
pub struct LoadRequest {
    /// `--config`, or the runtime option `ConfigPath`.
    pub explicit: Option<PathBuf>,
    /// The sandbox's annotations; those outside `io.katacontainers.` are not looked at.
    pub annotations: BTreeMap<String, String>,
    /// The value of `KATA_CONF_FILE`, read by the caller.
    pub env_conf_file: Option<PathBuf>,
    /// Default places, best first.
    pub search: Vec<PathBuf>,
    /// CPUs of the host: what `default_maxvcpus = 0` stands for.
    pub host_cpus: u32,
    /// Memory of the host in MiB: what `default_maxmemory = 0` stands for.
    pub host_memory_mib: u32,
}

impl Default for LoadRequest {
    /// Searches [`DEFAULT_PATHS`] without annotations; asks the system for its CPUs and memory.
    fn default() -> Self {
        Self {
            explicit: None,
            annotations: BTreeMap::new(),
            env_conf_file: None,
            search: DEFAULT_PATHS.iter().map(PathBuf::from).collect(),
            host_cpus: online_cpus(),
            host_memory_mib: memory_mib(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default()),
        }
    }
}

/// The host's CPUs, of which this process may have few only.
fn online_cpus() -> u32 {
    let list = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    count(list.trim()).filter(|cpus| *cpus > 0).unwrap_or_else(|| {
        let own = std::thread::available_parallelism().map_or(1, usize::from);
        u32::try_from(own).unwrap_or(u32::MAX)
    })
}

/// How many numbers a list of the kernel's has, such as `0-3,8`; `None` if it is none.
fn count(list: &str) -> Option<u32> {
    list.split(',').try_fold(0_u32, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let [first, last]: [u32; 2] = [first.parse().ok()?, last.parse().ok()?];
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

/// The first line of `/proc/meminfo`: `MemTotal:       16384000 kB`. 0 if it says nothing.
fn memory_mib(meminfo: &str) -> u32 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    let kib: u64 = total.and_then(|kib| kib.parse().ok()).unwrap_or(0);
    u32::try_from(kib >> 10).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::{count, memory_mib};

    #[test]
    fn cpus_are_counted_from_the_kernels_list() {
        assert_eq!([count("0"), count("0-3"), count("0-3,8,10-11")], [Some(1), Some(4), Some(7)]);
        assert_eq!([count(""), count("x"), count("3-1"), count("0-4294967295")], [None; 4]);
    }

    #[test]
    fn the_hosts_memory_is_read_in_mib() {
        assert_eq!(memory_mib("MemTotal:        8147388 kB\nMemFree:         1 kB\n"), 7956);
        assert_eq!((memory_mib(""), memory_mib("MemTotal: many kB\n")), (0, 0));
    }
}
