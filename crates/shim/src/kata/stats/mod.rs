//! A container's consumption as containerd's clients read it on this host.
//!
//! They expect what runc would have measured here: the message of cgroup v2 where the host's hierarchy is cgroup v2,
//! else (v1, or both) that of cgroup v1. The guest counts in the terms of v2 on every host.

mod v1;
mod v2;

use std::path::Path;

use kata_sandbox::Stats;
use rustix::fs::statfs;

use crate::backend::Metrics;

/// Where hosts mount their hierarchy; runc's shim looks here too.
const HIERARCHY: &str = "/sys/fs/cgroup";

/// `CGROUP2_SUPER_MAGIC`.
const CGROUP2: i64 = 0x6367_7270;

/// Translates into the message of this host.
pub(super) fn metrics(stats: &Stats) -> Metrics {
    match is_cgroup2(Path::new(HIERARCHY)) {
        true => Metrics::V2(Box::new(v2::metrics(stats))),
        false => Metrics::V1(Box::new(v1::metrics(stats))),
    }
}

fn is_cgroup2(hierarchy: &Path) -> bool {
    statfs(hierarchy).is_ok_and(|found| found.f_type == CGROUP2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_hierarchies_is_not_cgroup_v2() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_cgroup2(folder.path()));
        assert!(!is_cgroup2(&folder.path().join("absent")));
    }
}
