//! nydusd, in the place of virtiofsd: one for each VM.
//!
//! It makes its sockets itself, so the VMM's end can be connected only when it has: that and its first file system, the
//! shared directory, are waited for before the VM is started.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use kata_intent::Intents;
use kata_protocol::guest;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set, set_no_new_privs};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use super::api::{self, Api, ApiError, FileSystem};
use crate::daemon::{self, Daemon, DaemonExit, Program, SpawnError};
use crate::virtiofsd::replaces;
use crate::watch::register;

#[cfg(test)]
mod tests;

/// The socket for requests, in the sandbox's directory.
pub const API_SOCKET: &str = "api.sock";
/// The VMM's, until that has it.
const VMM_SOCKET: &str = "vhost-user-fs.sock";
/// The longest path of a socket.
const LONGEST: usize = 107;
/// How long it may take to stand.
const PATIENCE: Duration = Duration::from_secs(20);
/// The first and the longest pause where nothing tells that it is time.
const PAUSES: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(64)];
/// What it says when it serves.
const RUNNING: &str = "RUNNING";

/// What it needs to be root for: the files of all users, their owners, devices (whiteouts), capabilities and attributes of
/// the family `trusted`, which an overlay in the guest writes.
const RIGHTS: [CapabilitySet; 11] = [
    CapabilitySet::CHOWN,
    CapabilitySet::DAC_OVERRIDE,
    CapabilitySet::DAC_READ_SEARCH,
    CapabilitySet::FOWNER,
    CapabilitySet::FSETID,
    CapabilitySet::SETGID,
    CapabilitySet::SETUID,
    CapabilitySet::MKNOD,
    CapabilitySet::SETFCAP,
    CapabilitySet::SYS_ADMIN,
    CapabilitySet::SYS_RESOURCE,
];

/// How nydusd is to be started.
#[derive(Debug, Clone)]
pub struct NydusdPlan {
    /// The executable, an absolute path.
    pub binary: PathBuf,
    /// The directory to pass through, [`crate::share::SharedDirectory::exported_dir`].
    pub shared_dir: PathBuf,
    /// A directory of the sandbox's, only for root, where the sockets are. Its path marks the process as the sandbox's.
    pub socket_dir: PathBuf,
    /// Whether it says much.
    pub debug: bool,
    /// More arguments, from the configuration's `virtio_fs_extra_args`. They replace ours of the same name.
    pub extra_args: Vec<String>,
}

/// Why nydusd does not serve.
#[derive(Debug, thiserror::Error)]
pub enum NydusdError {
    /// An address cannot be that long.
    #[error(
        "nydusd's socket {path:?} would have a path of more than {LONGEST} bytes: give the sandbox a shorter id, or its \
         state a shorter directory"
    )]
    Long {
        /// The socket.
        path: PathBuf,
    },
    /// The process could not be started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// Its directory cannot be watched.
    #[error("{dir:?} cannot be watched for nydusd's sockets: is `fs.inotify.max_user_instances` used up?")]
    Watch {
        /// The directory.
        dir: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is gone.
    #[error("{0}: it must be a nydusd with virtiofs; look at `virtio_fs_daemon` and `virtio_fs_extra_args`")]
    Ended(DaemonExit),
    /// It does not get ready.
    #[error("nydusd ({binary:?}) does not serve after {} s: {missing}", PATIENCE.as_secs())]
    Slow {
        /// The executable.
        binary: PathBuf,
        /// What was waited for.
        missing: &'static str,
    },
    /// The VMM's socket cannot be connected.
    #[error("nydusd's socket {path:?} for the VMM cannot be connected")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is in a state that does not lead anywhere.
    #[error("nydusd does not serve, but is in the state {state:?}")]
    State {
        /// Its word.
        state: String,
    },
    /// The shared directory cannot be had through it.
    #[error("nydusd does not share the sandbox's directory")]
    Share(#[source] ApiError),
}

/// Starts nydusd, has it pass the shared directory through, and returns it with the connected vhost-user socket for the
/// VMM. What fails ends it. Must be called inside a tokio runtime.
///
/// # Errors
/// It cannot be started, ends, does not serve in time, or refuses the directory.
pub async fn start(plan: &NydusdPlan, intents: Arc<dyn Intents>) -> Result<(Daemon, OwnedFd), NydusdError> {
    let (requests, vmm) = (plan.socket_dir.join(API_SOCKET), plan.socket_dir.join(VMM_SOCKET));
    for path in [&requests, &vmm] {
        if path.as_os_str().len() > LONGEST {
            return Err(NydusdError::Long { path: path.clone() });
        }
    }
    let watched = |source| NydusdError::Watch { dir: plan.socket_dir.clone(), source };
    let mut arrivals = Arrivals::new(&plan.socket_dir).map_err(watched)?;
    let program = Program {
        name: "nydusd",
        binary: plan.binary.clone(),
        advice: "install it or set `virtio_fs_daemon` in the configuration to where it is",
    };
    let token = requests.to_string_lossy().into_owned();
    let command = command(plan, &requests, &vmm);
    let daemon = Daemon::start(program, token, intents, || spawn_confined(command))?;
    let mut missing = "it has not made its sockets";
    let ready = async {
        arrivals.of(&[&requests, &vmm]).await.map_err(watched)?;
        missing = "it is not in the state RUNNING";
        serving(&Api::new(requests.clone())).await?;
        missing = "it does not take the shared directory or the VMM's connection";
        share(plan, &Api::new(requests.clone()), &vmm).await
    };
    let ready = tokio::select! {
        biased;
        exit = daemon.wait() => Err(NydusdError::Ended(exit)),
        ready = timeout(PATIENCE, ready) => match ready {
            Ok(ready) => ready,
            Err(_) => Err(NydusdError::Slow { binary: plan.binary.clone(), missing }),
        },
    };
    match ready {
        Ok(socket) => Ok((daemon, socket)),
        Err(error) => {
            daemon.kill().await;
            Err(error)
        }
    }
}

/// Waits until it says that it serves. When its socket is there, it may not listen on it yet, and then it may still have to
/// set itself up: nothing tells when that is done, so it is asked again.
async fn serving(api: &Api) -> Result<(), NydusdError> {
    let mut pauses = Pauses::default();
    loop {
        match api.state().await {
            Ok(state) if state == RUNNING => return Ok(()),
            Ok(state) if !["INIT", "READY"].contains(&state.as_str()) => {
                return Err(NydusdError::State { state });
            }
            Err(error) if !error.is_gone() => return Err(NydusdError::Share(error)),
            Ok(_) | Err(_) => {}
        }
        pauses.pause().await;
    }
}

/// Pauses, each twice as long as the one before.
#[derive(Default)]
struct Pauses {
    made: u32,
}

impl Pauses {
    #[expect(
        clippy::disallowed_methods,
        reason = "a pause before another attempt: there is no event to wait for"
    )]
    async fn pause(&mut self) {
        let [first, longest] = PAUSES;
        sleep(first.saturating_mul(1 << self.made.min(16)).min(longest)).await;
        self.made += 1;
    }
}

/// Has it pass the shared directory through, and connects it for the VMM.
async fn share(plan: &NydusdPlan, api: &Api, vmm: &Path) -> Result<OwnedFd, NydusdError> {
    let source = plan.shared_dir.to_string_lossy();
    let directory = FileSystem { source: &source, fs_type: "passthrough_fs", config: "" };
    let mountpoint = format!("/{}", guest::SHARE);
    api.mount(&mountpoint, directory).await.map_err(NydusdError::Share)?;
    let failed = |source| NydusdError::Connect { path: vmm.to_owned(), source };
    let mut pauses = Pauses::default();
    let socket = loop {
        match api::connect(vmm).await {
            // It has its name, but does not listen on it yet.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => pauses.pause().await,
            connected => break connected.and_then(UnixStream::into_std).map_err(failed)?,
        }
    };
    socket.set_nonblocking(false).map_err(failed)?;
    // Nobody else is to connect.
    std::fs::remove_file(vmm).map_err(failed)?;
    Ok(socket.into())
}

fn command(plan: &NydusdPlan, requests: &Path, vmm: &Path) -> Command {
    let mut command = daemon::command(&plan.binary);
    // Images and the shared directory, both.
    command.args(["virtiofs", "--hybrid-mode"]);
    let level = ["--log-level", if plan.debug { "debug" } else { "info" }];
    if !plan.extra_args.iter().any(|extra| replaces(extra, level[0])) {
        command.args(level);
    }
    command.arg("--apisock").arg(requests).arg("--sock").arg(vmm).args(&plan.extra_args);
    command
}

/// Starts `command` with the rights in [`RIGHTS`] at most, and without a way to more.
///
/// Rights belong to a thread, and a child gets its parent thread's; so a thread of its own gives them up, starts the child
/// and ends.
fn spawn_confined(mut command: Command) -> io::Result<Child> {
    let runtime = Handle::current();
    let thread = thread::Builder::new().name("nydusd-spawn".to_owned()).spawn(move || {
        let kept: CapabilitySet = RIGHTS.into_iter().collect();
        set_no_new_privs(true)?;
        for right in CapabilitySet::all().difference(kept).iter() {
            match remove_capability_from_bounding_set(right) {
                // An older kernel has fewer.
                Err(rustix::io::Errno::INVAL) | Ok(()) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let _runtime = runtime.enter();
        command.spawn()
    });
    thread?.join().unwrap_or_else(|_| Err(io::Error::other("the starting thread panicked")))
}

/// Files that come into a directory.
struct Arrivals {
    events: AsyncFd<OwnedFd>,
}

impl Arrivals {
    /// From now on.
    fn new(dir: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        inotify::add_watch(&inotify, dir, WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
        Ok(Self { events: register(inotify)? })
    }

    /// Waits until all of `paths`, which are in the directory, are there.
    async fn of(&mut self, paths: &[&Path]) -> io::Result<()> {
        let mut told = [0; 4096];
        loop {
            if paths.iter().all(|path| path.symlink_metadata().is_ok()) {
                return Ok(());
            }
            let mut ready = self.events.readable().await?;
            match rustix::io::read(ready.get_inner(), &mut told) {
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
