//! Where the host's cgroups are, from `/proc/self/mountinfo`.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// Controllers that count what processes use. A cgroup of `devices` or `freezer` counts nothing, and one of `cpuset` would
/// first need CPUs.
pub(crate) const COUNTING: [&str; 5] = ["cpu", "cpuacct", "memory", "blkio", "pids"];

/// A mounted hierarchy, or a part of one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy<'a> {
    /// The same for all mounts of it.
    device: &'a str,
    /// The cgroup that is mounted.
    root: &'a Path,
    mount_point: &'a Path,
    /// The controllers of version 1, among other options; `None`: it is version 2.
    controllers: Option<&'a str>,
}

/// The mounts that this process sees. Names that are no text, which anybody can give a mount point, hold replacements.
pub(crate) fn mountinfo() -> io::Result<String> {
    Ok(String::from_utf8_lossy(&fs::read("/proc/self/mountinfo")?).into_owned())
}

impl<'a> Hierarchy<'a> {
    /// All hierarchies, each once.
    pub(crate) fn all(mountinfo: &'a str) -> Vec<Self> {
        let mut found: Vec<Self> = Vec::new();
        for hierarchy in mountinfo.lines().filter_map(Self::of) {
            if !found.iter().any(|other| other.device == hierarchy.device) {
                found.push(hierarchy);
            }
        }
        found
    }

    /// Fields are those of proc_pid_mountinfo(5).
    fn of(line: &'a str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut file_system = file_system.split(' ');
        let controllers = match file_system.next()? {
            "cgroup" => Some(file_system.nth(1)?),
            "cgroup2" => None,
            _ => return None,
        };
        let mut mount = mount.split(' ').skip(2);
        let (device, root, mount_point) = (mount.next()?, mount.next()?, mount.next()?);
        Some(Self { device, root: Path::new(root), mount_point: Path::new(mount_point), controllers })
    }

    /// Whether this is the hierarchy of version 2.
    pub(crate) fn is_v2(&self) -> bool {
        self.controllers.is_none()
    }

    /// Whether version 1 has one of these controllers here.
    pub(crate) fn has_any(&self, names: &[&str]) -> bool {
        self.controllers.is_some_and(|all| all.split(',').any(|one| names.contains(&one)))
    }

    /// Whether processes are counted here. On a host with both versions, version 2 has the controllers that version 1 has not
    /// taken, and those may be none.
    pub(crate) fn counts(&self) -> bool {
        if !self.is_v2() {
            return self.has_any(&COUNTING);
        }
        let available = fs::read_to_string(self.mount_point.join("cgroup.controllers"));
        // `io` is what version 1 calls `blkio`.
        let counts = |name: &str| name == "io" || COUNTING.contains(&name);
        available.unwrap_or_default().split_whitespace().any(counts)
    }

    /// The top of what is in sight.
    pub(crate) fn top(&self) -> &'a Path {
        self.mount_point
    }

    /// Where the directory of a cgroup is, if it is in sight.
    pub(crate) fn directory(&self, cgroup: &Path) -> Option<PathBuf> {
        cgroup.strip_prefix(self.root).ok().map(|below| self.mount_point.join(below))
    }

    /// The directory of the cgroup that a process is in, by its `/proc/<pid>/cgroup`.
    pub(crate) fn directory_of(&self, proc_cgroup: &str) -> Option<PathBuf> {
        let mut lines = proc_cgroup.lines().filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            Some((fields.next()?, fields.next()?))
        });
        let (_, cgroup) = lines.find(|(names, _)| match self.controllers {
            // Its controllers are also options of the mount.
            Some(options) => {
                !names.is_empty() && names.split(',').all(|name| options.split(',').any(|o| o == name))
            }
            None => names.is_empty(),
        })?;
        self.directory(Path::new(cgroup))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::{Path, PathBuf};

    use super::Hierarchy;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
35 31 0:32 /box /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:32 /box /mnt/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /no-such-place/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
";

    const MEMBERSHIP: &str =
        "9:name=systemd:/init\n5:memory:/box/a\n4:cpuset:/\n2:cpu,cpuacct:/box/a:b\n0::/u/x\n";

    fn named(mount_point: &str) -> Hierarchy<'static> {
        let found = Hierarchy::all(HYBRID).into_iter().find(|one| one.top() == Path::new(mount_point));
        found.unwrap()
    }

    #[test]
    fn version_1_counts_where_version_2_has_no_controllers() {
        let found = Hierarchy::all(HYBRID).into_iter().filter(Hierarchy::counts);
        let places: Vec<_> = found.map(|one| one.directory(Path::new("/box/pod"))).collect();
        let expected = ["/sys/fs/cgroup/cpu,cpuacct/box/pod", "/sys/fs/cgroup/memory/pod"];
        assert_eq!(places, expected.map(|place| Some(place.into())));
    }

    #[test]
    fn version_2_counts_with_the_controllers_it_has() {
        let temp = tempfile::tempdir().unwrap();
        let mountinfo = format!("24 1 0:22 / {} rw,nosuid - cgroup2 cgroup2 rw\n", temp.path().display());
        let counts = || Hierarchy::all(&mountinfo)[0].counts();
        for (controllers, expected) in [("\n", false), ("cpuset hugetlb\n", false), ("cpuset io\n", true)] {
            std::fs::write(temp.path().join("cgroup.controllers"), controllers).unwrap();
            assert_eq!(counts(), expected, "{controllers}");
        }
    }

    #[test]
    fn a_cgroup_outside_of_the_mounted_one_is_not_in_sight() {
        assert_eq!(named("/sys/fs/cgroup/memory").directory(Path::new("/pod")), None);
    }

    #[test]
    fn a_hierarchy_that_is_mounted_twice_is_found_once() {
        assert!(!Hierarchy::all(HYBRID).iter().any(|one| one.top() == Path::new("/mnt/memory")));
    }

    #[test]
    fn a_process_is_found_in_each_hierarchy() {
        let place = |mount_point| named(mount_point).directory_of(MEMBERSHIP);
        let at = |path: &str| Some(PathBuf::from(path));
        assert_eq!(place("/sys/fs/cgroup/cpu,cpuacct"), at("/sys/fs/cgroup/cpu,cpuacct/box/a:b"));
        assert_eq!(place("/sys/fs/cgroup/memory"), at("/sys/fs/cgroup/memory/a"));
        assert_eq!(place("/sys/fs/cgroup/systemd"), at("/sys/fs/cgroup/systemd/init"));
        assert_eq!(place("/no-such-place/unified"), at("/no-such-place/unified/u/x"));
    }
}
