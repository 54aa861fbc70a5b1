//! Making things that can be taken back.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::mem;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::undo::undo;
use kata_intent::{Intent, IntentId, Intents, Left, undo_all};

/// Why a step could not be made or taken back.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The step was not made, because the intent log could not be written.
    #[error("The sandbox's intent log cannot be written: is its file system full?")]
    Announce(#[source] io::Error),
    /// The thing could not be made.
    #[error("The {what} {path:?} cannot be made: check that the file system is writable and has room")]
    Make {
        /// What it is.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A mount could not be made.
    #[error("Nothing can be mounted on {target:?}: root's rights to mount are needed")]
    Mount {
        /// Where.
        target: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The thing could not be removed; it stays in the intent log.
    #[error(
        "What was made for the sandbox cannot be removed ({intent:?}): it will be tried again on `delete`"
    )]
    Undo {
        /// What is left.
        intent: Intent,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What was made so far, in order. Not undone when dropped: that is up to whoever replays the log.
pub(crate) struct Trail {
    intents: Arc<dyn Intents>,
    steps: Vec<(IntentId, Intent)>,
}

impl Trail {
    pub(crate) fn new(intents: Arc<dyn Intents>) -> Self {
        Self { intents, steps: Vec::new() }
    }

    /// A new trail into the same log.
    pub(crate) fn branch(&self) -> Self {
        Self::new(Arc::clone(&self.intents))
    }

    /// Announces `intent`, carries it out with `make`, and strikes it out again if that fails.
    pub(crate) fn step<T>(
        &mut self,
        intent: Intent,
        make: impl FnOnce() -> Result<T, StepError>,
    ) -> Result<T, StepError> {
        let id = self.intents.will(intent.clone()).map_err(StepError::Announce)?;
        let made = make();
        match made {
            Ok(_) => self.steps.push((id, intent)),
            Err(_) => self.intents.done(id),
        }
        made
    }

    /// Makes a directory, only for root to enter. Its parent must exist.
    pub(crate) fn dir(&mut self, path: &Path) -> Result<(), StepError> {
        self.step(Intent::Dir { path: path.to_owned() }, || {
            let made = DirBuilder::new().mode(0o700).create(path);
            made.map_err(|source| StepError::Make { what: "directory", path: path.to_owned(), source })
        })
    }

    /// Like [`Trail::dir`], but content with one that exists. It is removed all the same, once it is empty.
    pub(crate) fn shared_dir(&mut self, path: &Path) -> Result<(), StepError> {
        self.step(Intent::Dir { path: path.to_owned() }, || {
            match DirBuilder::new().mode(0o755).create(path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                made => made.map_err(|source| StepError::Make {
                    what: "directory",
                    path: path.to_owned(),
                    source,
                }),
            }
        })
    }

    /// Makes an empty file.
    pub(crate) fn file(&mut self, path: &Path) -> Result<(), StepError> {
        self.step(Intent::File { path: path.to_owned() }, || {
            let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            made.map(drop).map_err(|source| StepError::Make { what: "file", path: path.to_owned(), source })
        })
    }

    /// Makes a mount on `target`.
    pub(crate) fn mount(
        &mut self,
        target: &Path,
        make: impl FnOnce() -> io::Result<()>,
    ) -> Result<(), StepError> {
        self.step(Intent::Mount { target: target.to_owned() }, || {
            make().map_err(|source| StepError::Mount { target: target.to_owned(), source })
        })
    }

    /// Whether nothing is left to undo.
    pub(crate) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Takes everything back, the last first. What fails stays for the next call, the rest is done all the same.
    ///
    /// # Errors
    /// The first failure.
    pub(crate) fn undo(&mut self) -> Result<(), StepError> {
        let left = undo_all(mem::take(&mut self.steps), undo, |id| self.intents.done(id));
        let mut first_failure = Ok(());
        for Left { id, intent, error } in left {
            if let Some(source) = error {
                first_failure = first_failure.and(Err(StepError::Undo { intent: intent.clone(), source }));
            }
            self.steps.push((id, intent));
        }
        self.steps.reverse();
        first_failure
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

    use super::Trail;
    use crate::testing::{MemoryLog, in_private_mounts};
    use kata_intent::Intent;

    #[test]
    fn steps_are_announced_before_and_struck_out_after() {
        let log = MemoryLog::new();
        let temp = tempfile::tempdir().unwrap();
        let (dir, file) = (temp.path().join("d"), temp.path().join("d/f"));
        let mut trail = Trail::new(log.clone());
        trail.dir(&dir).unwrap();
        trail.file(&file).unwrap();
        assert_eq!(log.open(), [Intent::Dir { path: dir.clone() }, Intent::File { path: file.clone() }]);
        trail.undo().unwrap();
        assert!(log.open().is_empty() && trail.is_empty() && !dir.exists());
    }

    #[test]
    fn a_failed_step_leaves_nothing_in_the_log() {
        let log = MemoryLog::new();
        let mut trail = Trail::new(log.clone());
        let error = trail.dir("/proc/nowhere/x".as_ref()).unwrap_err();
        assert!(error.to_string().contains("/proc/nowhere/x"), "{error}");
        assert!(log.open().is_empty());
        log.break_down();
        assert!(trail.dir("/tmp/never-made-x".as_ref()).is_err());
        assert!(!fs::exists("/tmp/never-made-x").unwrap());
    }

    #[test]
    fn directories_above_what_is_stuck_wait_for_it() {
        in_private_mounts(|| {
            let log = MemoryLog::new();
            let temp = tempfile::tempdir().unwrap();
            let (dir, stuck) = (temp.path().join("d"), temp.path().join("d/stuck"));
            let mut trail = Trail::new(log.clone());
            trail.dir(&dir).unwrap();
            trail.dir(&stuck).unwrap();
            // Somebody else's mount keeps it busy.
            mount("none", &stuck, "tmpfs", MountFlags::empty(), None).unwrap();
            trail.undo().unwrap_err();
            assert_eq!(log.open().len(), 2, "the directory is not struck out before what is in it");
            unmount(&stuck, UnmountFlags::empty()).unwrap();
            trail.undo().unwrap();
            assert!(log.open().is_empty() && !dir.exists());
        });
    }
}
