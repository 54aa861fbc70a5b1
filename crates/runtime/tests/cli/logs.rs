//! `logs`: guest kernel, agent and shim in one order.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use crate::tree::Tree;

const CONSOLE: &str = "[    0.000000] Linux version 6.12\r\n[    0.500000] Run /init as init process\r\n  --- more of it\r\n\
    [    0.600000] kata-agent:  INFO Serving version=\"0.1.0\"\r\n";

/// A sandbox whose guest started so many microseconds after the host.
fn tree() -> Tree {
    let tree = Tree::complete();
    let boot_clock = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let now = std::time::SystemTime::now();
    let started = (boot_clock.tv_sec - 3) * 1_000_000 + boot_clock.tv_nsec / 1000;
    tree.file("state/abc123/console.log", CONSOLE);
    tree.file(
        "state/abc123/timeline.json",
        &format!(
            r#"{{"sandbox":"abc123","origin_us":{started},"spans":[
                {{"name":"kernel","side":"guest","start_us":2000000,"end_us":2500000}}]}}"#
        ),
    );
    // The guest began 1 s ago.
    let at = |ago_ms: u64| {
        let time = now - std::time::Duration::from_millis(ago_ms);
        let since = time.duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        kata_time(since.as_secs(), since.subsec_nanos())
    };
    tree.file(
        "state/abc123/shim.log",
        &format!(
            "time=\"{}\" level=info msg=Launching sandbox=abc123\ntime=\"{}\" level=info msg=\"container created\"\n",
            at(2_900),
            at(700)
        ),
    );
    tree
}

fn kata_time(seconds: u64, nanos: u32) -> String {
    let output = std::process::Command::new("date")
        .args(["-u", "-d", &format!("@{seconds}"), "+%Y-%m-%dT%H:%M:%S"])
        .output()
        .expect("coreutils are installed");
    format!("{}.{nanos:09}Z", String::from_utf8_lossy(&output.stdout).trim())
}

/// Without their times.
fn texts(printed: &str) -> Vec<&str> {
    printed.lines().map(|line| line.split_once(' ').map_or(line, |(_, rest)| rest)).collect()
}

#[test]
fn all_three_are_merged_by_time() {
    let printed = tree().run(&["logs", "abc"]);
    assert_eq!((printed.code, printed.stderr.as_str()), (0, ""));
    assert_eq!(
        texts(&printed.stdout),
        [
            "shim   level=info msg=Launching sandbox=abc123",
            "kernel Linux version 6.12",
            "shim   level=info msg=\"container created\"",
            "kernel Run /init as init process",
            "kernel   --- more of it",
            "agent  INFO Serving version=\"0.1.0\"",
        ]
    );
}

#[test]
fn json_lines_and_the_last_lines_only() {
    let printed = tree().run(&["logs", "abc123", "--json", "-n", "2"]);
    let lines: Vec<serde_json::Value> =
        printed.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(
        (&lines[1]["source"], &lines[1]["text"]),
        (&"agent".into(), &"INFO Serving version=\"0.1.0\"".into())
    );
}

#[test]
fn following_tells_what_comes_and_ends_with_the_sandbox() {
    let tree = tree();
    let mut child =
        tree.command(&["logs", "abc123", "--follow", "-n", "1"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = move || lines.next().map(|line| texts(&line.unwrap()).concat());
    assert_eq!(next().as_deref(), Some("agent  INFO Serving version=\"0.1.0\""));
    let mut console = OpenOptions::new().append(true).open(tree.path("state/abc123/console.log")).unwrap();
    console.write_all(b"[   90.000000] kata-agent:  WARN half a").unwrap();
    console.write_all(b" line\r\n").unwrap();
    assert_eq!(next().as_deref(), Some("agent  WARN half a line"));
    std::fs::remove_dir_all(tree.path("state/abc123")).unwrap();
    assert_eq!(next(), None);
    assert!(child.wait().unwrap().success());
}

/// `logs ID --follow | grep -m 1 WORD` waited until the sandbox said something more.
#[test]
fn following_ends_when_nobody_reads() {
    let tree = tree();
    let mut child =
        tree.command(&["logs", "abc123", "--follow", "-n", "1"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    drop(lines);
    assert!(child.wait().unwrap().success());
}

#[test]
fn of_a_sandbox_that_is_not_known_it_says_where_else_to_look() {
    let mut command = Tree::complete().command(&["logs", "gone"]);
    let printed = Tree::complete().printed(&mut command);
    assert_eq!(printed.code, 1);
    assert!(printed.stderr.contains("There is no log of `gone`"), "{}", printed.stderr);
    assert!(printed.stderr.contains("containerd's log"), "{}", printed.stderr);
}

#[test]
fn a_sandbox_without_logs_prints_nothing() {
    let tree = Tree::complete();
    tree.file("state/abc123/intents", "");
    let printed = tree.run(&["logs", "abc123"]);
    assert_eq!((printed.code, printed.stdout.as_str()), (0, ""), "{}", printed.stderr);
}
