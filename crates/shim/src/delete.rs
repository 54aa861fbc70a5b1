//! The action `delete`: containerd calls it when the connection to a server is gone, however that happened.
//! Afterwards nothing of the container is left on the host. Can be repeated.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use containerd_shim_protos::api::DeleteResponse;
use protobuf::{Message, MessageField};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::address;
use crate::args::Identity;
use crate::events::timestamp;
use crate::kata;
use crate::start::{ADDRESS_FILE, PID_FILE};

/// containerd gives us 5 s; a server that is ending in order (its last client has just left) needs part of one.
const END_PATIENCE: Duration = Duration::from_millis(2500);
const KILL_PATIENCE: Duration = Duration::from_secs(1);
/// 128 + SIGKILL: the container's VM is gone, whatever the container was doing.
const EXIT_STATUS: u32 = 137;

/// Something is left.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeleteError {
    /// The server does not die.
    #[error(
        "The server (process {pid}) of this container does not end, even when killed; it may hang in the kernel"
    )]
    Immortal {
        /// Its process id.
        pid: i32,
    },
    /// Ending the server.
    #[error("Cannot end the server (process {pid}) of this container")]
    End {
        /// Its process id.
        pid: i32,
        /// The system's reason.
        source: io::Error,
    },
    /// What the sandbox made.
    #[error("Cannot clean up after the container")]
    Sandbox(#[source] kata::PlanError),
    /// The socket.
    #[error("Cannot remove the server's socket")]
    Socket(#[from] address::AddressError),
    /// The root file system in the bundle.
    #[error("Cannot unmount {}", path.display())]
    Unmount {
        /// Where it is mounted.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// containerd does not listen to us.
    #[error("Cannot write the answer to standard output")]
    Answer(#[source] io::Error),
}

/// Carries out `delete`, with the sandboxes' state under `state_root`.
///
/// # Errors
/// See [`DeleteError`]; containerd calls again later.
pub(crate) fn run(identity: &Identity, state_root: &Path) -> Result<(), DeleteError> {
    // A working directory that is gone means that containerd has removed the bundle: nothing to do in it.
    let bundle = identity.bundle.clone().or_else(|| env::current_dir().ok());
    if let Some(bundle) = &bundle {
        end_server(bundle, identity)?;
    }
    kata::cleanup(state_root, &identity.id).map_err(DeleteError::Sandbox)?;
    address::remove(&own_socket(bundle.as_deref(), identity))?;
    if let Some(bundle) = &bundle {
        unmount_all(&bundle.join("rootfs"))?;
    }
    let response = DeleteResponse {
        exit_status: EXIT_STATUS,
        exited_at: MessageField::some(timestamp(SystemTime::now())),
        ..DeleteResponse::default()
    };
    let bytes = response.write_to_bytes().expect("a message in memory always serialises");
    io::stdout().write_all(&bytes).map_err(DeleteError::Answer)
}

/// Our socket is the one whose name is the hash of our id; a member's bundle names its pod's, which stays.
fn own_socket(bundle: Option<&Path>, identity: &Identity) -> PathBuf {
    let default = address::socket_path(Path::new(address::SOCKET_DIR), identity, &identity.id);
    let recorded = bundle.and_then(|bundle| fs::read_to_string(bundle.join(ADDRESS_FILE)).ok());
    match recorded.map(|address| address::path_of(&address)) {
        Some(path) if path.file_name() == default.file_name() => path,
        _ => default,
    }
}

/// Ends the server of this bundle, if it has one that lives. Only an owner's bundle has the file; a member's
/// server is its pod's.
fn end_server(bundle: &Path, identity: &Identity) -> Result<(), DeleteError> {
    let Some(pid) = recorded_pid(&bundle.join(PID_FILE)) else { return Ok(()) };
    let raw = pid.as_raw_nonzero().get();
    let fail = |error: Errno| DeleteError::End { pid: raw, source: error.into() };
    // The handle first, then the check: after that the number cannot become another process's.
    let handle = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => handle,
        // What it has started may go on in its session: older kernels, 6.1 for one, call its number invalid then.
        Err(Errno::SRCH | Errno::INVAL) => return Ok(()),
        Err(error) => return Err(fail(error)),
    };
    if !is_server(raw, identity) {
        return Ok(());
    }
    for (signal, patience) in [(Signal::TERM, END_PATIENCE), (Signal::KILL, KILL_PATIENCE)] {
        match pidfd_send_signal(&handle, signal) {
            Ok(()) => {}
            Err(Errno::SRCH) => return Ok(()),
            Err(error) => return Err(fail(error)),
        }
        if ended_within(&handle, patience).map_err(fail)? {
            return Ok(());
        }
    }
    Err(DeleteError::Immortal { pid: raw })
}

fn recorded_pid(path: &Path) -> Option<Pid> {
    let text = fs::read_to_string(path).ok()?;
    Pid::from_raw(text.trim().parse::<i32>().ok().filter(|pid| *pid > 0)?)
}

/// Whether the process is the server of this container and not one that has got its number since.
fn is_server(pid: i32, identity: &Identity) -> bool {
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let has = |flag: &str, value: &str| {
        words.windows(2).any(|pair| pair[0] == flag.as_bytes() && pair[1] == value.as_bytes())
    };
    has("-id", &identity.id) && has("-namespace", &identity.namespace)
}

fn ended_within(handle: &OwnedFd, patience: Duration) -> Result<bool, Errno> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = rustix::time::Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        match poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&timeout)) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Unmounts everything that is mounted on `path`, one above the other.
fn unmount_all(path: &Path) -> Result<(), DeleteError> {
    loop {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Not a mount point, or not there.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => return Err(DeleteError::Unmount { path: path.to_owned(), source: error.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::process::CommandExt;
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::time::Instant;

    use super::{END_PATIENCE, PID_FILE, end_server, own_socket, unmount_all};
    use crate::address::{SOCKET_DIR, socket_path, url};
    use crate::args::Identity;
    use crate::start::ADDRESS_FILE;

    fn identity() -> Identity {
        Identity {
            namespace: "ns".into(),
            id: "web".into(),
            address: "/c.sock".into(),
            ..Identity::default()
        }
    }

    /// A process with a server's command line that waits, prepared by a shell script. It says when it runs:
    /// right after a spawn the kernel does not show the new command line yet.
    fn process(id: &str, prepare: &str) -> Child {
        let script = format!("{prepare} echo; read line");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &script, "shim", "-namespace", "ns", "-id", id]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        child
    }

    /// The kernel of Debian 12 calls the number of such a one invalid: a killed shim's sandbox stayed.
    #[test]
    fn a_dead_server_whose_children_go_on_is_gone() {
        let bundle = tempfile::tempdir().unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "sleep 1000 > /dev/null & echo $!"]).process_group(0).stdout(Stdio::piped());
        let mut server = command.spawn().unwrap();
        let mut child = String::new();
        server.stdout.take().unwrap().read_to_string(&mut child).unwrap();
        server.wait().unwrap();
        std::fs::write(bundle.path().join(PID_FILE), server.id().to_string()).unwrap();
        let ended = end_server(bundle.path(), &identity());
        let child = rustix::process::Pid::from_raw(child.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
        ended.unwrap();
    }

    #[test]
    fn a_living_server_is_ended() {
        let bundle = tempfile::tempdir().unwrap();
        let mut child = process("web", "");
        std::fs::write(bundle.path().join(PID_FILE), child.id().to_string()).unwrap();
        let begun = Instant::now();
        end_server(bundle.path(), &identity()).unwrap();
        assert!(begun.elapsed() < END_PATIENCE, "SIGTERM was enough");
        assert!(!child.wait().unwrap().success());
        end_server(bundle.path(), &identity()).unwrap();
    }

    #[test]
    fn a_server_that_does_not_listen_is_killed() {
        let bundle = tempfile::tempdir().unwrap();
        let mut child = process("web", "trap '' TERM;");
        std::fs::write(bundle.path().join(PID_FILE), child.id().to_string()).unwrap();
        end_server(bundle.path(), &identity()).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn anothers_process_is_left_alone() {
        let bundle = tempfile::tempdir().unwrap();
        end_server(bundle.path(), &identity()).unwrap();
        let mut child = process("another", "");
        std::fs::write(bundle.path().join(PID_FILE), child.id().to_string()).unwrap();
        end_server(bundle.path(), &identity()).unwrap();
        assert!(child.try_wait().unwrap().is_none(), "it lives");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn only_our_own_socket_is_ours() {
        let bundle = tempfile::tempdir().unwrap();
        let default = socket_path(Path::new(SOCKET_DIR), &identity(), "web");
        assert_eq!(own_socket(None, &identity()), default);
        let elsewhere = socket_path(Path::new("/run/s"), &identity(), "web");
        std::fs::write(bundle.path().join(ADDRESS_FILE), url(&elsewhere)).unwrap();
        assert_eq!(own_socket(Some(bundle.path()), &identity()), elsewhere);
        let pods = socket_path(Path::new("/run/s"), &identity(), "pod");
        std::fs::write(bundle.path().join(ADDRESS_FILE), url(&pods)).unwrap();
        assert_eq!(own_socket(Some(bundle.path()), &identity()), default);
    }

    #[test]
    fn what_is_not_mounted_needs_no_unmounting() {
        let bundle = tempfile::tempdir().unwrap();
        unmount_all(bundle.path()).unwrap();
        unmount_all(&bundle.path().join("gone")).unwrap();
    }
}
