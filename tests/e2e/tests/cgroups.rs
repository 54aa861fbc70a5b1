//! Where on the host a pod's processes and threads are counted and limited.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kata_e2e::proto::PodSandboxConfig;
use kata_e2e::{Cri, Pod, Process, eventually, kata_cri_test};

const LIMIT: Duration = Duration::from_secs(30);
const ROOT: &str = "/sys/fs/cgroup";
const PROGRAMS: [&str; 3] = ["containerd-shim-kata-v2", "qemu-system-x86_64", "virtiofsd"];

/// The pod's own cgroup, as the test has made it in every hierarchy.
fn parent(config: &PodSandboxConfig) -> String {
    config.linux.as_ref().expect("a pod of Linux").cgroup_parent.clone()
}

/// Version 2 alone: a process is in one cgroup.
fn is_unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// The directory of a cgroup where this controller is.
fn directory(controller: &str, cgroup: &str) -> PathBuf {
    let hierarchy = if is_unified() { "" } else { controller };
    Path::new(ROOT).join(hierarchy).join(cgroup.trim_start_matches('/'))
}

/// The cgroup of a process or thread; empty once it has ended.
fn cgroup_of(process: &Path, controller: &str) -> String {
    let lines = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
    let name = if is_unified() { "" } else { controller };
    let found = lines.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        fields.next().filter(|names| names.split(',').any(|one| one == name))?;
        fields.next()
    });
    found.unwrap_or_default().to_owned()
}

fn processes(cri: &Cri<'_>) -> Vec<Process> {
    let found: Vec<_> = PROGRAMS.iter().flat_map(|program| cri.containerd.processes_of(program)).collect();
    assert!(PROGRAMS.iter().all(|program| found.iter().any(|one| one.is(program))), "{found:?}");
    found
}

fn proc(process: &Process) -> PathBuf {
    Path::new("/proc").join(process.pid.to_string())
}

/// Threads in a cgroup, and all others of the VMM.
fn vmm_threads(cri: &Cri<'_>, cgroup: &str) -> (usize, Vec<String>) {
    let vmm = cri.containerd.processes_of("qemu-system-x86_64").remove(0);
    let threads = fs::read_dir(proc(&vmm).join("task")).into_iter().flatten().flatten();
    let places: Vec<_> = threads.map(|thread| cgroup_of(&thread.path(), "cpu")).collect();
    let (inside, others): (Vec<_>, Vec<_>) = places.into_iter().partition(|place| place == cgroup);
    (inside.len(), others)
}

/// With the VM's CPUs alone in the pod's cgroup.
fn apart(config: &mut PodSandboxConfig) {
    let name = "io.katacontainers.config.runtime.sandbox_cgroup_only";
    config.annotations.insert(name.to_owned(), "false".to_owned());
}

fn overhead(pod: &Pod<'_>) -> String {
    format!("/kata_overhead/{}", pod.id())
}

fn exists_anywhere(cgroup: &str) -> bool {
    ["cpu", "memory", "pids"].iter().any(|controller| directory(controller, cgroup).exists())
}

#[test]
fn all_of_a_pod_is_in_its_cgroup() {
    kata_cri_test(|cri| {
        let mut own = String::new();
        let pod = cri.pod().with(|config| own = parent(config)).run();
        own = format!("{own}/kata_{}", pod.id());
        for process in processes(cri) {
            for controller in ["cpu", "memory", "pids"] {
                let place = cgroup_of(&proc(&process), controller);
                assert_eq!(place, own, "{controller} of {}", process.command);
            }
        }
        let tree = cri.containerd.kata_runtime(["inspect", pod.id()]).ok().text();
        assert!(tree.contains(&directory("memory", &own).display().to_string()), "{tree}");
        pod.remove();
        assert!(!exists_anywhere(&own));
    });
}

#[test]
fn only_the_vms_cpus_are_in_the_pods_cgroup_where_the_rest_is_to_be_apart() {
    kata_cri_test(|cri| {
        let mut parent_of_all = String::new();
        let recipe = cri.pod().with(|config| parent_of_all = parent(config));
        let pod = recipe.with(apart).run();
        let own = format!("{parent_of_all}/kata_{}", pod.id());
        for process in processes(cri).iter().filter(|process| !process.is("qemu-system-x86_64")) {
            assert_eq!(cgroup_of(&proc(process), "cpu"), overhead(&pod), "{}", process.command);
        }
        eventually("the VM's CPUs are in the pod's cgroup", LIMIT, || vmm_threads(cri, &own).0 > 0);
        if !is_unified() {
            let vmm = cri.containerd.processes_of("qemu-system-x86_64").remove(0);
            assert_eq!(cgroup_of(&proc(&vmm), "memory"), overhead(&pod));
            let others = vmm_threads(cri, &own).1;
            assert!(!others.is_empty() && others.iter().all(|place| *place == overhead(&pod)), "{others:?}");
        }
        pod.remove();
        assert!(!exists_anywhere(&own) && !exists_anywhere(&overhead(&pod)));
    });
}

#[test]
fn a_limit_of_the_pods_cpu_time_does_not_slow_what_is_apart() {
    kata_cri_test(|cri| {
        let mut own = String::new();
        let pod = cri.pod().with(|config| own = parent(config)).with(apart).run();
        let container = pod.container("main").idle().start();
        container.wait_for_line("ready");
        let (file, limit) = match is_unified() {
            true => (directory("cpu", &own).join("cpu.max"), "20000 100000"),
            false => (directory("cpu", &own).join("cpu.cfs_quota_us"), "20000"),
        };
        fs::write(file, limit).unwrap();
        container.shell("timeout 2 sh -c 'while :; do :; done'; true");
        let throttled = |cgroup: &str| {
            let figures = fs::read_to_string(directory("cpu", cgroup).join("cpu.stat")).unwrap_or_default();
            let count = figures.lines().find_map(|line| line.strip_prefix("nr_throttled "));
            count.and_then(|count| count.parse::<u32>().ok()).unwrap_or(0)
        };
        assert!(throttled(&own) > 5, "{} periods", throttled(&own));
        assert_eq!(throttled(&overhead(&pod)), 0);
    });
}

#[test]
fn a_killed_shim_leaves_no_cgroup_of_what_was_apart() {
    kata_cri_test(|cri| {
        let pod = cri.pod().with(apart).run();
        assert!(exists_anywhere(&overhead(&pod)));
        cri.containerd.processes_of("containerd-shim-kata-v2").iter().for_each(Process::kill);
        eventually("its cgroups are gone", LIMIT, || !exists_anywhere(&overhead(&pod)));
        pod.remove();
    });
}

#[test]
fn a_vm_follows_the_cpus_of_its_pod_at_once() {
    kata_cri_test(|cri| {
        let mut own = PathBuf::new();
        let recipe = cri.pod().with(|config| own = directory("cpuset", &parent(config)));
        let set = |cpus: &str| fs::write(own.join("cpuset.cpus"), cpus);
        if set("0-1").is_err() {
            return eprintln!("skipped: this host has no CPUs to give away");
        }
        fs::write(own.join("cpuset.mems"), "0").unwrap();
        let _pod = recipe.run();
        let allowed = || {
            let vmm = cri.containerd.processes_of("qemu-system-x86_64").remove(0);
            let status = fs::read_to_string(proc(&vmm).join("status")).unwrap();
            status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:\t")).map(str::to_owned)
        };
        assert_eq!(allowed().as_deref(), Some("0-1"));
        set("1").unwrap();
        assert_eq!(allowed().as_deref(), Some("1"));
    });
}

/// What the VMM needs of the host is not the pod's to have.
#[test]
fn a_pod_that_may_have_no_device_has_a_vm() {
    kata_cri_test(|cri| {
        let recipe = cri.pod().with(|config| {
            if !is_unified() {
                fs::write(directory("devices", &parent(config)).join("devices.deny"), "a").unwrap();
            }
        });
        let pod = recipe.run();
        assert_eq!(pod.container("main").shell("echo there").run().text(), "there");
    });
}
