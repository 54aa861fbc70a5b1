//! Arguments as a snapshot, and the life of real virtiofsd processes.

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{Resource, getrlimit};
use tokio::time::timeout;

use super::{DaemonError, DaemonPlan, MOST_FILES, arguments, files_of_guest, most_files, socket, spawn};
use crate::daemon::{DaemonExit, SpawnError};
use crate::share::SharedDirectory;
use crate::testing::{MemoryLog, in_private_mounts};

const PATIENCE: Duration = Duration::from_secs(10);

fn plan(binary: &Path, root: &Path) -> DaemonPlan {
    DaemonPlan {
        binary: binary.to_owned(),
        shared_dir: root.join("ro"),
        socket_dir: root.to_owned(),
        cache: "auto".to_owned(),
        seccomp: true,
        debug: false,
        extra_args: Vec::new(),
    }
}

/// virtiofsd, from the staged install of `cargo xtask test` or where packages put it; `None`, with the reason
/// printed, where there is none. QEMU 7.2's own, at another place, is another program.
fn binary() -> Option<PathBuf> {
    let stage =
        std::env::var_os("KATA_TEST_STAGE").map(|stage| PathBuf::from(stage).join("libexec/virtiofsd"));
    let places = ["/usr/local/libexec/virtiofsd", "/usr/libexec/virtiofsd"];
    let found = stage.into_iter().chain(places.map(PathBuf::from)).find(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped: no virtiofsd; set KATA_TEST_STAGE, as `cargo xtask test` does");
    }
    found
}

fn on_a_runtime(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

fn rendered(extra_args: &[&str]) -> String {
    let mut plan = plan("/x/virtiofsd".as_ref(), "/run/s/abc".as_ref());
    plan.extra_args = extra_args.iter().map(|extra| (*extra).to_owned()).collect();
    let arguments = arguments(&plan, 7);
    arguments.iter().map(|argument| argument.to_str().unwrap()).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_arguments() {
    insta::assert_snapshot!(rendered(&[]));
}

#[test]
fn extra_arguments_replace_ours_by_name() {
    let text =
        rendered(&["--thread-pool-size=1", "--no-killpriv-v2", "--cache", "never", "--announce-submounts"]);
    for gone in ["--thread-pool-size=4", "\n--killpriv-v2", "--cache=auto", "--announce-submounts\n"] {
        assert!(!text.contains(gone), "{text}");
    }
    assert!(text.ends_with("--no-killpriv-v2\n--cache\nnever\n--announce-submounts"), "{text}");
}

#[test]
fn the_exit_names_the_error_and_not_the_usual_warnings() {
    let stderr =
        "[x WARN  virtiofsd::limits] few\n[x ERROR virtiofsd] bad\n[x WARN  virtiofsd] hm".to_owned();
    let status = Some(std::process::ExitStatus::from_raw(1 << 8));
    let exit = DaemonExit { name: "virtiofsd", status, stderr };
    assert_eq!(exit.to_string(), "virtiofsd exited with status 1: [x ERROR virtiofsd] bad");
}

#[test]
fn the_socket_is_made_in_a_directory_with_a_long_path() {
    // A regression: with a pod's id of 64 characters, the path was longer than a socket's may be.
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("0123456789abcdef".repeat(8));
    fs::create_dir(&dir).unwrap();
    let log = MemoryLog::new();
    let (_listener, _connected) = socket(&dir, log.as_ref()).unwrap();
    assert!(log.open().is_empty());
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
}

#[test]
fn a_missing_daemon_is_named_and_leaves_nothing() {
    on_a_runtime(async {
        let temp = tempfile::tempdir().unwrap();
        let log = MemoryLog::new();
        let error = spawn(&plan("/nonexistent/virtiofsd".as_ref(), temp.path()), log.clone()).unwrap_err();
        assert!(matches!(error, DaemonError::Spawn(SpawnError::Missing { .. })), "{error}");
        assert!(log.open().is_empty());
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);

        let error = spawn(&plan("/bin/true".as_ref(), Path::new("/nonexistent")), log.clone()).unwrap_err();
        assert!(matches!(error, DaemonError::Socket { .. }), "{error}");
        assert!(log.open().is_empty());
    });
}

#[test]
fn a_daemon_that_fails_says_why_and_closes_the_socket() {
    let Some(binary) = binary() else { return };
    on_a_runtime(async move {
        let temp = tempfile::tempdir().unwrap();
        let log = MemoryLog::new();
        // There is no `ro` to export.
        let (daemon, socket) = spawn(&plan(&binary, temp.path()), log.clone()).unwrap();
        let exit = timeout(PATIENCE, daemon.wait()).await.unwrap();
        assert!(exit.to_string().contains("does not exist"), "{exit}");
        assert!(log.open().is_empty());
        assert!(ended(socket.into()));
    });
}

#[test]
fn later_mounts_reach_the_running_daemon_and_it_ends_with_its_socket() {
    let Some(binary) = binary() else { return };
    in_private_mounts(move || {
        // As on a host with systemd.
        mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC).unwrap();
        on_a_runtime(async move {
            let temp = tempfile::tempdir().unwrap();
            let log = MemoryLog::new();
            let mut share = SharedDirectory::create(temp.path(), "sandbox", log.clone()).unwrap();
            let before = log.open();
            let (daemon, socket) = spawn(&plan(&binary, share.root()), log.clone()).unwrap();
            assert_eq!(log.open().len(), before.len() + 1);
            let sandboxed = child_in_sandbox(daemon.pid()).await;

            let source = tempfile::tempdir().unwrap();
            fs::write(source.path().join("hello"), "x").unwrap();
            let mut files = share.container("c1").unwrap();
            files.mount_rootfs(&[], source.path()).unwrap();
            // What the daemon's own namespace has under its root, which is the exported directory.
            let seen = format!("/proc/{sandboxed}/root/passthrough/c1/rootfs/hello");
            assert_eq!(fs::read(&seen).unwrap(), b"x");
            assert!(!fs::exists(format!("/proc/{sandboxed}/root/etc")).unwrap());
            files.remove().unwrap();
            assert!(!fs::exists(&seen).unwrap());

            drop(socket);
            let exit = timeout(PATIENCE, daemon.wait()).await.unwrap();
            assert!(exit.status.unwrap().success(), "{exit}");
            assert_eq!(log.open(), before);
            share.remove().unwrap();
        });
    });
}

#[test]
fn the_daemon_may_have_as_many_files_open_as_is_said_of_it() {
    let Some(binary) = binary() else { return };
    in_private_mounts(move || {
        on_a_runtime(async move {
            let temp = tempfile::tempdir().unwrap();
            let mut share = SharedDirectory::create(temp.path(), "sandbox", MemoryLog::new()).unwrap();
            let (daemon, _socket) = spawn(&plan(&binary, share.root()), MemoryLog::new()).unwrap();
            let sandboxed = child_in_sandbox(daemon.pid()).await;
            let limits = fs::read_to_string(format!("/proc/{sandboxed}/limits")).unwrap();
            let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
            assert_eq!(line.split_whitespace().next().unwrap(), most_files(&[]).to_string());
            daemon.kill().await;
            share.remove().unwrap();
        });
    });
}

#[test]
fn killing_the_daemon_ends_its_sandboxed_child() {
    let Some(binary) = binary() else { return };
    in_private_mounts(move || {
        on_a_runtime(async move {
            let temp = tempfile::tempdir().unwrap();
            let mut share = SharedDirectory::create(temp.path(), "sandbox", MemoryLog::new()).unwrap();
            let (daemon, socket) = spawn(&plan(&binary, share.root()), MemoryLog::new()).unwrap();
            child_in_sandbox(daemon.pid()).await;
            let exit = timeout(PATIENCE, daemon.kill()).await.unwrap();
            assert_eq!(exit.status.unwrap().signal(), Some(9));
            // The socket's other end is the child's: its end is the child's end.
            assert!(ended(socket.into()));
            share.remove().unwrap();
        });
    });
}

#[test]
fn as_many_files_may_be_open_as_the_last_argument_says_if_it_may() {
    let most =
        |arguments: &[&str]| most_files(&arguments.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
    assert_eq!(most(&["--rlimit-nofile=7000", "--xattr", "--rlimit-nofile=512"]), 512);
    let unnamed = most(&[]);
    assert!((512..=MOST_FILES).contains(&unnamed), "{unnamed}");
    assert_eq!(most(&["--rlimit-nofile=0"]), getrlimit(Resource::Nofile).current.unwrap());
    // Was taken for virtiofsd's own wish.
    assert_eq!(most(&["--rlimit-nofile=7000", "--rlimit-nofile", "600", "--xattr"]), 600);
}

/// No files at all was what the guest's kernel takes for no bound.
#[test]
fn a_limit_that_virtiofsd_needs_itself_is_still_one() {
    assert_eq!(files_of_guest(&["--rlimit-nofile=620".to_owned()]), 1);
}

/// Whether the other end of a socket is closed, waiting for it.
fn ended(mut socket: std::os::unix::net::UnixStream) -> bool {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    // A reset is an end, too: the daemon never accepted the connection.
    match socket.read(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

/// The process in the sandbox, once its root is the shared directory.
async fn child_in_sandbox(pid: u32) -> u32 {
    let find = async {
        loop {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            // The first child only maps ids and is gone soon; the second has the exported directory as its root.
            for child in children.split_whitespace() {
                if fs::exists(format!("/proc/{child}/root/passthrough")).unwrap_or(false) {
                    return child.parse().unwrap();
                }
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, find).await.unwrap()
}
