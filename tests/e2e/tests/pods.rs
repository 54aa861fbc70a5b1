//! Several containers in one sandbox, by the annotations of a CRI implementation.

use std::fs;
use std::path::PathBuf;

use kata_e2e::{Containerd, Recipe, kata_test};
use serde_json::{Value, json};

/// How many containers come and go.
const MEMBERS: usize = 200;
/// Resident memory of a process of the sandbox may go up and down by this much, in KiB.
const SLACK: u64 = 2048;

fn annotate(spec: &mut Value, kind: &str, sandbox: &str) {
    spec["annotations"] =
        json!({ "io.kubernetes.cri.container-type": kind, "io.kubernetes.cri.sandbox-id": sandbox });
}

fn member<'c>(containerd: &'c Containerd, sandbox: &str, line: &str) -> Recipe<'c> {
    containerd.container().spec(|spec| {
        annotate(spec, "container", sandbox);
        spec["process"]["args"] = json!(["/bin/sh", "-c", line]);
    })
}

/// What the sandbox's processes hold on the host: descriptors and threads of each, mounts, files of the share; and
/// their anonymous memory in KiB.
#[derive(Debug, PartialEq, Eq)]
struct Holdings {
    programs: Vec<(String, usize, usize)>,
    mounts: usize,
    shared: usize,
}

fn entries(path: PathBuf) -> usize {
    fs::read_dir(path).into_iter().flatten().count()
}

fn holdings(containerd: &Containerd, sandbox: &str) -> (Holdings, Vec<u64>) {
    let mut programs = Vec::new();
    let mut memory = Vec::new();
    for name in ["containerd-shim-kata-v2", "virtiofsd", "qemu-system-x86_64"] {
        for process in containerd.processes_of(name) {
            let folder = PathBuf::from(format!("/proc/{}", process.pid));
            // The VMM's helpers for files come and go.
            let threads = if name.starts_with("qemu") { 0 } else { entries(folder.join("task")) };
            programs.push((name.to_owned(), entries(folder.join("fd")), threads));
            let status = fs::read_to_string(folder.join("status")).expect("it lives");
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("is told");
            memory.push(line.trim().trim_end_matches(" kB").parse().expect("a number"));
        }
    }
    let share = format!("/run/kata-containers/shared/sandboxes/{sandbox}/rw/passthrough");
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").expect("is there").lines().count();
    (Holdings { programs, mounts, shared: entries(share.into()) }, memory)
}

#[test]
fn two_hundred_containers_come_and_go_in_a_living_sandbox() {
    kata_test(|containerd| {
        let sandbox = containerd.container().spec(|spec| {
            let id = spec["hostname"].clone();
            annotate(spec, "sandbox", id.as_str().unwrap_or_default());
            spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
        });
        let id = sandbox.id().to_owned();
        let sandbox = sandbox.start();
        let come_and_go = |count: usize| {
            for number in 0..count {
                if number % 10 == 0 {
                    // Two at once, the first of which goes first.
                    let [first, second] = ["sleep 1000"; 2].map(|line| member(containerd, &id, line).start());
                    first.remove();
                    assert_eq!(second.shell("echo alive"), "alive");
                    second.remove();
                } else {
                    let run = member(containerd, &id, &format!("echo {number}; exit {}", number % 7)).run();
                    assert_eq!(run.with_code(i32::try_from(number % 7).unwrap()).text(), number.to_string());
                }
            }
        };
        come_and_go(10);
        let (before, memory) = holdings(containerd, &id);
        come_and_go(MEMBERS);
        let (after, now) = holdings(containerd, &id);
        assert_eq!(after, before);
        // The VMM's memory is the guest's, which uses more of it as time goes by.
        for (before, now) in memory.iter().zip(&now).take(2) {
            assert!(*now <= before + SLACK, "anonymous memory in KiB: {memory:?}, then {now:?}");
        }
        assert_eq!(sandbox.shell("echo alive"), "alive");
    });
}
