//! The start, with a program that does nothing and a test that speaks for it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{NydusdError, NydusdPlan, PATIENCE, start};
use crate::daemon::SpawnError;
use crate::nydus::testing::serve;
use crate::testing::MemoryLog;

/// A plan with a shell script in the daemon's place.
fn plan(dir: &TempDir, script: &str) -> NydusdPlan {
    let binary = dir.path().join("nydusd");
    fs::write(&binary, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    NydusdPlan {
        binary,
        shared_dir: "/run/shared/ro".into(),
        socket_dir: dir.path().to_owned(),
        debug: false,
        extra_args: vec!["--thread-num".to_owned(), "2".to_owned()],
    }
}

/// CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, SETGID, SETUID, SYS_ADMIN, SYS_RESOURCE, MKNOD and SETFCAP.
const OF_NYDUSD: u64 = 0x8920_00df;

/// The bounding set, in what `/proc` says of a process.
fn rights(status: &str) -> u64 {
    let set = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap();
    u64::from_str_radix(set.trim(), 16).unwrap()
}

/// What the script has written down of itself, when it has.
fn noted(dir: &Path) -> PathBuf {
    dir.join("noted")
}

#[tokio::test]
async fn it_has_the_directory_and_few_rights_before_the_vm_is_started() {
    let dir = tempfile::tempdir().unwrap();
    let note = "echo \"$@\" > $(dirname $0)/note; grep -E 'CapBnd|NoNewPrivs' /proc/self/status >> $(dirname $0)/note";
    let plan = plan(&dir, &format!("{note}; mv $(dirname $0)/note $(dirname $0)/noted; exec sleep 1000"));
    let state = |state: &str| format!(r#"{{"state":"{state}"}}"#);
    let served =
        serve(&dir.path().join("api.sock"), &[(200, &state("INIT")), (200, &state("RUNNING")), (204, "")]);
    let listener = UnixListener::bind(dir.path().join("vhost-user-fs.sock")).unwrap();
    let log = MemoryLog::new();
    let (daemon, _socket) = start(&plan, log.clone()).await.unwrap();
    listener.accept().unwrap();
    assert!(!dir.path().join("vhost-user-fs.sock").exists());
    let asked = served.join().unwrap();
    assert_eq!(asked[2].0, "POST /api/v1/mount?mountpoint=/containers HTTP/1.1");
    let body: Value = serde_json::from_str(&asked[2].1).unwrap();
    assert_eq!(body, json!({ "source": "/run/shared/ro", "fs_type": "passthrough_fs", "config": "" }));
    assert_eq!(log.open().len(), 1);

    let written = tokio::time::timeout(PATIENCE, async {
        loop {
            match fs::read_to_string(noted(dir.path())) {
                Ok(text) => break text,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    });
    let written = written.await.unwrap();
    let at = dir.path().display();
    let arguments = format!(
        "virtiofs --hybrid-mode --log-level info --apisock {at}/api.sock --sock {at}/vhost-user-fs.sock --thread-num 2"
    );
    let lines: Vec<&str> = written.lines().collect();
    assert_eq!(lines[0], arguments);
    assert!(lines.iter().any(|line| line.starts_with("NoNewPrivs") && line.ends_with('1')), "{written}");
    let own = rights(&fs::read_to_string("/proc/thread-self/status").unwrap());
    assert_eq!(rights(&written), own & OF_NYDUSD, "{written}");

    daemon.kill().await;
    assert!(log.open().is_empty());
}

#[tokio::test]
async fn one_that_ends_is_told_with_its_last_words() {
    let dir = tempfile::tempdir().unwrap();
    let log = MemoryLog::new();
    let error = start(&plan(&dir, "echo 'bad sock' >&2; exit 3"), log.clone()).await.unwrap_err();
    assert!(matches!(error, NydusdError::Ended(_)), "{error}");
    assert!(error.to_string().contains("nydusd exited with status 3: bad sock"), "{error}");
    assert!(log.open().is_empty());
}

#[tokio::test]
async fn one_that_refuses_the_directory_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let log = MemoryLog::new();
    let refusal = (500, r#"{"code":"Undefined","message":"no such directory"}"#);
    let served = serve(&dir.path().join("api.sock"), &[(200, r#"{"state":"RUNNING"}"#), refusal]);
    let _listener = UnixListener::bind(dir.path().join("vhost-user-fs.sock")).unwrap();
    let error = start(&plan(&dir, "exec sleep 1000"), log.clone()).await.unwrap_err();
    assert!(matches!(error, NydusdError::Share(_)), "{error}");
    served.join().unwrap();
    assert!(log.open().is_empty(), "the process is gone");
}

#[tokio::test]
async fn one_in_a_state_of_no_return_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let log = MemoryLog::new();
    let served = serve(&dir.path().join("api.sock"), &[(200, r#"{"state":"STOPPED"}"#)]);
    let _listener = UnixListener::bind(dir.path().join("vhost-user-fs.sock")).unwrap();
    let error = start(&plan(&dir, "exec sleep 1000"), log.clone()).await.unwrap_err();
    assert!(error.to_string().contains("STOPPED"), "{error}");
    served.join().unwrap();
    assert!(log.open().is_empty());
}

#[tokio::test]
async fn a_missing_one_and_a_socket_without_room_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut plan = plan(&dir, "exec sleep 1000");
    plan.binary = "/nonexistent/nydusd".into();
    let error = start(&plan, MemoryLog::new()).await.unwrap_err();
    assert!(matches!(error, NydusdError::Spawn(SpawnError::Missing { .. })), "{error}");
    plan.socket_dir = dir.path().join("x".repeat(100));
    let error = start(&plan, MemoryLog::new()).await.unwrap_err();
    assert!(matches!(error, NydusdError::Long { .. }), "{error}");
}
