//! A lack of memory on the host, as the kernel tells it of a cgroup whose process it has killed.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Version 1 says "no limit" as the largest number of pages there is.
const NO_LIMIT: u64 = 1 << 62;

/// The kernel has killed a process of a sandbox for want of memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// The tightest limit that held; `None`: the host itself had no memory left.
    limit: Option<Limit>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Limit {
    cgroup: PathBuf,
    bytes: u64,
    /// The most that was ever in use, in bytes; older kernels do not tell it.
    peak: Option<u64>,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Limit { cgroup, bytes, peak }) = &self.limit else {
            return f.write_str("the host had no memory left, and its kernel killed the VM's process");
        };
        write!(
            f,
            "the host's kernel killed the VM's process for want of memory: {} may have",
            cgroup.display()
        )?;
        write!(f, " {} MiB", bytes >> 20)?;
        if let Some(peak) = peak {
            write!(f, " and has used {} MiB", peak >> 20)?;
        }
        f.write_str("; raise the pod's memory limit, or the `overhead` of its RuntimeClass")
    }
}

/// What happened in the cgroup at `own`, of either version; `None`: nobody was killed.
pub(crate) fn of(own: &Path) -> Option<Shortage> {
    let was_killed = ["memory.events", "memory.oom_control"].iter().any(|file| {
        let counts = fs::read_to_string(own.join(file)).unwrap_or_default();
        let killed = counts.lines().find_map(|line| line.strip_prefix("oom_kill "));
        killed.and_then(|count| count.trim().parse::<u64>().ok()).is_some_and(|count| count > 0)
    });
    let limit = || own.ancestors().map_while(limit_of).flatten().min_by_key(|limit| limit.bytes);
    was_killed.then(|| Shortage { limit: limit() })
}

/// `None` where no cgroup is any more; `Some(None)`: one without a limit.
fn limit_of(cgroup: &Path) -> Option<Option<Limit>> {
    if !cgroup.join("cgroup.procs").exists() {
        return None;
    }
    let number = |file: &str| fs::read_to_string(cgroup.join(file)).ok()?.trim().parse::<u64>().ok();
    // Without a limit version 2 says `max`.
    let bytes = number("memory.max").or_else(|| number("memory.limit_in_bytes"));
    let bytes = bytes.filter(|bytes| *bytes < NO_LIMIT);
    let peak = number("memory.peak").or_else(|| number("memory.max_usage_in_bytes"));
    Some(bytes.map(|bytes| Limit { cgroup: cgroup.to_owned(), bytes, peak }))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::of;

    fn cgroup(path: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(path).unwrap();
        for (name, text) in [("cgroup.procs", "")].iter().chain(files) {
            fs::write(path.join(name), text).unwrap();
        }
    }

    #[test]
    fn where_nobody_was_killed_there_is_no_shortage() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(of(temp.path()), None);
        cgroup(temp.path(), &[("memory.events", "low 0\nmax 7\noom 0\noom_kill 0\n")]);
        assert_eq!(of(temp.path()), None);
        cgroup(temp.path(), &[("memory.oom_control", "under_oom 0\noom_kill 0\n")]);
        assert_eq!(of(temp.path()), None);
    }

    #[test]
    fn the_tightest_limit_above_is_named_with_its_numbers() {
        let temp = tempfile::tempdir().unwrap();
        let (pods, pod) = (temp.path().join("pods"), temp.path().join("pods/pod1"));
        let own = pod.join("kata_x");
        cgroup(&pods, &[("memory.max", "1073741824\n")]);
        cgroup(&pod, &[("memory.max", "268435456\n"), ("memory.peak", "268435000\n")]);
        cgroup(&own, &[("memory.max", "max\n"), ("memory.events", "oom 1\noom_kill 1\n")]);
        let told = of(&own).unwrap().to_string();
        let expected = format!("{} may have 256 MiB and has used 255 MiB; raise the pod's", pod.display());
        assert!(told.contains(&expected), "{told}");
    }

    #[test]
    fn version_one_tells_it_in_its_own_words() {
        let temp = tempfile::tempdir().unwrap();
        let own = temp.path().join("kata_x");
        cgroup(temp.path(), &[("memory.limit_in_bytes", "268435456\n")]);
        let files = [
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"),
        ];
        cgroup(&own, &files);
        let told = of(&own).unwrap().to_string();
        assert!(told.contains("may have 256 MiB; raise"), "{told}");
    }

    #[test]
    fn without_a_limit_the_host_had_none_left() {
        let temp = tempfile::tempdir().unwrap();
        cgroup(temp.path(), &[("memory.max", "max\n"), ("memory.events", "oom_kill 2\n")]);
        let told = of(temp.path()).unwrap().to_string();
        assert!(told.contains("the host had no memory left"), "{told}");
    }
}
