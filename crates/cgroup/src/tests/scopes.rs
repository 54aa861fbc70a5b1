//! Cgroups whose path is of systemd's form, where systemd runs: a stand-in makes the scopes.

use std::fs;
use std::path::PathBuf;

use kata_intent::Intent;
use tokio::process::Command;

use super::{Cgroup, Host, Making, Request, names, of_path};
use crate::CgroupError;
use crate::hierarchy::Hierarchy;
use crate::systemd::stand_in::{Manner, StandIn};

const PATH: &str = "kubepods-pod1.slice:cri-containerd:s1";
const SLICE: &str = "/kubepods.slice/kubepods-pod1.slice";
const SCOPE: &str = "/kubepods.slice/kubepods-pod1.slice/cri-containerd-s1.scope";
const OVERHEAD: &str = "/kata.slice/kata-overhead.slice/kata-s1.scope";
const DONE: Manner = Manner::EndsAs("done");

/// A host with the pod's slice, and what systemd makes there.
fn host_with(v1: &[&str], v2: Option<&str>) -> Host {
    let host = Host::with_v1(v1);
    let host = match v2 {
        Some(controllers) => host.and_v2(controllers),
        None => host,
    };
    for hierarchy in v1.iter().chain(v2.map(|_| &"unified")) {
        host.cgroup(hierarchy, SCOPE);
        host.cgroup(hierarchy, OVERHEAD);
    }
    host
}

fn unified() -> Host {
    host_with(&[], Some("cpu memory"))
}

impl Host {
    fn make_by(&self, systemd: &StandIn, sandbox_only: bool) -> Result<Cgroup, CgroupError> {
        let systemd = systemd.systemd();
        self.try_make(Request { memory: 100, sandbox_only, systemd: Some(&systemd), ..of_path(PATH) })
    }

    /// Scopes that are in the log.
    fn scopes(&self) -> Vec<String> {
        let units = self.log.pending().into_iter().filter_map(|intent| match intent {
            Intent::Scope { unit, .. } => Some(unit),
            _ => None,
        });
        units.collect()
    }
}

/// Each unit that was asked for, with its slice and processes.
fn asked(systemd: &StandIn) -> Vec<(String, String, Vec<u32>)> {
    let all = systemd.asked().into_iter();
    all.map(|one| (one.unit, one.properties["Slice"].clone(), one.processes)).collect()
}

fn unit(name: &str, slice: &str, process: u32) -> (String, String, Vec<u32>) {
    (name.to_owned(), slice.to_owned(), vec![process])
}

/// What a program that starts in `cgroup` says, or why it does not start.
fn run(cgroup: &Cgroup, script: &str) -> std::io::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut command = Command::new("sh");
        cgroup.enter(command.args(["-c", script])).unwrap();
        let output = command.output().await?;
        Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    })
}

#[test]
fn all_of_a_sandbox_is_in_one_scope_with_this_process_first() {
    let (host, systemd) = (unified(), StandIn::new(DONE));
    let cgroup = host.make_by(&systemd, true).unwrap();
    let expected = unit("cri-containerd-s1.scope", "kubepods-pod1.slice", std::process::id());
    assert_eq!(asked(&systemd), [expected]);
    assert_eq!(host.places(&cgroup).0, names(&[&format!("unified{SCOPE}")]));
    assert_eq!(host.scopes(), names(&["cri-containerd-s1.scope"]));
    assert!(!cgroup.awaits_vmm());
}

#[test]
fn a_scope_is_in_all_hierarchies_of_version_1() {
    let (host, systemd) = (host_with(&["cpu", "memory"], None), StandIn::new(DONE));
    let cgroup = host.make_by(&systemd, true).unwrap();
    assert_eq!(asked(&systemd).len(), 1);
    assert_eq!(host.places(&cgroup).0, names(&[&format!("cpu{SCOPE}"), &format!("memory{SCOPE}")]));
}

#[test]
fn a_pod_with_less_memory_than_its_vm_gets_no_scope() {
    let (host, systemd) = (host_with(&["cpu", "memory"], None), StandIn::new(DONE));
    fs::write(host.at("memory", SLICE).join("memory.limit_in_bytes"), "99\n").unwrap();
    let cgroup = host.make_by(&systemd, true).unwrap();
    assert_eq!(asked(&systemd), []);
    assert_eq!(host.places(&cgroup).0, names(&[&format!("cpu{SCOPE}")]), "a directory, where it is counted");
}

#[test]
fn a_slice_that_is_not_there_gets_no_scope() {
    let (host, systemd) = (Host::with_v1(&[]).and_v2("cpu"), StandIn::new(DONE));
    host.make_by(&systemd, true).unwrap();
    assert_eq!((asked(&systemd), host.scopes()), (vec![], vec![]));
}

#[test]
fn a_path_of_another_form_is_no_scope() {
    let (host, systemd) = (unified(), StandIn::new(DONE));
    host.ready(&["unified"], "kata_s1");
    let by = systemd.systemd();
    host.make_for(Request { systemd: Some(&by), ..of_path(super::PATH) });
    assert_eq!(asked(&systemd), []);
}

#[test]
fn the_vms_cpus_alone_are_in_directories_in_version_1() {
    let (host, systemd) = (host_with(&["cpu"], None), StandIn::new(DONE));
    host.ready(&["cpu"], "kata_s1");
    let places = host.places(&host.make_by(&systemd, false).unwrap());
    assert_eq!(places, (names(&["cpu/kata_overhead/s1"]), names(&[&format!("cpu{SCOPE}")])));
    assert_eq!(asked(&systemd), []);
}

#[test]
fn a_vmm_that_is_apart_begins_in_its_own_scope() {
    let (host, systemd) = (unified(), StandIn::new(DONE));
    let cgroup = host.make_by(&systemd, false).unwrap();
    assert!(cgroup.awaits_vmm());
    assert_eq!(host.places(&cgroup).0, names(&[&format!("unified{OVERHEAD}")]));
    let vmm: u32 = run(&cgroup, "echo $$").unwrap().parse().unwrap();
    let overhead = unit("kata-s1.scope", "kata-overhead.slice", std::process::id());
    let own = unit("cri-containerd-s1.scope", "kubepods-pod1.slice", vmm);
    assert_eq!(asked(&systemd), [overhead, own]);
    // It was still this program when systemd was told of it.
    assert_eq!(systemd.asked()[1].programs, [std::env::current_exe().unwrap()]);
    assert_eq!(host.scopes(), names(&["kata-s1.scope", "cri-containerd-s1.scope"]));
    assert!(cgroup.refusal().is_none());
}

#[test]
fn a_vmm_does_not_begin_where_systemd_refuses() {
    let host = unified();
    let cgroup = host.make_by(&StandIn::new(DONE), false).unwrap();
    // The bus has gone since.
    let witness = host.at("unified", "/began");
    let error = run(&cgroup, &format!("echo > {}", witness.display())).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::CANCELED.raw_os_error()));
    let refusal = cgroup.refusal().unwrap().to_string();
    assert!(refusal.contains("Cannot start the scope cri-containerd-s1.scope"), "{refusal}");
    assert!(!witness.exists());
    assert_eq!(host.scopes(), names(&["kata-s1.scope"]), "what is not made is not undone");
}

#[test]
fn a_vmm_that_is_not_started_after_all_leaves_nobody_waiting() {
    let (host, systemd) = (unified(), StandIn::new(DONE));
    let cgroup = host.make_by(&systemd, false).unwrap();
    let mut command = Command::new("/nonexistent/program");
    cgroup.enter(&mut command).unwrap();
    drop(command);
    assert_eq!(asked(&systemd).len(), 1);
}

#[test]
fn a_scope_that_is_refused_is_an_error_and_not_undone() {
    // It is another's: undoing would end it.
    let (host, systemd) = (unified(), StandIn::new(Manner::Refuses("org.freedesktop.systemd1.UnitExists")));
    let error = host.make_by(&systemd, true).unwrap_err().to_string();
    assert!(error.contains("cri-containerd-s1.scope") && error.contains("UnitExists"), "{error}");
    assert_eq!((host.scopes(), host.announced()), (vec![], vec![]));
}

#[test]
fn a_scope_of_which_nothing_is_known_is_undone() {
    let (host, systemd) = (unified(), StandIn::new(Manner::Vanishes));
    host.make_by(&systemd, true).unwrap_err();
    assert_eq!(host.scopes(), names(&["cri-containerd-s1.scope"]));
}

/// systemd ends what is in a scope by its own hierarchy, and there this process stayed: undoing ended it.
#[test]
fn this_process_leaves_a_scope_in_all_hierarchies_of_version_1() {
    let (host, systemd) = (host_with(&["cpu", "name=systemd"], None), StandIn::new(DONE));
    for hierarchy in ["cpu", "name=systemd"] {
        host.cgroup(hierarchy, "/manager");
    }
    let by = systemd.systemd();
    let request = Request { memory: 100, sandbox_only: true, systemd: Some(&by), ..of_path(PATH) };
    let membership = "2:cpu:/manager\n1:name=systemd:/manager\n";
    let making = Making { request, membership, intents: host.log.clone() };
    making.all(&Hierarchy::all(&host.mountinfo)).unwrap().leave();
    for hierarchy in ["cpu", "name=systemd"] {
        let members = fs::read_to_string(host.at(hierarchy, "/manager/cgroup.procs")).unwrap();
        assert_eq!(members, "0", "{hierarchy}");
    }
}

/// Who undoes a scope ends what is in it: that was this process itself, where something failed after it had gone there.
#[test]
fn this_process_is_in_no_scope_after_a_failure() {
    let members =
        |host: &Host, path: &str| fs::read_to_string(host.at("unified", path).join("cgroup.procs")).unwrap();
    let overhead_scope_alone = (false, 1, Manner::EndsAs("done"));
    let without_vmms_cgroup = (false, 3, Manner::EndsAs("done"));
    let whole_scope_alone = (true, 1, Manner::EndsAs("done"));
    let nothing_is_known = (true, usize::MAX, Manner::Vanishes);
    for (sandbox_only, room, manner) in
        [overhead_scope_alone, without_vmms_cgroup, whole_scope_alone, nothing_is_known]
    {
        let (host, systemd) = (unified(), StandIn::new(manner));
        host.cgroup("unified", "/manager");
        host.log.limit(room);
        let by = systemd.systemd();
        let request = Request { memory: 100, sandbox_only, systemd: Some(&by), ..of_path(PATH) };
        let making = Making { request, membership: "0::/manager\n", intents: host.log.clone() };
        making.all(&Hierarchy::all(&host.mountinfo)).unwrap_err();
        assert_eq!(host.scopes().len(), 1 + usize::from(room == 3));
        assert_eq!(members(&host, "/manager"), "0", "{sandbox_only}, {room}");
    }
}

#[test]
fn who_undoes_a_scope_knows_where_to_ask() {
    let (host, systemd) = (unified(), StandIn::new(DONE));
    host.make_by(&systemd, true).unwrap();
    let sockets = host.log.pending().into_iter().filter_map(|intent| match intent {
        Intent::Scope { socket, .. } => Some(socket),
        _ => None,
    });
    let sockets: Vec<PathBuf> = sockets.collect();
    assert_eq!(sockets, [systemd.systemd().socket().to_owned()]);
}
