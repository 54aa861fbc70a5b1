//! Making things that can be taken back, and taking them back.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::intent::{Intent, IntentId, Intents};

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
        let mut first_failure = Ok(());
        let mut left: Vec<(IntentId, Intent)> = Vec::new();
        while let Some((id, intent)) = self.steps.pop() {
            match undo(&intent) {
                Ok(()) if left.iter().any(|(_, left)| intent.holds(left)) => left.push((id, intent)),
                Ok(()) => self.intents.done(id),
                Err(source) => {
                    left.push((id, intent.clone()));
                    first_failure = first_failure.and(Err(StepError::Undo { intent, source }));
                }
            }
        }
        left.reverse();
        self.steps = left;
        first_failure
    }
}

/// Takes back what `intent` announced. It is no error if it was never made or is gone already.
///
/// A directory that is not empty stays: something else uses it, or something below it could not be undone.
/// Processes are killed but not waited for, as they need not be our children.
///
/// # Errors
/// It is still there.
pub fn undo(intent: &Intent) -> io::Result<()> {
    let undone = match intent {
        Intent::Dir { path } => fs::remove_dir(path),
        Intent::File { path } | Intent::Socket { path } | Intent::Link { path } => fs::remove_file(path),
        Intent::Mount { target } => unmount_lazily(target),
        Intent::Process { argv_token, exe } => kill_matching(argv_token, exe),
    };
    match undone {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            tracing::debug!(?intent, "a directory is still in use and stays");
            Ok(())
        }
        undone => undone,
    }
}

/// Detaches the topmost mount on `target`, with all below it, even if it is in use.
fn unmount_lazily(target: &Path) -> io::Result<()> {
    match unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // Not a mount point: never mounted, or unmounted already.
        Err(rustix::io::Errno::INVAL) => Ok(()),
        undone => Ok(undone?),
    }
}

/// Kills every process that has `token` in one of its arguments and runs, or was started as, `exe`.
fn kill_matching(token: &str, exe: &Path) -> io::Result<()> {
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let pid = path.file_name().and_then(|name| name.to_str()?.parse().ok()).and_then(Pid::from_raw);
        let Some(pid) = pid else { continue };
        // Opened before looking: the number cannot be another process's by the time of the signal. A process
        // that is gone, or whose files cannot be read, is none of ours.
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        if !matches(&path, token, exe) {
            continue;
        }
        match pidfd_send_signal(&process, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn matches(process: &Path, token: &str, exe: &Path) -> bool {
    let Ok(arguments) = fs::read(process.join("cmdline")) else { return false };
    let mut arguments = arguments.split(|byte| *byte == 0);
    let started_as = arguments.next().unwrap_or_default();
    let named = exe.as_os_str().as_encoded_bytes() == started_as
        || fs::read_link(process.join("exe"))
            .is_ok_and(|link| fs::canonicalize(exe).is_ok_and(|exe| exe == link));
    named && arguments.any(|argument| contains(argument, token.as_bytes()))
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && haystack.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::{Trail, undo};
    use crate::intent::Intent;
    use crate::testing::MemoryLog;

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
        let log = MemoryLog::new();
        let temp = tempfile::tempdir().unwrap();
        let (dir, file) = (temp.path().join("d"), temp.path().join("d/f"));
        let mut trail = Trail::new(log.clone());
        trail.dir(&dir).unwrap();
        trail.file(&file).unwrap();
        // A directory in the file's place cannot be removed as a file.
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        trail.undo().unwrap_err();
        assert_eq!(log.open().len(), 2, "the directory is not struck out before what is in it");
        fs::remove_dir(&file).unwrap();
        trail.undo().unwrap();
        assert!(log.open().is_empty() && !dir.exists());
    }

    #[test]
    fn undoing_what_is_not_there_does_no_harm() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("missing");
        for intent in [
            Intent::Dir { path: path.clone() },
            Intent::File { path: path.clone() },
            Intent::Socket { path: path.clone() },
            Intent::Link { path: path.clone() },
            Intent::Mount { target: path.clone() },
            Intent::Mount { target: temp.path().to_owned() },
            Intent::Process { argv_token: "no-such-token-1f8".to_owned(), exe: "/bin/true".into() },
        ] {
            match undo(&intent) {
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    eprintln!("skipped {intent:?}: {error}");
                }
                undone => undone.unwrap(),
            }
        }
    }

    #[test]
    fn a_directory_in_use_stays() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("precious"), "").unwrap();
        undo(&Intent::Dir { path: temp.path().to_owned() }).unwrap();
        assert!(temp.path().join("precious").exists());
    }

    #[test]
    fn only_the_process_with_token_and_executable_is_killed() {
        let token = format!("token-{}", std::process::id());
        let mut ours = Command::new("/bin/sh").args(["-c", "read x", &token]).stdin(pipe()).spawn().unwrap();
        let mut other =
            Command::new("/bin/sh").args(["-c", "read x", "other"]).stdin(pipe()).spawn().unwrap();
        let intent = |exe: &str| Intent::Process { argv_token: token.clone(), exe: exe.into() };
        undo(&intent("/bin/cat")).unwrap();
        assert!(ours.try_wait().unwrap().is_none());
        undo(&intent("/bin/sh")).unwrap();
        assert_eq!(ours.wait().unwrap().signal(), Some(9));
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }

    fn pipe() -> std::process::Stdio {
        std::process::Stdio::piped()
    }
}
