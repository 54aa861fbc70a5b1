//! The daemon that shows the shared directory to the guest: one virtiofsd for each VM.
//!
//! The vhost-user socket is made here and connected here. virtiofsd inherits the listening end, the VMM gets the
//! connected one, and so both can be started at the same time, in any order, without waiting for a path to appear.
//! virtiofsd ends by itself when the VMM does, because the connection closes then.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use command_fds::CommandFdExt;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::mount::open_path;
use crate::undo::undo;
use kata_cgroup::Cgroup;
use kata_intent::{Intent, IntentId, Intents};

#[cfg(test)]
mod tests;

/// The socket's name, for the moment that it has one.
const SOCKET: &str = "virtiofsd.sock";
/// How many of its last lines are kept for error messages.
const LINES_KEPT: usize = 20;
/// How long the last lines are waited for once the process is gone.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How virtiofsd is to be started.
#[derive(Debug, Clone)]
pub struct DaemonPlan {
    /// The executable, an absolute path.
    pub binary: PathBuf,
    /// The directory to export, [`crate::share::SharedDirectory::exported_dir`]. Its path names the sandbox, so it
    /// also marks the process as the sandbox's.
    pub shared_dir: PathBuf,
    /// A directory only for root, where the socket is for as long as it takes to connect to it:
    /// [`crate::share::SharedDirectory::root`].
    pub socket_dir: PathBuf,
    /// How long the guest may keep what it has read: `auto`, `always`, `never` or `metadata`.
    pub cache: String,
    /// Whether the daemon is held to the system calls it needs.
    pub seccomp: bool,
    /// Whether it reports each request.
    pub debug: bool,
    /// More arguments, from the configuration's `virtio_fs_extra_args`. They replace ours of the same name.
    pub extra_args: Vec<String>,
    /// Where it is counted.
    pub cgroup: Cgroup,
}

/// Why virtiofsd could not be started.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The executable does not exist.
    #[error(
        "virtiofsd does not exist at {path:?}: run `cargo install virtiofsd`, or set `virtio_fs_daemon` in the \
         configuration, or do without it: `shared_fs = \"virtio-9p\"`"
    )]
    Missing {
        /// The configured path.
        path: PathBuf,
    },
    /// The socket could not be made or connected.
    #[error("The socket {path:?} for virtiofsd cannot be made: its directory must exist and be writable")]
    Socket {
        /// The socket's path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The process could not be started.
    #[error("virtiofsd ({path:?}) could not be started")]
    Spawn {
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

/// The end of a virtiofsd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonExit {
    /// How it ended; `None` if it could not be waited for.
    pub status: Option<ExitStatus>,
    /// Its last lines on standard error, at most 20.
    pub stderr: String,
}

impl fmt::Display for DaemonExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status.map(|status| (status.code(), status.signal())) {
            Some((Some(code), _)) => write!(f, "virtiofsd exited with status {code}")?,
            Some((None, Some(signal))) => write!(f, "virtiofsd was killed by signal {signal}")?,
            Some((None, None)) | None => f.write_str("virtiofsd is gone")?,
        }
        // Its warnings come with every start.
        let serious = |line: &&str| !line.contains(" WARN ");
        match self.stderr.lines().rfind(serious) {
            Some(last) => write!(f, ": {last}"),
            None => Ok(()),
        }
    }
}

/// A running virtiofsd. Dropping it kills the process.
#[derive(Debug)]
pub struct Daemon {
    binary: PathBuf,
    pid: u32,
    exit: watch::Receiver<Option<DaemonExit>>,
    kill: mpsc::Sender<()>,
}

impl Daemon {
    /// Starts virtiofsd and returns it with the connected vhost-user socket for the VMM, as soon as the process
    /// exists. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The executable is missing or cannot be started, or the socket cannot be made. What the daemon itself
    /// refuses later is told by [`Daemon::wait`]; the VMM then finds its socket closed.
    pub fn spawn(plan: &DaemonPlan, intents: Arc<dyn Intents>) -> Result<(Self, OwnedFd), DaemonError> {
        let (listener, connected) = socket(&plan.socket_dir, intents.as_ref())?;
        let token = plan.shared_dir.to_string_lossy().into_owned();
        let intent = Intent::Process { argv_token: token, exe: plan.binary.clone() };
        let id = intents.will(intent).map_err(DaemonError::Announce)?;
        match start(plan, listener) {
            Ok(child) => Ok((Self::watch(plan.binary.clone(), child, intents, id), connected)),
            Err(error) => {
                intents.done(id);
                Err(error)
            }
        }
    }

    fn watch(binary: PathBuf, mut child: Child, intents: Arc<dyn Intents>, id: IntentId) -> Self {
        let pid = child.id().unwrap_or_default();
        let (exit_state, exit) = watch::channel(None);
        let (kill, orders) = mpsc::channel(1);
        let stderr = tokio::spawn(collect(child.stderr.take(), pid));
        tokio::spawn(async move {
            let exit = supervise(child, orders, stderr).await;
            intents.done(id);
            exit_state.send_replace(Some(exit));
        });
        Self { binary, pid, exit, kill }
    }

    /// The executable.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
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
        exited.unwrap_or(DaemonExit { status: None, stderr: String::new() })
    }

    /// Kills the process at once, with the child it has in its sandbox, and waits until it is gone.
    pub async fn kill(&self) -> DaemonExit {
        // A full queue means that it has been ordered, a closed one that it is done.
        self.kill.try_send(()).ok();
        self.wait().await
    }
}

/// Makes the socket, connects to it and removes its name again.
fn socket(dir: &Path, intents: &dyn Intents) -> Result<(UnixListener, OwnedFd), DaemonError> {
    let path = dir.join(SOCKET);
    let intent = Intent::Socket { path: path.clone() };
    let id = intents.will(intent.clone()).map_err(DaemonError::Announce)?;
    let failed = |source| DaemonError::Socket { path: path.clone(), source };
    let made = connect(dir);
    undo(&intent).map_err(failed)?;
    intents.done(id);
    made.map_err(failed)
}

/// A socket's path can have at most 107 bytes, and a pod's id alone has 64: the directory's descriptor stands for it.
fn connect(dir: &Path) -> io::Result<(UnixListener, OwnedFd)> {
    let dir = open_path(dir)?;
    let path = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(SOCKET);
    let listener = UnixListener::bind(&path)?;
    let connected = UnixStream::connect(&path)?;
    Ok((listener, connected.into()))
}

fn start(plan: &DaemonPlan, listener: UnixListener) -> Result<Child, DaemonError> {
    let mut command = Command::new(&plan.binary);
    command.args(arguments(plan, listener.as_raw_fd())).env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // Not in our process group: a Ctrl-C in a terminal is for us to handle.
    command.process_group(0).kill_on_drop(true);
    command.preserved_fds(vec![listener.into()]);
    plan.cgroup.enter(&mut command);
    command.spawn().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => DaemonError::Missing { path: plan.binary.clone() },
        _ => DaemonError::Spawn { path: plan.binary.clone(), source },
    })
}

/// virtiofsd's arguments; `socket` is the inherited listening socket.
///
/// What the plan's extra arguments name replaces ours. What is not named is left at virtiofsd's default on purpose:
///
/// - `--inode-file-handles` prefer: files that the guest only remembers cost no descriptor, which matters with ten
///   thousands of them; file systems without handles fall back to descriptors.
/// - `--rlimit-nofile`: as many as the host allows. A number of ours would be an error where it is too high.
/// - `--writeback` off: what the guest has written is in the host's file when `write` returns.
/// - `--posix-acl` never: Linux (6.12) does not take ACLs on the mounts below the share, which is where everything
///   is.
fn arguments(plan: &DaemonPlan, socket: RawFd) -> Vec<OsString> {
    let mut arguments =
        vec!["--shared-dir".into(), plan.shared_dir.clone().into(), format!("--fd={socket}").into()];
    let options = [
        format!("--cache={}", plan.cache),
        // Own mount, process and network namespaces: a daemon that the guest has taken over sees the share, no more.
        "--sandbox=namespace".to_owned(),
        format!("--seccomp={}", if plan.seccomp { "kill" } else { "none" }),
        format!("--log-level={}", if plan.debug { "debug" } else { "warn" }),
        // A slow `fsync` of one container does not hold up the others. Costs nothing measurable.
        "--thread-pool-size=4".to_owned(),
        // Each mount is a file system of its own in the guest: inode numbers of two of them cannot be mixed up.
        "--announce-submounts".to_owned(),
        // File capabilities, SELinux labels and the user's own attributes are kept.
        "--xattr".to_owned(),
        // The host clears setuid bits when others write, also at `O_TRUNC`, where the guest forgets to. And the
        // guest need not ask for a file's capabilities before each write: half the requests.
        "--killpriv-v2".to_owned(),
    ];
    let ours =
        options.into_iter().filter(|option| !plan.extra_args.iter().any(|extra| replaces(extra, option)));
    arguments.extend(ours.map(OsString::from));
    arguments.extend(plan.extra_args.iter().map(OsString::from));
    arguments
}

/// Whether the argument `extra` sets the same as `option`: by `--name`, `--name=value` or `--no-name`.
fn replaces(extra: &str, option: &str) -> bool {
    let name = |argument: &str| {
        let name = argument.split('=').next().unwrap_or_default();
        let name = name.strip_prefix("--").unwrap_or_default();
        name.strip_prefix("no-").unwrap_or(name).to_owned()
    };
    name(extra) == name(option)
}

/// Waits for the end, kills on order or when all handles are gone.
async fn supervise(
    mut child: Child,
    mut orders: mpsc::Receiver<()>,
    stderr: JoinHandle<String>,
) -> DaemonExit {
    let status = tokio::select! {
        status = child.wait() => status,
        _ = orders.recv() => match child.start_kill() {
            Ok(()) => child.wait().await,
            Err(error) => Err(error),
        },
    };
    if let Err(error) = &status {
        tracing::error!(%error, "virtiofsd's process cannot be waited for");
    }
    let stderr = timeout(LAST_WORDS, stderr).await;
    DaemonExit { status: status.ok(), stderr: stderr.ok().and_then(Result::ok).unwrap_or_default() }
}

/// Reads standard error to its end: each line to the log, the last ones for the error message.
async fn collect(stderr: Option<ChildStderr>, pid: u32) -> String {
    let Some(stderr) = stderr else { return String::new() };
    let mut lines = BufReader::new(stderr).lines();
    let mut kept = VecDeque::new();
    // An error, for example a line that is not UTF-8, ends it like the end of the stream.
    while let Ok(Some(line)) = lines.next_line().await {
        tracing::debug!(pid, line, "virtiofsd");
        if kept.len() == LINES_KEPT {
            kept.pop_front();
        }
        kept.push_back(line);
    }
    Vec::from(kept).join("\n")
}
