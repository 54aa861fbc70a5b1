//! The daemon that shows the shared directory to the guest: one virtiofsd for each VM.
//!
//! The vhost-user socket is made here and connected here. virtiofsd inherits the listening end, the VMM gets the
//! connected one, and so both can be started at the same time, in any order, without waiting for a path to appear.
//! virtiofsd ends by itself when the VMM does, because the connection closes then.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use command_fds::CommandFdExt;
use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};
use tokio::process::Child;

use crate::daemon::{self, Daemon, Program, SpawnError};
use crate::mount::open_path;
use crate::undo::undo;
use kata_intent::{Intent, Intents};

#[cfg(test)]
mod tests;

/// The socket's name, for the moment that it has one.
const SOCKET: &str = "virtiofsd.sock";

/// virtiofsd's own wish: this or what the kernel lets any process have, whichever is less.
const MOST_FILES: u64 = 1_000_000;
/// What virtiofsd (1.14, `INTERNAL_FD_RESERVE`) keeps for itself: one for each of 509 pieces of memory that there may be, one
/// for each thread, and some.
const OWN_FILES: u64 = 640;

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
}

/// Why virtiofsd could not be started.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
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
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The intent log could not be written.
    #[error("The sandbox's intent log cannot be written: is its file system full?")]
    Announce(#[source] io::Error),
}

/// Starts virtiofsd and returns it with the connected vhost-user socket for the VMM, as soon as the process exists.
/// Must be called inside a tokio runtime.
///
/// # Errors
/// The executable is missing or cannot be started, or the socket cannot be made. What the daemon itself refuses later
/// is told by [`Daemon::wait`]; the VMM then finds its socket closed.
pub fn spawn(plan: &DaemonPlan, intents: Arc<dyn Intents>) -> Result<(Daemon, OwnedFd), DaemonError> {
    let (listener, connected) = socket(&plan.socket_dir, intents.as_ref())?;
    let program = Program {
        name: "virtiofsd",
        binary: plan.binary.clone(),
        advice: "run `cargo install virtiofsd`, or set `virtio_fs_daemon` in the configuration, or do without it: \
                 `shared_fs = \"virtio-9p\"`",
    };
    let token = plan.shared_dir.to_string_lossy().into_owned();
    let daemon = Daemon::start(program, token, intents, || start(plan, listener))?;
    Ok((daemon, connected))
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

fn start(plan: &DaemonPlan, listener: UnixListener) -> io::Result<Child> {
    let mut command = daemon::command(&plan.binary);
    command.args(arguments(plan, listener.as_raw_fd()));
    command.preserved_fds(vec![listener.into()]);
    command.spawn()
}

/// virtiofsd's arguments; `socket` is the inherited listening socket.
///
/// What the plan's extra arguments name replaces ours. What is not named is left at virtiofsd's default on purpose:
///
/// - `--inode-file-handles` prefer: files that the guest only remembers cost no descriptor, which matters with ten
///   thousands of them; file systems without handles fall back to descriptors.
/// - `--rlimit-nofile`: as many as the host allows. A number of ours would be an error where it is too high. With fewer than
///   the guest remembers nothing can be opened any more, so the guest's kernel is told ([`files_of_guest`]).
/// - `--writeback` off: what the guest has written is in the host's file when `write` returns.
/// - `--posix-acl` never: with it the guest asks for the access list of each file that is not the asker's own. Who needs them
///   says so; the guest's kernel takes them on the mounts below the share, too (`xtask/src/guest/edits.rs`).
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

/// How many files virtiofsd may have open for the guest, with these extra arguments, if it is started by this process. At
/// least one: to the guest's kernel, none is no bound.
#[must_use]
pub fn files_of_guest(extra_args: &[String]) -> u64 {
    most_files(extra_args).saturating_sub(OWN_FILES).max(1)
}

/// How many it may have open at all: with the right to raise its limit it does.
fn most_files(extra_args: &[String]) -> u64 {
    let named = |(at, argument): (usize, &String)| match argument.strip_prefix("--rlimit-nofile")? {
        "" => extra_args.get(at + 1)?.parse().ok(),
        value => value.strip_prefix('=')?.parse().ok(),
    };
    let limit = getrlimit(Resource::Nofile);
    let wanted = match extra_args.iter().enumerate().rev().find_map(named) {
        Some(0) => return limit.current.unwrap_or(MOST_FILES),
        Some(number) => number,
        None => MOST_FILES.min(of_kernel()),
    };
    let may_raise = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_RESOURCE));
    if may_raise { wanted } else { wanted.min(limit.maximum.unwrap_or(u64::MAX)) }
}

/// The most that the kernel lets any process have.
fn of_kernel() -> u64 {
    std::fs::read_to_string("/proc/sys/fs/nr_open")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(u64::MAX)
}

/// Whether the argument `extra` sets the same as `option`: by `--name`, `--name=value` or `--no-name`.
pub(crate) fn replaces(extra: &str, option: &str) -> bool {
    let name = |argument: &str| {
        let name = argument.split('=').next().unwrap_or_default();
        let name = name.strip_prefix("--").unwrap_or_default();
        name.strip_prefix("no-").unwrap_or(name).to_owned()
    };
    name(extra) == name(option)
}
