//! Where a sandbox's cgroups are made, on hosts of all kinds: trees of directories with the kernel's files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use kata_intent::{Intent, IntentId, Intents};
use tempfile::TempDir;
use tokio::process::Command;

use super::hierarchy::Hierarchy;
use super::{Cgroup, CgroupError, Making, Place, Request};

mod scopes;

#[derive(Default)]
struct Log(Mutex<Vec<Option<Intent>>>, OnceLock<usize>);

impl Log {
    /// No more can be announced than so many.
    fn limit(&self, room: usize) {
        self.1.set(room).unwrap();
    }

    fn pending(&self) -> Vec<Intent> {
        self.0.lock().unwrap().iter().flatten().cloned().collect()
    }

    fn announced(&self) -> Vec<PathBuf> {
        self.pending().iter().filter_map(|intent| intent.path().map(Path::to_owned)).collect()
    }
}

impl Intents for Log {
    fn will(&self, intent: Intent) -> io::Result<IntentId> {
        let mut log = self.0.lock().unwrap();
        if self.1.get().is_some_and(|room| log.len() >= *room) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        log.push(Some(intent));
        Ok(IntentId(log.len() as u64 - 1))
    }

    fn done(&self, id: IntentId) {
        self.0.lock().unwrap()[usize::try_from(id.0).unwrap()].take().unwrap();
    }
}

/// A host's hierarchies.
struct Host {
    root: TempDir,
    mountinfo: String,
    log: Arc<Log>,
}

/// The pod's cgroup, as a manager without systemd names it.
const POD: &str = "/kubepods/pod1";
const PATH: &str = "/kubepods/pod1/pause";

impl Host {
    /// Version 1 has a hierarchy for each of these names.
    fn with_v1(hierarchies: &[&str]) -> Self {
        let mut host =
            Self { root: tempfile::tempdir().unwrap(), mountinfo: String::new(), log: Arc::default() };
        for name in hierarchies {
            host.mount(name, "cgroup");
        }
        host
    }

    /// Version 2 has these controllers.
    fn and_v2(mut self, controllers: &str) -> Self {
        self.mount("unified", "cgroup2");
        fs::write(self.at("unified", "/cgroup.controllers"), controllers).unwrap();
        self
    }

    fn mount(&mut self, name: &str, kind: &str) {
        let options = if kind == "cgroup" { name } else { "nsdelegate" };
        let number = self.mountinfo.lines().count();
        let top = self.at(name, "");
        self.mountinfo +=
            &format!("{number} 1 0:{number} / {} rw - {kind} {kind} rw,{options}\n", top.display());
        self.cgroup(name, "");
        self.cgroup(name, POD);
    }

    /// The kernel makes a cgroup's files with it; here they are made before.
    fn cgroup(&self, hierarchy: &str, path: &str) {
        fs::create_dir_all(self.at(hierarchy, path)).unwrap();
        for file in ["cgroup.procs", "tasks"] {
            fs::write(self.at(hierarchy, path).join(file), "").unwrap();
        }
    }

    /// Where the sandbox may have cgroups.
    fn ready(&self, hierarchies: &[&str], name: &str) {
        for hierarchy in hierarchies {
            self.cgroup(hierarchy, &format!("{POD}/{name}"));
            self.cgroup(hierarchy, "/kata_overhead/s1");
        }
    }

    fn at(&self, hierarchy: &str, path: &str) -> PathBuf {
        self.root.path().join(format!("{hierarchy}{path}"))
    }

    fn make(&self, sandbox_only: bool) -> Cgroup {
        self.make_for(Request { memory: 100, sandbox_only, ..of_path(PATH) })
    }

    fn make_for(&self, request: Request<'_>) -> Cgroup {
        self.try_make(request).unwrap()
    }

    fn try_make(&self, request: Request<'_>) -> Result<Cgroup, CgroupError> {
        Making { request, membership: "", intents: self.log.clone() }.all(&Hierarchy::all(&self.mountinfo))
    }

    fn relative(&self, path: &Path) -> String {
        path.strip_prefix(self.root.path()).unwrap().to_str().unwrap().to_owned()
    }

    fn announced(&self) -> Vec<String> {
        self.log.announced().iter().map(|path| self.relative(path)).collect()
    }

    /// Where the whole is, and where the VM's CPUs are.
    fn places(&self, cgroup: &Cgroup) -> (Vec<String>, Vec<String>) {
        let of = |places: &[Place]| places.iter().map(|place| self.relative(&place.directory)).collect();
        (of(&cgroup.0.whole), of(&cgroup.0.vcpus))
    }
}

/// All of the sandbox `s1` is to be there.
fn of_path(path: &str) -> Request<'_> {
    let cgroups_path = Some(Path::new(path));
    Request { cgroups_path, id: "s1", memory: 0, sandbox_only: true, systemd: None }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn all_of_a_sandbox_is_below_its_pod_in_each_hierarchy_that_counts() {
    let host = Host::with_v1(&["cpu,cpuacct", "memory", "devices", "name=systemd"]).and_v2("");
    host.ready(&["cpu,cpuacct", "memory"], "kata_s1");
    let expected = names(&["cpu,cpuacct/kubepods/pod1/kata_s1", "memory/kubepods/pod1/kata_s1"]);
    assert_eq!(host.places(&host.make(true)), (expected.clone(), vec![]));
    assert_eq!(host.announced(), expected);
}

#[test]
fn only_the_cpus_are_below_the_pod_where_the_rest_is_apart() {
    let host = Host::with_v1(&["cpu", "cpuacct", "memory", "pids"]);
    host.ready(&["cpu", "cpuacct", "memory", "pids"], "kata_s1");
    let (whole, vcpus) = host.places(&host.make(false));
    let overhead = ["cpu", "cpuacct", "memory", "pids"].map(|name| format!("{name}/kata_overhead/s1"));
    assert_eq!(whole, overhead);
    assert_eq!(vcpus, names(&["cpu/kubepods/pod1/kata_s1", "cpuacct/kubepods/pod1/kata_s1"]));
}

#[test]
fn what_is_apart_is_announced_with_the_parent_that_all_sandboxes_share() {
    let host = Host::with_v1(&["memory"]);
    host.ready(&["memory"], "kata_s1");
    host.make(false);
    assert_eq!(host.announced(), names(&["memory/kata_overhead", "memory/kata_overhead/s1"]));
}

#[test]
fn a_vmm_stays_together_in_version_2() {
    let host = Host::with_v1(&[]).and_v2("cpu memory io");
    host.ready(&["unified"], "kata_s1");
    let cgroup = host.make(false);
    assert_eq!(host.places(&cgroup), (names(&["unified/kata_overhead/s1"]), vec![]));
    assert!(!cgroup.takes_vcpus());
    let vmm: Vec<_> = cgroup.0.vmm.iter().map(|place| host.relative(&place.directory)).collect();
    assert_eq!(vmm, names(&["unified/kubepods/pod1/kata_s1"]));
}

#[test]
fn what_is_apart_is_counted_in_version_2() {
    let host = Host::with_v1(&[]).and_v2("cpu");
    host.ready(&["unified"], "kata_s1");
    fs::write(host.at("unified", "/kata_overhead/cgroup.controllers"), "cpuset memory\n").unwrap();
    host.make(false);
    let enabled = fs::read_to_string(host.at("unified", "/kata_overhead/cgroup.subtree_control")).unwrap();
    assert_eq!(enabled, "+memory");
}

#[test]
fn controllers_that_only_version_2_has_count_on_a_host_with_both() {
    let host = Host::with_v1(&["cpu"]).and_v2("memory\n");
    host.ready(&["cpu", "unified"], "kata_s1");
    let expected = names(&["cpu/kubepods/pod1/kata_s1", "unified/kubepods/pod1/kata_s1"]);
    assert_eq!(host.places(&host.make(true)).0, expected);
}

#[test]
fn the_pods_cpus_are_those_of_its_own_cgroup() {
    let host = Host::with_v1(&["cpuset"]);
    assert_eq!(host.places(&host.make(true)).0, names(&[]), "nobody can be in one without CPUs");
    for (file, set) in [("cpuset.cpus", "0-1\n"), ("cpuset.mems", "0\n")] {
        fs::write(host.at("cpuset", POD).join(file), set).unwrap();
    }
    assert_eq!(host.places(&host.make(true)), (names(&["cpuset/kubepods/pod1"]), vec![]));
    assert_eq!(host.places(&host.make(false)), (vec![], names(&["cpuset/kubepods/pod1"])));
    assert_eq!(host.announced(), names(&[]), "it is the manager's, and stays");
}

#[test]
fn a_pod_with_less_memory_than_its_vm_does_not_count_it() {
    let host = Host::with_v1(&["cpu", "memory"]);
    host.ready(&["cpu", "memory"], "kata_s1");
    fs::write(host.at("memory", POD).join("memory.limit_in_bytes"), "99\n").unwrap();
    assert_eq!(host.places(&host.make(true)).0, names(&["cpu/kubepods/pod1/kata_s1"]));
}

#[test]
fn nothing_is_made_where_the_manager_has_made_nothing() {
    let host = Host::with_v1(&["cpu"]);
    let made = host.make_for(of_path("/no-such-pod/x"));
    assert_eq!((host.places(&made), host.announced()), ((vec![], vec![]), vec![]));
}

#[test]
fn what_cannot_be_made_is_not_left_in_the_log() {
    // Not cgroups: there is no file to join by.
    let host = Host::with_v1(&["memory"]);
    assert_eq!(host.places(&host.make(true)), (vec![], vec![]));
    assert_eq!(host.announced(), names(&[]));
    assert!(!host.at("memory", POD).join("kata_s1").exists());
}

#[test]
fn without_systemd_a_scope_is_a_directory_of_the_name_that_was_asked_for() {
    let host = Host::with_v1(&["cpu"]);
    host.cgroup("cpu", "/kubepods.slice/kubepods-pod1.slice/cri-containerd-abc.scope");
    let made = host.make_for(of_path("kubepods-pod1.slice:cri-containerd:abc"));
    let expected = names(&["cpu/kubepods.slice/kubepods-pod1.slice/cri-containerd-abc.scope"]);
    assert_eq!(host.places(&made).0, expected);
}

#[test]
fn this_process_joins_and_goes_back_to_where_it_was() {
    let host = Host::with_v1(&["memory"]);
    host.ready(&["memory"], "kata_s1");
    host.cgroup("memory", "/manager");
    let making =
        Making { request: of_path(PATH), membership: "3:memory:/manager\n", intents: host.log.clone() };
    let cgroup = making.all(&Hierarchy::all(&host.mountinfo)).unwrap();
    let members = |path: &str| fs::read_to_string(host.at("memory", path).join("cgroup.procs")).unwrap();
    cgroup.join();
    assert_eq!((members("/kubepods/pod1/kata_s1").as_str(), members("/manager").as_str()), ("0", ""));
    cgroup.leave();
    assert_eq!(members("/manager"), "0");
    fs::remove_dir_all(host.at("memory", "/manager")).unwrap();
    cgroup.leave();
    assert_eq!(members(""), "0", "what it was in has gone");
}

#[test]
fn the_vms_cpus_join_by_their_threads() {
    let host = Host::with_v1(&["cpu", "memory"]);
    host.ready(&["cpu", "memory"], "kata_s1");
    let cgroup = host.make(false);
    assert!(cgroup.takes_vcpus());
    cgroup.take_vcpus(&[41]).unwrap();
    let tasks = |hierarchy| fs::read_to_string(host.at(hierarchy, POD).join("kata_s1/tasks")).unwrap();
    assert_eq!((tasks("cpu").as_str(), tasks("memory").as_str()), ("41", ""));
}

#[test]
fn a_vmm_joins_before_it_begins_in_version_2() {
    let host = Host::with_v1(&[]).and_v2("cpu");
    host.ready(&["unified"], "kata_s1");
    let cgroup = host.make(false);
    let procs = host.at("unified", POD).join("kata_s1/cgroup.procs");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut command = Command::new("cat");
        cgroup.enter(command.arg(procs)).unwrap();
        assert_eq!(command.output().await.unwrap().stdout, b"0");
    });
}

/// A pod's cgroup on this host, in each hierarchy that counts; gone with this.
struct RealPod {
    name: String,
    made: Vec<PathBuf>,
    log: Arc<Log>,
}

impl RealPod {
    fn make(name: &str) -> Option<Self> {
        let name = format!("/kata-test-{name}-{}", std::process::id());
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut pod = Self { made: Vec::new(), log: Arc::default(), name };
        for hierarchy in Hierarchy::all(&mountinfo).iter().filter(|one| one.counts()) {
            let directory = hierarchy.directory(Path::new(&pod.name))?;
            match fs::create_dir(&directory) {
                Ok(()) => pod.made.push(directory),
                Err(error) => eprintln!("no cgroup can be made: {error}"),
            }
        }
        (!pod.made.is_empty()).then_some(pod)
    }

    fn sandbox(&self, sandbox_only: bool) -> Cgroup {
        let path = PathBuf::from(format!("{}/pause", self.name));
        let id = &self.name[1..];
        let request = Request { cgroups_path: Some(&path), id, memory: 0, sandbox_only, systemd: None };
        Cgroup::make(request, self.log.clone()).unwrap()
    }
}

impl Drop for RealPod {
    fn drop(&mut self) {
        for path in self.log.announced().iter().rev().chain(&self.made) {
            // What all sandboxes share may be another test's, too.
            let _ = fs::remove_dir(path);
            assert!(!path.exists() || path.ends_with("kata_overhead"), "{}", path.display());
        }
    }
}

/// Where this process is, one line for each hierarchy.
fn membership() -> String {
    fs::read_to_string("/proc/self/cgroup").unwrap()
}

#[test]
fn this_hosts_kernel_lets_a_process_in_and_out_again() {
    for (sandbox_only, name) in [(true, "whole"), (false, "apart")] {
        let Some(pod) = RealPod::make(name) else { return eprintln!("skipped") };
        let before = membership();
        let cgroup = pod.sandbox(sandbox_only);
        cgroup.join();
        let inside = membership();
        cgroup.leave();
        let id = &pod.name[1..];
        let place = match sandbox_only {
            true => format!("{}/kata_{id}", pod.name),
            false => format!(":/kata_overhead/{id}"),
        };
        let count = inside.lines().filter(|line| line.ends_with(&place)).count();
        assert_eq!(count, pod.made.len(), "{place} in {inside}");
        assert_eq!(membership(), before);
    }
}

#[test]
fn this_hosts_kernel_has_a_vmm_with_its_cpus_in_the_pod() {
    let Some(pod) = RealPod::make("vmm") else { return eprintln!("skipped") };
    let cgroup = pod.sandbox(false);
    let before = fs::read_to_string("/proc/thread-self/cgroup").unwrap();
    assert!(!before.contains(&pod.name));
    cgroup.take_vcpus(&[own_thread()]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let of_vmm = runtime.block_on(async {
        let mut command = Command::new("cat");
        cgroup.enter(command.arg("/proc/self/cgroup")).unwrap();
        String::from_utf8(command.output().await.unwrap().stdout).unwrap()
    });
    let of_cpu = fs::read_to_string("/proc/thread-self/cgroup").unwrap();
    cgroup.0.vcpus.iter().for_each(|place| place.leave().unwrap());
    let own = format!("{}/kata_{}", pod.name, &pod.name[1..]);
    assert!(if cgroup.takes_vcpus() { of_cpu } else { of_vmm }.contains(&own));
}

/// The number of this thread.
fn own_thread() -> u32 {
    let link = fs::read_link("/proc/thread-self").unwrap();
    link.file_name().unwrap().to_str().unwrap().parse().unwrap()
}
