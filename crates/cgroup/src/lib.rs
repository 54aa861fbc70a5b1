//! The host's cgroups of a sandbox.
//!
//! A container manager counts what a pod uses by the cgroup that it has made for it. The VMM and its daemons run in one
//! of their own below that, so that they are counted with the pod, and held to what limits the pod as a whole.

mod hierarchy;
mod path;
mod sys;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hierarchy::Hierarchy;
use kata_intent::{Intent, Intents};
use tokio::process::Command;

/// The cgroups of one sandbox: one in each hierarchy that counts, or none.
#[derive(Debug, Clone)]
pub struct Cgroup {
    /// The files by which processes join.
    procs: Arc<[File]>,
}

impl Cgroup {
    /// None: processes stay where they are started.
    #[must_use]
    pub fn none() -> Self {
        Self { procs: Arc::new([]) }
    }

    /// Makes `kata_<id>` below the parent of the specification's `linux.cgroupsPath`, in each hierarchy where the
    /// container manager has made that parent, and not where it is limited to less than `memory` bytes: the kernel would
    /// kill the VM. What cannot be made is told in the log, and is no error.
    ///
    /// # Errors
    /// The intent log could not be written.
    pub fn make(cgroups_path: &Path, id: &str, memory: u64, intents: &dyn Intents) -> io::Result<Self> {
        let Some(parent) = path::parent(cgroups_path) else { return Ok(Self::none()) };
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let (fit, small): (Vec<_>, Vec<_>) =
            parents(&mountinfo, &parent).into_iter().partition(|parent| has_room(parent, memory));
        for parent in small {
            let parent = parent.display();
            tracing::warn!(%parent, memory, "The VM is not counted here: the pod's limit is less than its memory");
        }
        Self::make_below(&fit, id, intents)
    }

    fn make_below(parents: &[PathBuf], id: &str, intents: &dyn Intents) -> io::Result<Self> {
        let mut procs = Vec::new();
        for parent in parents {
            let path = parent.join(format!("kata_{id}"));
            let announced = intents.will(Intent::Cgroup { path: path.clone() })?;
            match make(&path) {
                Ok(file) => procs.push(file),
                Err(error) => {
                    fs::remove_dir(&path).ok();
                    intents.done(announced);
                    tracing::warn!(%error, cgroup = %path.display(), "The VM is not counted with its pod");
                }
            }
        }
        Ok(Self { procs: procs.into() })
    }

    /// Lets the process of `command`, and so its children, begin in these cgroups.
    pub fn enter(&self, command: &mut Command) {
        if !self.procs.is_empty() {
            sys::enter(command, Arc::clone(&self.procs));
        }
    }
}

/// Where the cgroup is there, once for each hierarchy.
fn parents(mountinfo: &str, cgroup: &Path) -> Vec<PathBuf> {
    let mut found: Vec<(Hierarchy<'_>, PathBuf)> = Vec::new();
    for hierarchy in Hierarchy::all(mountinfo) {
        let directory = hierarchy.directory(cgroup).filter(|directory| directory.is_dir());
        if let Some(directory) = directory
            && !found.iter().any(|(other, _)| other.is_same(&hierarchy))
        {
            found.push((hierarchy, directory));
        }
    }
    found.into_iter().map(|(_, directory)| directory).collect()
}

/// Whether processes in a cgroup may have so many bytes; where memory is not its matter, they may.
fn has_room(cgroup: &Path, memory: u64) -> bool {
    ["memory.limit_in_bytes", "memory.max"].iter().all(|name| {
        let limit = fs::read_to_string(cgroup.join(name)).ok();
        // Without a limit version 2 says `max`.
        limit.and_then(|limit| limit.trim().parse::<u64>().ok()).is_none_or(|limit| limit >= memory)
    })
}

/// Makes one cgroup; the file by which processes join it. One that a sandbox of the same name has left is as good.
fn make(path: &Path) -> io::Result<File> {
    match DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).open(path.join("cgroup.procs"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io;
    use std::path::Path;
    use std::sync::Mutex;

    use kata_intent::{Intent, IntentId, Intents};
    use tokio::process::Command;

    use super::{Cgroup, has_room, parents};

    #[derive(Default)]
    struct Log(Mutex<Vec<Intent>>);

    impl Intents for Log {
        fn will(&self, intent: Intent) -> io::Result<IntentId> {
            self.0.lock().unwrap().push(intent);
            Ok(IntentId(0))
        }

        fn done(&self, _: IntentId) {
            self.0.lock().unwrap().pop();
        }
    }

    #[test]
    fn nothing_is_made_where_the_manager_has_made_nothing() {
        let log = Log::default();
        let made = Cgroup::make(Path::new("/no-such-cgroup-5b1/x"), "x", 0, &log).unwrap();
        assert!(made.procs.is_empty() && log.0.lock().unwrap().is_empty());
    }

    #[test]
    fn a_hierarchy_that_is_mounted_twice_counts_once() {
        let temp = tempfile::tempdir().unwrap();
        let line = |place: &str| {
            let place = temp.path().join(place);
            fs::create_dir_all(place.join("pod")).unwrap();
            format!("32 31 0:29 / {} rw - cgroup cgroup rw,cpu\n", place.display())
        };
        let mountinfo = line("one") + &line("two");
        assert_eq!(parents(&mountinfo, Path::new("/pod")), [temp.path().join("one/pod")]);
    }

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
    fn what_cannot_be_made_is_not_left_in_the_log() {
        let log = Log::default();
        // Not a cgroup: there is no file to join by.
        let temp = tempfile::tempdir().unwrap();
        let made = Cgroup::make_below(&[temp.path().to_owned()], "x", &log).unwrap();
        assert!(made.procs.is_empty() && log.0.lock().unwrap().is_empty());
        assert!(!temp.path().join("kata_x").exists());
    }

    #[test]
    fn a_process_joins_before_it_begins() {
        let log = Log::default();
        let temp = tempfile::tempdir().unwrap();
        let cgroup = temp.path().join("kata_x");
        fs::create_dir(&cgroup).unwrap();
        fs::write(cgroup.join("cgroup.procs"), "").unwrap();
        let made = Cgroup::make_below(&[temp.path().to_owned()], "x", &log).unwrap();
        assert_eq!(*log.0.lock().unwrap(), [Intent::Cgroup { path: cgroup.clone() }]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut command = Command::new("cat");
            made.enter(command.arg(cgroup.join("cgroup.procs")));
            assert_eq!(command.output().await.unwrap().stdout, b"0");
        });
    }
}
