//! One cgroup of a sandbox: made, joined, left.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use kata_intent::{Intent, Intents};

use crate::hierarchy::{COUNTING, Hierarchy, mountinfo};

/// Where processes that are not the pod's own are, when they are apart: below the top of each hierarchy.
const OVERHEAD: &str = "kata_overhead";

/// How often the parent of all such cgroups is made anew that another sandbox's end removes at the same time.
const PARENT_ATTEMPTS: usize = 10;

/// By which processes join, with all their threads.
pub(crate) const PROCS: &str = "cgroup.procs";
/// By which threads join, in version 1.
const TASKS: &str = "tasks";

/// A cgroup in which something of a sandbox is.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) directory: PathBuf,
    /// Where this process was before, and where it can always go.
    ways_out: [PathBuf; 2],
}

impl Place {
    /// A cgroup that is there.
    pub(crate) fn at(directory: PathBuf, hierarchy: &Hierarchy<'_>, membership: &str) -> Self {
        let top = hierarchy.top().to_owned();
        let home = hierarchy.directory_of(membership).unwrap_or_else(|| top.clone());
        Self { directory, ways_out: [home, top] }
    }

    /// Lets this process be here, and so what it starts from now on.
    pub(crate) fn join(&self) -> io::Result<()> {
        // 0 is whoever writes.
        fs::write(self.directory.join(PROCS), "0")
    }

    /// Takes this process back to where it was.
    pub(crate) fn leave(&self) -> io::Result<()> {
        let [home, top] = self.ways_out.each_ref().map(|way| way.join(PROCS));
        // What it was in may have gone since.
        fs::write(home, "0").or_else(|_| fs::write(top, "0"))
    }

    /// Lets a thread be here. One that has ended need not.
    pub(crate) fn take_thread(&self, thread: u32) -> io::Result<()> {
        match fs::write(self.directory.join(TASKS), thread.to_string()) {
            Err(error) if error.raw_os_error() == Some(ESRCH) => Ok(()),
            written => written,
        }
    }
}

const ESRCH: i32 = 3;

/// Makes the cgroup at `path`; whether it is there. One that a sandbox of the same name has left is as good. What cannot be
/// made is told in the log.
///
/// # Errors
/// The intent log could not be written.
pub(crate) fn make(path: &Path, intents: &dyn Intents) -> io::Result<bool> {
    let announced = intents.will(Intent::Cgroup { path: path.to_owned() })?;
    let made = make_directory(path).and_then(|()| inherit_cpus(path)).and_then(|()| check(path));
    if let Err(error) = &made {
        fs::remove_dir(path).ok();
        intents.done(announced);
        tracing::warn!(%error, cgroup = %path.display(), "A cgroup cannot be made: what belongs there is not counted in it");
    }
    Ok(made.is_ok())
}

/// Makes the cgroup of the sandbox `id` for what is apart from its pod; where it is, unless it cannot be made.
///
/// # Errors
/// The intent log could not be written.
pub(crate) fn make_overhead(top: &Path, id: &str, intents: &dyn Intents) -> io::Result<Option<PathBuf>> {
    let parent = top.join(OVERHEAD);
    let path = parent.join(id);
    intents.will(Intent::Cgroup { path: parent.clone() })?;
    for _ in 0..PARENT_ATTEMPTS {
        if let Err(error) = make_directory(&parent) {
            tracing::warn!(%error, cgroup = %parent.display(), "What the sandbox costs beyond its CPUs is not counted apart");
            return Ok(None);
        }
        count_below(&parent);
        // The last of the others may just be going, and take the parent along.
        match make_directory(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            _ => break,
        }
    }
    Ok(make(&path, intents)?.then_some(path))
}

fn make_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn check(path: &Path) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(path.join(PROCS)).map(drop)
}

/// In version 1 a new cgroup has no CPUs and takes nobody in, where it is also one of `cpuset`.
fn inherit_cpus(path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let is_empty = fs::read_to_string(path.join(file)).is_ok_and(|set| set.trim().is_empty());
        if is_empty && parent.join(TASKS).exists() {
            fs::write(path.join(file), fs::read_to_string(parent.join(file))?)?;
        }
    }
    Ok(())
}

/// Whether processes can be in this cgroup of version 1's `cpuset`.
pub(crate) fn has_cpus(cgroup: &Path) -> bool {
    ["cpuset.cpus", "cpuset.mems"]
        .iter()
        .all(|file| fs::read_to_string(cgroup.join(file)).is_ok_and(|set| !set.trim().is_empty()))
}

/// In version 2 a cgroup counts only what its parent lets it.
fn count_below(parent: &Path) {
    let available = fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default();
    for name in available.split_whitespace().filter(|name| *name == "io" || COUNTING.contains(name)) {
        // What is not counted is no error; the processes are kept together all the same.
        fs::write(parent.join("cgroup.subtree_control"), format!("+{name}")).ok();
    }
}

/// Whether processes in a cgroup may have so many bytes; where memory is not its matter, they may.
pub(crate) fn has_room(cgroup: &Path, memory: u64) -> bool {
    ["memory.limit_in_bytes", "memory.max"].iter().all(|name| {
        let limit = fs::read_to_string(cgroup.join(name)).ok();
        // Without a limit version 2 says `max`.
        limit.and_then(|limit| limit.trim().parse::<u64>().ok()).is_none_or(|limit| limit >= memory)
    })
}

/// Takes all processes out of the cgroup at `directory`: they go where this process is. For what a hook has left running,
/// once the sandbox has gone.
///
/// # Errors
/// One of them stays, or this process is in there itself.
pub fn evict(directory: &Path) -> io::Result<()> {
    let mountinfo = mountinfo()?;
    let membership = fs::read_to_string("/proc/self/cgroup")?;
    let hierarchies = Hierarchy::all(&mountinfo);
    let hierarchy = hierarchies.iter().find(|one| directory.starts_with(one.top()));
    let ours = hierarchy.and_then(|one| one.directory_of(&membership));
    let ours = ours.filter(|ours| !ours.starts_with(directory)).ok_or(io::ErrorKind::ResourceBusy)?;
    for pid in fs::read_to_string(directory.join(PROCS))?.lines() {
        match fs::write(ours.join(PROCS), pid) {
            Err(error) if error.raw_os_error() != Some(ESRCH) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{has_cpus, has_room, inherit_cpus};

    #[test]
    fn limits_are_read_in_the_words_of_both_versions() {
        let temp = tempfile::tempdir().unwrap();
        assert!(has_room(temp.path(), 7));
        for name in ["memory.max", "memory.limit_in_bytes"] {
            let file = temp.path().join(name);
            for (limit, room) in
                [("6\n", false), ("7\n", true), ("max\n", true), ("9223372036854771712\n", true)]
            {
                fs::write(&file, limit).unwrap();
                assert_eq!(has_room(temp.path(), 7), room, "{name} {limit}");
            }
            fs::remove_file(&file).unwrap();
        }
    }

    #[test]
    fn a_cgroup_without_cpus_or_memory_nodes_takes_nobody_in() {
        let temp = tempfile::tempdir().unwrap();
        for (cpus, mems, expected) in [("0-1\n", "0\n", true), ("\n", "0\n", false), ("0\n", "\n", false)] {
            fs::write(temp.path().join("cpuset.cpus"), cpus).unwrap();
            fs::write(temp.path().join("cpuset.mems"), mems).unwrap();
            assert_eq!(has_cpus(temp.path()), expected, "{cpus} {mems}");
        }
    }

    #[test]
    fn a_new_cgroup_has_the_cpus_of_its_parent_in_version_1_only() {
        let temp = tempfile::tempdir().unwrap();
        let child = temp.path().join("child");
        fs::create_dir(&child).unwrap();
        for (file, set) in [("cpuset.cpus", "0-1\n"), ("cpuset.mems", "0\n")] {
            fs::write(temp.path().join(file), set).unwrap();
            fs::write(child.join(file), "\n").unwrap();
        }
        let cpus = || fs::read_to_string(child.join("cpuset.cpus")).unwrap();
        inherit_cpus(&child).unwrap();
        assert_eq!(cpus(), "\n");
        fs::write(temp.path().join("tasks"), "").unwrap();
        inherit_cpus(&child).unwrap();
        assert_eq!(cpus(), "0-1\n");
    }
}
