//! What is on the host: processes, mounts, links, rules of tc and of the packet filter, cgroups, sockets, files and
//! directories.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::cri::{BRIDGE, NAMESPACE};
use crate::processes;

/// Directories that programs share and leave in place, empty, for the next one.
const SHARED: [&str; 13] = [
    "/run/containerd",
    "/run/containerd/fifo",
    "/run/containerd/runc",
    "/run/containerd/s",
    "/run/kata",
    "/run/kata-containers",
    "/run/kata-containers/shared",
    "/run/kata-containers/shared/sandboxes",
    "/run/lock",
    "/run/netns",
    "/run/vc",
    "/run/vc/sbs",
    "/run/vc/vm",
];
const CGROUP_DEPTH: usize = 5;

/// Everything that is there, one line each.
pub(crate) struct Inventory {
    lines: BTreeSet<String>,
}

impl Inventory {
    /// Looks at the namespaces of the calling thread, and at what carries the test's mark elsewhere.
    pub(crate) fn take(mark: &str, data: &Path) -> Self {
        let mut lines = BTreeSet::new();
        let processes = processes::marked(mark);
        lines.extend(processes.iter().map(|p| format!("process {}: {}", p.pid, p.command)));
        lines.extend(mounts());
        lines.extend(links_and_rules());
        lines.extend(packet_filter_rules());
        lines.extend(sockets());
        lines.extend(cgroups(mark));
        lines.extend(entries(Path::new("/run"), mark));
        for directory in ["/tmp", "/var/tmp", "/dev/shm", "/var/lib", "/var/run"] {
            lines.extend(named(Path::new(directory), mark, data));
        }
        Self { lines }
    }

    /// The lines that the other does not have.
    pub(crate) fn beyond(&self, before: &Self) -> Vec<String> {
        self.lines.difference(&before.lines).cloned().collect()
    }
}

fn mounts() -> Vec<String> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    table.lines().filter_map(|line| Some(format!("mount {}", line.split(' ').nth(4)?))).collect()
}

fn links_and_rules() -> Vec<String> {
    let mut lines = Vec::new();
    for (what, program, arguments) in [
        ("link", "ip", ["-o", "link", "show"].as_slice()),
        ("qdisc", "tc", &["qdisc", "show"]),
        ("netns", "ip", &["netns", "list"]),
    ] {
        let output = Command::new(program).args(arguments).output();
        let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        let kept = text.lines().filter(|line| !is_of_pod_bridge(line));
        lines.extend(kept.map(|line| format!("{what} {line}")));
    }
    lines
}

/// The bridge that the network's plugin makes for the first pod and leaves to the others.
fn is_of_pod_bridge(line: &str) -> bool {
    let mut words = line.split([' ', ':']).filter(|word| !word.is_empty());
    let link = line.starts_with(|first: char| first.is_ascii_digit());
    let name = if link { words.nth(1) } else { words.skip_while(|word| *word != "dev").nth(1) };
    name == Some(BRIDGE)
}

/// Rules that the network's plugins make for one pod; those that stay are the same for all.
fn packet_filter_rules() -> Vec<String> {
    let mut lines = Vec::new();
    for program in ["iptables-save", "ip6tables-save"] {
        // It is not there where no test makes rules.
        let output = Command::new(program).output();
        let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        let of_pods = text.lines().filter(|line| line.starts_with("-A") && line.contains("CNI-DN-"));
        lines.extend(of_pods.map(|line| format!("{program} {line}")));
    }
    lines
}

/// Unix sockets of this network namespace that are bound to a name.
fn sockets() -> Vec<String> {
    let table = fs::read_to_string("/proc/thread-self/net/unix").unwrap_or_default();
    let names = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(7));
    names.map(|name| format!("socket {name}")).collect()
}

/// The namespace's own cgroup is containerd's, not the runtime's.
fn cgroups(mark: &str) -> Vec<String> {
    fn walk(directory: &Path, mark: &str, depth: usize, found: &mut Vec<String>) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if depth > 0 && entry.file_type().is_ok_and(|t| t.is_dir()) {
                let name = entry.file_name().to_string_lossy().into_owned();
                let in_marked = directory.file_name().is_some_and(|parent| parent == mark);
                if in_marked || (name.contains(mark) && name != mark) {
                    found.push(format!("cgroup {}", entry.path().display()));
                }
                walk(&entry.path(), mark, depth - 1, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), mark, CGROUP_DEPTH, &mut found);
    found
}

/// Everything under a directory, through which mounts it may lie, but for shared directories and containerd's own.
fn entries(directory: &Path, mark: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_directory = entry.file_type().is_ok_and(|t| t.is_dir());
        if !(is_directory && is_expected(&path, mark)) {
            found.push(format!("path {}", path.display()));
        }
        if is_directory {
            found.extend(entries(&path, mark));
        }
    }
    found
}

fn is_expected(path: &Path, mark: &str) -> bool {
    let mut of_namespaces = [mark, NAMESPACE].into_iter().flat_map(|namespace| {
        ["runc", "fifo"].map(|kind| Path::new("/run/containerd").join(kind).join(namespace))
    });
    SHARED.into_iter().any(|expected| path == Path::new(expected))
        || of_namespaces.any(|expected| path == expected)
}

/// Entries with the mark in their name, in a directory shared with the whole machine.
fn named(directory: &Path, mark: &str, data: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let marked = entries.filter(|path| path.to_string_lossy().contains(mark) && !path.starts_with(data));
    marked.map(|path| format!("path {}", path.display())).collect()
}
