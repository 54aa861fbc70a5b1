//! Where the host's cgroups are, from `/proc/self/mountinfo`.

use std::path::{Path, PathBuf};

/// Controllers that count what processes use. A cgroup of `cpuset` would first need CPUs, and one of `devices` or
/// `freezer` counts nothing.
const COUNTING: [&str; 5] = ["cpu", "cpuacct", "memory", "blkio", "pids"];

/// A mounted hierarchy, or a part of one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy<'a> {
    /// The same for all mounts of it.
    device: &'a str,
    /// The cgroup that is mounted.
    root: &'a Path,
    mount_point: &'a Path,
}

impl<'a> Hierarchy<'a> {
    /// The hierarchies that count: those of version 1, and that of version 2 where it is the only one.
    pub(crate) fn all(mountinfo: &'a str) -> Vec<Self> {
        let of_kind = |kind| mountinfo.lines().filter_map(move |line| Self::of(line, kind)).collect();
        let v1: Vec<Self> = of_kind("cgroup");
        if v1.is_empty() { of_kind("cgroup2") } else { v1 }
    }

    /// Fields are those of proc_pid_mountinfo(5).
    fn of(line: &'a str, kind: &str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut file_system = file_system.split(' ');
        let found = file_system.next()?;
        let counts = |options: &str| options.split(',').any(|option| COUNTING.contains(&option));
        if found != kind || (kind == "cgroup" && !file_system.nth(1).is_some_and(counts)) {
            return None;
        }
        let mut mount = mount.split(' ').skip(2);
        let (device, root, mount_point) = (mount.next()?, mount.next()?, mount.next()?);
        Some(Self { device, root: Path::new(root), mount_point: Path::new(mount_point) })
    }

    /// Whether this is another mount of the same.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.device == other.device
    }

    /// Where the directory of a cgroup is, if it is in sight.
    pub(crate) fn directory(&self, cgroup: &Path) -> Option<PathBuf> {
        cgroup.strip_prefix(self.root).ok().map(|below| self.mount_point.join(below))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Hierarchy;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
35 31 0:32 /box /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
";

    #[test]
    fn version_1_counts_where_both_are_mounted() {
        let found = Hierarchy::all(HYBRID);
        let places: Vec<_> = found.iter().map(|one| one.directory(Path::new("/box/pod"))).collect();
        let expected = ["/sys/fs/cgroup/cpu,cpuacct/box/pod", "/sys/fs/cgroup/memory/pod"];
        assert_eq!(places, expected.map(|place| Some(place.into())));
    }

    #[test]
    fn version_2_counts_where_it_is_alone() {
        let found = Hierarchy::all("24 1 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n");
        let places: Vec<_> = found.iter().map(|one| one.directory(Path::new("/a/b"))).collect();
        assert_eq!(places, [Some("/sys/fs/cgroup/a/b".into())]);
    }

    #[test]
    fn a_cgroup_outside_of_the_mounted_one_is_not_in_sight() {
        let memory = &Hierarchy::all(HYBRID)[1];
        assert_eq!(memory.directory(Path::new("/pod")), None);
    }
}
