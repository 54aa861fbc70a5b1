//! One test from begin to end: a corner of the host, containerd in it, the test's body, and the look at what is left.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::configuration;
use crate::containerd::Containerd;
use crate::cri::{self, Cri};
use crate::failure::{fail, holds_within};
use crate::host::Host;
use crate::setup::Stage;

/// Asynchronous ends, such as a VMM that powers off, have this long.
const SETTLED_WITHIN: Duration = Duration::from_secs(20);
const TAIL_LINES: usize = 80;

/// Runs the body with a containerd of its own; afterwards nothing may be left on the host.
///
/// What the body leaves running is removed as an operator would, which must succeed.
pub fn test(body: impl FnOnce(&Containerd) + Send) {
    if let Some(stage) = Stage::find() {
        in_a_corner_of_the_host(|| play(stage, body));
    }
}

/// As [`test()`], for what only a VM has: it does nothing when another runtime is under test.
pub fn kata_test(body: impl FnOnce(&Containerd) + Send) {
    match Stage::find() {
        Some(stage) if stage.is_kata() => in_a_corner_of_the_host(|| play(stage, body)),
        Some(stage) => println!("not for {}", stage.runtime),
        None => {}
    }
}

/// As [`test()`], with containerd's Container Runtime Interface and a network for pods; pods that the body leaves are
/// stopped and removed, which must succeed.
pub fn cri_test(body: impl FnOnce(&Cri<'_>) + Send) {
    if let Some(stage) = Stage::find_for_cri() {
        in_a_corner_of_the_host(|| play_pods(stage, body));
    }
}

/// As [`cri_test`], for what only a VM has: it does nothing when another runtime is under test.
pub fn kata_cri_test(body: impl FnOnce(&Cri<'_>) + Send) {
    match Stage::find_for_cri() {
        Some(stage) if stage.is_kata() => in_a_corner_of_the_host(|| play_pods(stage, body)),
        Some(stage) => println!("not for {}", stage.runtime),
        None => {}
    }
}

fn in_a_corner_of_the_host(play: impl FnOnce() + Send) {
    // Namespaces belong to a thread: this one ends with the test.
    let result = thread::scope(|scope| {
        let thread = thread::Builder::new().name("scenario".to_owned());
        thread.spawn_scoped(scope, play).expect("a thread can be had").join()
    });
    if let Err(panic) = result {
        resume_unwind(panic);
    }
}

fn play(stage: Stage, body: impl FnOnce(&Containerd)) {
    let host = Host::private();
    let configuration = configuration::plain(host.data());
    let containerd = Containerd::start(stage, host, &configuration);
    watched(&containerd, || {
        body(&containerd);
        tidy_up(&containerd);
    });
}

fn play_pods(stage: Stage, body: impl FnOnce(&Cri<'_>)) {
    let host = Host::prepared(cri::prepare_host);
    let configuration = cri::configuration(host.data());
    let containerd = Containerd::start(stage, host, &configuration);
    watched(&containerd, || {
        let cri = Cri::connect(&containerd);
        body(&cri);
        cri.remove_pods();
        tidy_up(&containerd);
    });
}

fn watched(containerd: &Containerd, play: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(play)) {
        print_evidence(containerd);
        end_everything(containerd);
        resume_unwind(panic);
    }
}

fn tidy_up(containerd: &Containerd) {
    let complaints = containerd.remove_containers();
    assert!(complaints.is_empty(), "Cannot remove the test's containers: {complaints:#?}");
    containerd.end();
    let mut left = Vec::new();
    let clean = holds_within(SETTLED_WITHIN, || {
        left = containerd.host.leftovers();
        left.is_empty()
    });
    if !clean {
        fail(format_args!("Left on the host after {SETTLED_WITHIN:?}:\n  {}", left.join("\n  ")));
    }
}

/// What a person would look at first.
fn print_evidence(containerd: &Containerd) {
    println!("---- containerd and shims\n{}", tail(&containerd.log()));
    for process in containerd.processes() {
        println!("---- process {} {}", process.pid, process.command.chars().take(300).collect::<String>());
    }
    let consoles = std::fs::read_dir("/run/kata").into_iter().flatten().flatten();
    for console in consoles.map(|entry| entry.path().join("console.log")) {
        if let Ok(bytes) = std::fs::read(&console) {
            println!("---- {}\n{}", console.display(), tail(&String::from_utf8_lossy(&bytes)));
        }
    }
}

/// The next test shall not suffer from this one.
fn end_everything(containerd: &Containerd) {
    for process in containerd.processes() {
        process.kill();
    }
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    let mut targets: Vec<&str> = table.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    targets.reverse();
    let data = containerd.host.data().to_string_lossy().into_owned();
    for target in targets.into_iter().filter(|t| t.starts_with("/run/") || t.starts_with(&data)) {
        // A lazy unmount of what may already have gone with its parent.
        let _ = Command::new("umount").args(["--lazy", target]).output();
    }
}

fn tail(text: &str) -> String {
    // containerd's words at its start say nothing about a test.
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains("loading plugin")).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}
