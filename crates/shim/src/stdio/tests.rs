//! The streams as containerd's clients see them.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{Input, Names, Output, StdinHold, StdioError, open_input, open_outputs};

struct Streams {
    stdin: Option<Input>,
    hold: Option<StdinHold>,
    stdout: Option<Output>,
    stderr: Option<Output>,
}

async fn open(names: &Names, namespace: &str, id: &str) -> Result<Streams, StdioError> {
    let (stdin, hold) = open_input(names)?.unzip();
    let outputs = open_outputs(names, namespace, id).await?;
    Ok(Streams { stdin, hold, stdout: outputs.stdout, stderr: outputs.stderr })
}

fn fifo(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    path
}

/// Opens without waiting for the other end.
fn nonblocking() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags(i32::try_from(OFlags::NONBLOCK.bits()).unwrap());
    options
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn stdin_ends_only_after_close_io() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path(), "stdin");
    let names = Names { stdin: text(&path), ..Names::default() };
    let mut streams = open(&names, "ns", "id").await.unwrap();
    let mut stdin = streams.stdin.take().unwrap();
    let mut buffer = [0; 16];

    let mut client = nonblocking().write(true).open(&path).unwrap();
    client.write_all(b"one").unwrap();
    drop(client);
    assert_eq!(stdin.read(&mut buffer).await.unwrap(), 3);
    let early = timeout(Duration::from_millis(100), stdin.read(&mut buffer)).await;
    assert!(early.is_err(), "the client went away, but did not close: {early:?}");

    let mut second = nonblocking().write(true).open(&path).unwrap();
    second.write_all(b"three").unwrap();
    drop(streams.hold.take());
    assert_eq!(stdin.read(&mut buffer).await.unwrap(), 5, "what was written before CloseIO still arrives");
    drop(second);
    let end = timeout(Duration::from_secs(5), stdin.read(&mut buffer)).await.expect("the end never came");
    assert_eq!(end.unwrap(), 0);
}

#[tokio::test]
async fn stdout_survives_a_change_of_readers() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path(), "stdout");
    let mut first = nonblocking().read(true).open(&path).unwrap();
    let names = Names { stdout: text(&path), ..Names::default() };
    let mut stdout = open(&names, "ns", "id").await.unwrap().stdout.unwrap();
    stdout.write_all(b"for the first").await.unwrap();
    let mut buffer = [0; 64];
    assert_eq!(first.read(&mut buffer).unwrap(), 13);
    drop(first);

    stdout.write_all(b"kept for the next").await.unwrap();
    let mut second = nonblocking().read(true).open(&path).unwrap();
    let count = second.read(&mut buffer).unwrap();
    assert_eq!(&buffer[..count], b"kept for the next");

    drop(stdout);
    assert_eq!(second.read(&mut buffer).unwrap(), 0, "the reader sees the end");
}

#[tokio::test]
async fn stdout_waits_for_its_first_reader() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path(), "stdout");
    let reader = path.clone();
    let opening = tokio::spawn(async move {
        let names = Names { stdout: text(&path), ..Names::default() };
        let mut stdout = open(&names, "ns", "id").await.unwrap().stdout.unwrap();
        stdout.write_all(b"short-lived").await.unwrap();
    });
    let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(reader).unwrap());
    opening.await.unwrap();
    assert_eq!(read.await.unwrap(), "short-lived");
}

/// A thread stayed for each, as long as the pod.
#[test]
fn nobody_waits_for_the_reader_of_a_fifo_that_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path(), "stdout");
    let names = Names { stdout: text(&path), ..Names::default() };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        timeout(Duration::from_millis(100), open(&names, "ns", "id")).await.err().expect("nobody reads it");
        std::fs::remove_file(&path).unwrap();
    });
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || {
        // It waits for its threads.
        drop(runtime);
        ended.send(()).unwrap();
    });
    end.recv_timeout(Duration::from_secs(10)).expect("no thread is left");
}

#[tokio::test]
async fn a_terminal_has_no_stderr() {
    let dir = tempfile::tempdir().unwrap();
    let names = Names {
        stdout: format!("file://{}/out.log", text(dir.path())),
        stderr: "/nowhere/at/all".into(),
        terminal: true,
        ..Names::default()
    };
    let streams = open(&names, "ns", "id").await.unwrap();
    assert!(streams.stdout.is_some() && streams.stderr.is_none() && streams.stdin.is_none());
}

#[tokio::test]
async fn files_are_appended_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/log");
    let uri = format!("file://{}", text(&path));
    for _ in 0..2 {
        let names = Names { stdout: uri.clone(), stderr: uri.clone(), ..Names::default() };
        let mut streams = open(&names, "ns", "id").await.unwrap();
        streams.stdout.as_mut().unwrap().write_all(b"out ").await.unwrap();
        streams.stderr.as_mut().unwrap().write_all(b"err ").await.unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), "out err out err ");
}

#[tokio::test]
async fn a_logging_program_gets_both_streams_and_its_environment() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (program, log) = (dir.path().join("logger"), dir.path().join("log"));
    let script = "#!/bin/sh\nexec 5>&-\n{ echo \"$CONTAINER_NAMESPACE/$CONTAINER_ID $1\"; cat <&3; cat <&4; } > \"$2.part\"\nmv \"$2.part\" \"$2\"\n";
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let uri = format!("binary://{}?--to={}", text(&program), text(&log));
    let names = Names { stdout: uri.clone(), stderr: uri, ..Names::default() };
    let mut streams = open(&names, "ns", "web").await.unwrap();
    streams.stdout.as_mut().unwrap().write_all(b"out\n").await.unwrap();
    streams.stderr.as_mut().unwrap().write_all(b"err\n").await.unwrap();
    drop(streams);
    let mut interval = tokio::time::interval(Duration::from_millis(10));
    let written = async {
        while !log.exists() {
            interval.tick().await;
        }
    };
    timeout(Duration::from_secs(10), written).await.expect("the logger never finished");
    assert_eq!(std::fs::read_to_string(log).unwrap(), "ns/web --to\nout\nerr\n");
}

#[tokio::test]
async fn a_logging_program_that_dies_is_told() {
    let names = Names { stdout: "binary-v2:///bin/false".into(), ..Names::default() };
    let error = open(&names, "ns", "id").await.err().unwrap();
    assert!(matches!(error, StdioError::LoggerNotReady { .. }), "{error}");
    let names = Names { stdout: "binary:///does/not/exist".into(), ..Names::default() };
    assert!(matches!(open(&names, "ns", "id").await.err().unwrap(), StdioError::Logger { .. }));
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let names = Names { stdin: "/no/such/fifo".into(), ..Names::default() };
    let error = open(&names, "ns", "id").await.err().unwrap();
    assert_eq!(error.to_string(), "Cannot open /no/such/fifo as a process's stdin");
}
