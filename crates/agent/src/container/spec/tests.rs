//! What the guest makes of the host's specification.

use oci_spec::runtime::{
    Hooks, LinuxBuilder, LinuxMemoryBuilder, LinuxNamespaceBuilder, LinuxResourcesBuilder, LinuxSeccomp,
    ProcessBuilder, RootBuilder, SpecBuilder,
};

use super::*;

fn hierarchy() -> Hierarchy {
    Hierarchy::for_tests(&["cpu", "pids"])
}

fn surroundings(hierarchy: &Hierarchy, owns_guest: bool) -> Surroundings<'_> {
    Surroundings { owns_guest, hierarchy, pid_namespace: None, terminal: false }
}

fn id() -> ContainerId {
    "web".parse().expect("valid")
}

fn spec(linux: Linux) -> Spec {
    SpecBuilder::default()
        .process(ProcessBuilder::default().args(vec!["sh".to_owned()]).build().expect("complete"))
        .root(RootBuilder::default().path("/").build().expect("complete"))
        .linux(linux)
        .hooks(Hooks::default())
        .build()
        .expect("complete")
}

fn adapted(mut spec: Spec, owns_guest: bool) -> (Spec, GuestSysctls) {
    let hierarchy = hierarchy();
    let sysctls = adapt(&mut spec, &id(), &surroundings(&hierarchy, owns_guest)).expect("usable");
    (spec, sysctls)
}

fn namespaces(paths: &[(LinuxNamespaceType, &str)]) -> Linux {
    let list = paths.iter().map(|(kind, path)| {
        LinuxNamespaceBuilder::default().typ(*kind).path(*path).build().expect("complete")
    });
    LinuxBuilder::default().namespaces(list.collect::<Vec<_>>()).build().expect("complete")
}

#[test]
fn the_network_is_the_guests() {
    let linux = namespaces(&[
        (LinuxNamespaceType::Network, "/proc/7/ns/net"),
        (LinuxNamespaceType::Ipc, "/proc/7/ns/ipc"),
    ]);
    let (spec, _) = adapted(spec(linux), true);
    let linux = spec.linux().clone().expect("kept");
    let namespaces = linux.namespaces().clone().expect("kept");
    assert_eq!(namespaces.len(), 1);
    assert_eq!((namespaces[0].typ(), namespaces[0].path()), (LinuxNamespaceType::Ipc, &None));
}

#[test]
fn a_shared_pid_namespace_is_joined() {
    let hierarchy = hierarchy();
    let mut surroundings = surroundings(&hierarchy, true);
    surroundings.pid_namespace = Some("/proc/1/fd/9".into());
    let mut spec = spec(namespaces(&[(LinuxNamespaceType::Pid, "/proc/7/ns/pid")]));
    adapt(&mut spec, &id(), &surroundings).expect("usable");
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().clone()).expect("kept");
    assert_eq!(namespaces[0].path().as_deref(), Some(Path::new("/proc/1/fd/9")));
}

#[test]
fn the_cgroup_is_named_after_the_container() {
    let mut linux = LinuxBuilder::default().cgroups_path("/kubepods/pod1").build().expect("complete");
    linux.set_seccomp(Some(LinuxSeccomp::default()));
    let (spec, _) = adapted(spec(linux), true);
    let linux = spec.linux().clone().expect("kept");
    assert_eq!(linux.cgroups_path().as_deref(), Some(Path::new("/web")));
    assert!(linux.seccomp().is_none());
    assert!(spec.hooks().is_none());
}

#[test]
fn guest_wide_settings_are_the_agents_to_write() {
    let settings = [("net.ipv4.ip_forward", "1"), ("kernel.shmmax", "2"), ("vm.swappiness", "3")];
    let settings: HashMap<_, _> =
        settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let linux = LinuxBuilder::default().sysctl(settings).build().expect("complete");
    let (spec, guest) = adapted(spec(linux), true);
    let own = spec.linux().as_ref().and_then(|linux| linux.sysctl().clone()).expect("kept");
    assert_eq!(own.keys().collect::<Vec<_>>(), ["kernel.shmmax"]);
    assert_eq!(guest.len(), 2);
}

#[test]
fn limits_without_a_controller_are_left_out_only_outside_a_vm() {
    let memory = LinuxMemoryBuilder::default().limit(1 << 20).build().expect("complete");
    let resources = LinuxResourcesBuilder::default().memory(memory).build().expect("complete");
    let linux = LinuxBuilder::default().resources(resources).build().expect("complete");
    for (owns_guest, kept) in [(true, true), (false, false)] {
        let (spec, _) = adapted(spec(linux.clone()), owns_guest);
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().clone()).expect("kept");
        assert_eq!(resources.memory().is_some(), kept);
    }
}

#[test]
fn a_process_without_arguments_is_refused() {
    let mut spec = spec(Linux::default());
    let mut process = spec.process().clone().expect("set");
    process.set_args(Some(Vec::new()));
    spec.set_process(Some(process));
    let hierarchy = hierarchy();
    let error = adapt(&mut spec, &id(), &surroundings(&hierarchy, true)).expect_err("nothing to run");
    assert!(error.to_string().contains("process.args"));
}

#[test]
fn a_root_needs_an_absolute_path() {
    let mut spec = spec(Linux::default());
    spec.set_root(Some(RootBuilder::default().path("rootfs").build().expect("complete")));
    let hierarchy = hierarchy();
    let error = adapt(&mut spec, &id(), &surroundings(&hierarchy, true)).expect_err("the host's path");
    assert!(error.to_string().contains("absolute path"));
}

#[test]
fn workloads_do_not_inherit_the_agents_oom_protection() {
    let (spec, _) = adapted(spec(Linux::default()), true);
    assert_eq!(spec.process().as_ref().and_then(|process| process.oom_score_adj()), Some(0));
}
