//! Several containers in one sandbox, by the annotations of a CRI implementation.

use std::fs;
use std::path::PathBuf;

use kata_e2e::{Containerd, Recipe, amount, kata_test};
use serde_json::{Value, json};

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

/// And descriptors and threads by so many: what the guest looked at last, and threads for blocking work.
const FEW: usize = 16;

/// What the sandbox holds on the host: mounts, files of the share, and each of its processes.
#[derive(Debug)]
struct Holdings {
    mounts: usize,
    shared: usize,
    programs: Vec<Program>,
}

/// Descriptors, threads, and anonymous memory in KiB.
#[derive(Debug)]
struct Program {
    name: &'static str,
    descriptors: usize,
    threads: usize,
    memory: u64,
}

fn entries(path: PathBuf) -> usize {
    fs::read_dir(path).into_iter().flatten().count()
}

fn holdings(containerd: &Containerd, sandbox: &str) -> Holdings {
    let mut programs = Vec::new();
    for name in ["containerd-shim-kata-v2", "virtiofsd", "qemu-system-x86_64"] {
        for process in containerd.processes_of(name) {
            let folder = PathBuf::from(format!("/proc/{}", process.pid));
            let (descriptors, threads) = (entries(folder.join("fd")), entries(folder.join("task")));
            let status = fs::read_to_string(folder.join("status")).expect("it lives");
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("is told");
            let memory = line.trim().trim_end_matches(" kB").parse().expect("a number");
            programs.push(Program { name, descriptors, threads, memory });
        }
    }
    let share = format!("/run/kata-containers/shared/sandboxes/{sandbox}/rw/passthrough");
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").expect("is there").lines().count();
    Holdings { mounts, shared: entries(share.into()), programs }
}

#[track_caller]
fn assert_no_growth(before: &Holdings, after: &Holdings) {
    let names = |held: &Holdings| held.programs.iter().map(|program| program.name).collect::<Vec<_>>();
    assert_eq!((after.mounts, after.shared, names(after)), (before.mounts, before.shared, names(before)));
    for (before, after) in before.programs.iter().zip(&after.programs) {
        let grown = after.descriptors > before.descriptors + FEW || after.threads > before.threads + FEW;
        // The VMM's memory is the guest's, which uses more of it as time goes by.
        let fatter = !after.name.starts_with("qemu") && after.memory > before.memory + SLACK;
        assert!(!grown && !fatter, "{before:?}, then {after:?}");
    }
}

#[test]
fn many_containers_come_and_go_in_a_living_sandbox() {
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
        let before = holdings(containerd, &id);
        come_and_go(amount(40, 200));
        assert_no_growth(&before, &holdings(containerd, &id));
        assert_eq!(sandbox.shell("echo alive"), "alive");
    });
}

/// In the user and cgroup namespaces of the sandbox: those that `path` leads to, or new ones.
fn share_users(spec: &mut Value, path: Option<&str>) {
    let ids = json!([{ "containerID": 0, "hostID": 0, "size": 1000 }]);
    spec["linux"]["uidMappings"] = ids.clone();
    spec["linux"]["gidMappings"] = ids;
    let namespaces = spec["linux"]["namespaces"].as_array_mut().expect("a list");
    namespaces.retain(|namespace| !matches!(namespace["type"].as_str(), Some("user" | "cgroup")));
    namespaces.extend(["user", "cgroup"].map(|kind| json!({ "type": kind })));
    for namespace in namespaces {
        let shared = matches!(namespace["type"].as_str(), Some("user" | "cgroup" | "uts" | "ipc" | "pid"));
        if let Some(path) = path.filter(|_| shared) {
            namespace["path"] = json!(path);
        }
    }
    let all = json!(["CAP_SYS_ADMIN"]);
    spec["process"]["capabilities"] = json!({ "bounding": all, "effective": all, "permitted": all });
}

#[test]
fn a_pods_user_and_cgroup_namespaces_are_shared_by_their_paths() {
    kata_test(|containerd| {
        let sandbox = containerd.container().spec(|spec| {
            let id = spec["hostname"].clone();
            annotate(spec, "sandbox", id.as_str().unwrap_or_default());
            share_users(spec, None);
            spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
        });
        let id = sandbox.id().to_owned();
        let sandbox = sandbox.start();
        let namespaces = "cd /proc/self/ns && for kind in user cgroup ipc uts pid mnt; do readlink $kind; done; cat ../uid_map";
        let of_sandbox = sandbox.shell(namespaces);
        let member = containerd.container().spec(|spec| {
            annotate(spec, "container", &id);
            share_users(spec, Some("/proc/1/ns/of-the-host"));
            spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
        });
        let member = member.start();
        let of_member = member.shell(namespaces);
        let same = of_sandbox.lines().zip(of_member.lines()).map(|(left, right)| left == right);
        assert_eq!(same.collect::<Vec<_>>(), [true, true, true, true, true, false, true], "{of_member}");
        // The host name's namespace belongs to the user namespace.
        assert_eq!(member.shell("hostname renamed && hostname"), "renamed");
        let path = member.shell("cat /proc/self/cgroup");
        assert!(path.starts_with("0::/../"), "{path}");
        member.remove();
        assert_eq!(sandbox.shell("hostname"), "renamed");
    });
}
