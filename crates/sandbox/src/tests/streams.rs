//! Processes' streams end to end through the real transport.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Instant, timeout};

use super::{Flaw, PATIENCE, Scene, cid, eid, exec, with_stdio};
use crate::command::Stdio;

const MIB: usize = 1024 * 1024;

/// What a stream of the caller holds.
const PIPE: usize = 4096;

/// The caller's ends of a process's streams.
struct Ends {
    stdin: DuplexStream,
    stdout: DuplexStream,
    stderr: DuplexStream,
}

fn stdio(terminal: bool) -> (Stdio, Ends) {
    let ((a, stdin), (b, stdout), (c, stderr)) = (duplex(PIPE), duplex(PIPE), duplex(PIPE));
    let stdio =
        Stdio { terminal, stdin: Some(Box::new(a)), stdout: Some(Box::new(b)), stderr: Some(Box::new(c)) };
    (stdio, Ends { stdin, stdout, stderr })
}

async fn started(terminal: bool) -> (Scene, Ends) {
    let scene = Scene::new();
    let (stdio, ends) = stdio(terminal);
    scene.sandbox.create(with_stdio("c", stdio)).await.unwrap();
    scene.sandbox.start(&cid("c")).await.unwrap();
    (scene, ends)
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_stream_ends_by_itself() {
    let (mut scene, mut ends) = started(false).await;
    let names = scene.agent.stdio("c");
    let mut stdin = scene.agent.stream(names.stdin_port).await;
    let mut stdout = scene.agent.stream(names.stdout_port).await;
    let mut stderr = scene.agent.stream(names.stderr_port).await;

    ends.stdin.write_all(b"in\0\xff").await.unwrap();
    drop(ends.stdin);
    let mut heard = Vec::new();
    stdin.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"in\0\xff");

    stderr.write_all(b"error").await.unwrap();
    drop(stderr);
    let mut heard = Vec::new();
    ends.stderr.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"error");

    stdout.write_all(b"out").await.unwrap();
    stdout.shutdown().await.unwrap();
    scene.agent.exit("c", 0);
    assert_eq!(scene.exit_of("c", None).await, 0);
    let mut heard = Vec::new();
    ends.stdout.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"out");
}

#[tokio::test]
async fn a_terminal_has_no_stderr_of_its_own() {
    let (scene, _ends) = started(true).await;
    let names = scene.agent.stdio("c");
    assert!(names.terminal && names.stdin_port != 0 && names.stdout_port != 0);
    assert_eq!(names.stderr_port, 0);
}

#[tokio::test]
async fn the_end_is_told_after_a_slow_reader_has_all_output() {
    let (mut scene, mut ends) = started(false).await;
    let names = scene.agent.stdio("c");
    let mut stdout = scene.agent.stream(names.stdout_port).await;
    drop(scene.agent.stream(names.stderr_port).await);
    let sent = 4 * MIB;
    let writer = tokio::spawn(async move {
        stdout.write_all(&vec![b'x'; sent]).await.unwrap();
        stdout.shutdown().await.unwrap();
    });
    scene.agent.exit("c", 5);
    scene.no_event().await;
    let mut heard = 0;
    let mut buffer = vec![0; 64 * 1024];
    while let n @ 1.. = ends.stdout.read(&mut buffer).await.unwrap() {
        heard += n;
        // What is in the pipe to the reader counts as delivered.
        if heard + PIPE < sent {
            assert!(timeout(Duration::ZERO, scene.events.recv()).await.is_err(), "told after {heard} bytes");
        }
    }
    assert_eq!(heard, sent);
    assert_eq!(scene.exit_of("c", None).await, 5);
    writer.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_output_that_a_descendant_holds_does_not_hold_the_end() {
    let mut scene = Scene::running().await;
    let (stdio, mut ends) = stdio(false);
    scene.sandbox.exec(&cid("c"), exec("e", stdio)).await.unwrap();
    scene.sandbox.start_exec(&cid("c"), &eid("e")).await.unwrap();
    let names = scene.agent.stdio("c/e");
    let mut stdout = scene.agent.stream(names.stdout_port).await;
    drop(scene.agent.stream(names.stderr_port).await);
    stdout.write_all(b"before").await.unwrap();
    let begun = Instant::now();
    scene.agent.exit("c/e", 0);
    assert_eq!(scene.exit_of("c", Some("e")).await, 0);
    assert!(begun.elapsed() < Duration::from_secs(5));
    // What the descendant writes still arrives.
    stdout.write_all(b" and after").await.unwrap();
    let mut heard = [0; 16];
    ends.stdout.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"before and after");
    // Until the process is removed.
    scene.sandbox.delete(&cid("c"), Some(&eid("e"))).await.unwrap();
    assert_eq!(ends.stdout.read(&mut heard).await.unwrap(), 0);
}

#[tokio::test]
async fn a_reader_that_goes_away_breaks_the_pipe_of_the_process() {
    let (scene, ends) = started(false).await;
    let mut stdout = scene.agent.stream(scene.agent.stdio("c").stdout_port).await;
    drop(ends.stdout);
    let broken = async { while stdout.write_all(&[0; 4096]).await.is_ok() {} };
    timeout(PATIENCE, broken).await.unwrap();
}

#[tokio::test]
async fn an_input_can_be_closed_by_request() {
    let (scene, mut ends) = started(false).await;
    let mut stdin = scene.agent.stream(scene.agent.stdio("c").stdin_port).await;
    ends.stdin.write_all(b"all of it").await.unwrap();
    scene.sandbox.close_io(&cid("c"), None).await.unwrap();
    let mut heard = Vec::new();
    timeout(PATIENCE, stdin.read_to_end(&mut heard)).await.unwrap().unwrap();
    assert_eq!(heard, b"all of it");
}

#[tokio::test]
async fn a_foreign_agents_streams_are_polled() {
    let mut scene = Scene::with(&[Flaw::Foreign]);
    scene.agent.writes("c", &["one ", "two"]);
    let (stdio, mut ends) = stdio(true);
    ends.stdin.write_all(b"input").await.unwrap();
    scene.sandbox.create(with_stdio("c", stdio)).await.unwrap();
    let mut heard = String::new();
    ends.stdout.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "one two");
    drop(ends.stdin);
    let closed = async {
        while !scene.agent.asked().contains(&"CloseStdin".to_owned()) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, closed).await.unwrap();
    assert_eq!(scene.agent.polled_input(), b"input");
    scene.agent.exit("c", 1);
    assert_eq!(scene.exit_of("c", None).await, 1);
}
