//! A process next to the VMM that shows files to the guest: started, watched over, its last words kept.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use kata_intent::{Intent, IntentId, Intents};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How many of its last lines are kept for error messages.
const LINES_KEPT: usize = 20;
/// The longest line that is one, in bytes.
const LONGEST_LINE: u64 = 64 << 10;
/// How long the last lines are waited for once the process is gone.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What is to be started.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// What it is called in logs and errors.
    pub(crate) name: &'static str,
    /// The executable, an absolute path.
    pub(crate) binary: PathBuf,
    /// How it is had if it is not there.
    pub(crate) advice: &'static str,
}

/// Why a daemon could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The executable does not exist.
    #[error("{name} does not exist at {path:?}: {advice}")]
    Missing {
        /// The program.
        name: &'static str,
        /// The configured path.
        path: PathBuf,
        /// How it is had.
        advice: &'static str,
    },
    /// The process could not be started.
    #[error("{name} ({path:?}) could not be started")]
    Start {
        /// The program.
        name: &'static str,
        /// The executable.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The intent log could not be written.
    #[error("The sandbox's intent log cannot be written: is its file system full?")]
    Announce(#[source] io::Error),
}

/// The end of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonExit {
    /// The program.
    pub name: &'static str,
    /// How it ended; `None` if it could not be waited for.
    pub status: Option<ExitStatus>,
    /// Its last lines on standard error, at most 20.
    pub stderr: String,
}

impl fmt::Display for DaemonExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name;
        match self.status.map(|status| (status.code(), status.signal())) {
            Some((Some(code), _)) => write!(f, "{name} exited with status {code}")?,
            Some((None, Some(signal))) => write!(f, "{name} was killed by signal {signal}")?,
            Some((None, None)) | None => write!(f, "{name} is gone")?,
        }
        // Its warnings come with every start.
        let serious = |line: &&str| !line.contains(" WARN ");
        match self.stderr.lines().rfind(serious) {
            Some(last) => write!(f, ": {last}"),
            None => Ok(()),
        }
    }
}

/// A running daemon. Dropping it kills the process.
#[derive(Debug)]
pub struct Daemon {
    program: Program,
    pid: u32,
    exit: watch::Receiver<Option<DaemonExit>>,
    kill: mpsc::Sender<()>,
}

impl Daemon {
    /// Starts `program` by `spawn`, after saying so; one of its arguments has `token` in it, and no other sandbox's has.
    pub(crate) fn start(
        program: Program,
        token: String,
        intents: Arc<dyn Intents>,
        spawn: impl FnOnce() -> io::Result<Child>,
    ) -> Result<Self, SpawnError> {
        let intent = Intent::Process { argv_token: token, exe: program.binary.clone() };
        let id = intents.will(intent).map_err(SpawnError::Announce)?;
        match spawn() {
            Ok(child) => Ok(Self::watch(program, child, intents, id)),
            Err(source) => {
                intents.done(id);
                let Program { name, binary: path, advice } = program;
                Err(match source.kind() {
                    io::ErrorKind::NotFound => SpawnError::Missing { name, path, advice },
                    _ => SpawnError::Start { name, path, source },
                })
            }
        }
    }

    fn watch(program: Program, mut child: Child, intents: Arc<dyn Intents>, id: IntentId) -> Self {
        let pid = child.id().unwrap_or_default();
        let name = program.name;
        let (exit_state, exit) = watch::channel(None);
        let (kill, orders) = mpsc::channel(1);
        let stderr = tokio::spawn(collect(child.stderr.take(), name, pid));
        tokio::spawn(async move {
            let (status, stderr) = supervise(child, orders, stderr).await;
            intents.done(id);
            exit_state.send_replace(Some(DaemonExit { name, status, stderr }));
        });
        Self { program, pid, exit, kill }
    }

    /// The executable.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.program.binary
    }

    /// The process id on the host.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until the process is gone: an error of its own, or the end of the VM.
    pub async fn wait(&self) -> DaemonExit {
        let mut exit = self.exit.clone();
        let exited = exit.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone());
        exited.unwrap_or(DaemonExit { name: self.program.name, status: None, stderr: String::new() })
    }

    /// Kills the process at once, with the child it has in its sandbox, and waits until it is gone.
    pub async fn kill(&self) -> DaemonExit {
        // A full queue means that it has been ordered, a closed one that it is done.
        self.kill.try_send(()).ok();
        self.wait().await
    }
}

/// What all daemons have in common.
pub(crate) fn command(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    command.env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // Not in our process group: a Ctrl-C in a terminal is for us to handle.
    command.process_group(0).kill_on_drop(true);
    command
}

/// Waits for the end, kills on order or when all handles are gone.
async fn supervise(
    mut child: Child,
    mut orders: mpsc::Receiver<()>,
    stderr: JoinHandle<String>,
) -> (Option<ExitStatus>, String) {
    let status = tokio::select! {
        status = child.wait() => status,
        _ = orders.recv() => match child.start_kill() {
            Ok(()) => child.wait().await,
            Err(error) => Err(error),
        },
    };
    if let Err(error) = &status {
        tracing::error!(%error, "The process of a daemon cannot be waited for");
    }
    let stderr = timeout(LAST_WORDS, stderr).await;
    (status.ok(), stderr.ok().and_then(Result::ok).unwrap_or_default())
}

/// Reads standard error to its end: each line to the log, the last ones for the error message.
async fn collect(stderr: Option<ChildStderr>, daemon: &'static str, pid: u32) -> String {
    let Some(stderr) = stderr else { return String::new() };
    let mut stderr = BufReader::new(stderr);
    let mut kept = VecDeque::new();
    let mut bytes = Vec::new();
    // Read to the end, whatever is in it: a daemon whose last words nobody reads would fail at them. A longer line is several.
    while matches!((&mut stderr).take(LONGEST_LINE).read_until(b'\n', &mut bytes).await, Ok(count) if count > 0)
    {
        let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        bytes.clear();
        tracing::debug!(pid, line, "{daemon}");
        if kept.len() == LINES_KEPT {
            kept.pop_front();
        }
        kept.push_back(line);
    }
    Vec::from(kept).join("\n")
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use tokio::process::Command;

    use super::collect;

    /// The first one was taken for the end.
    #[tokio::test]
    async fn lines_that_are_no_text_are_kept_and_what_follows_them() {
        let script =
            r"printf 'a\377b\n' >&2; head -c 200000 /dev/zero | tr '\0' x >&2; printf '\nlast words\n' >&2";
        let mut child = Command::new("sh").args(["-c", script]).stderr(Stdio::piped()).spawn().unwrap();
        let kept = collect(child.stderr.take(), "sh", 0).await;
        assert!(child.wait().await.unwrap().success());
        let lines: Vec<_> = kept.lines().collect();
        assert_eq!((lines[0], lines.last().copied()), ("a\u{fffd}b", Some("last words")));
        assert!(lines.iter().all(|line| line.len() <= 64 << 10));
    }
}
