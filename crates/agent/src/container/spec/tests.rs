//! What the guest makes of the host's specification.

use kata_protocol::oci::{Hook, Hooks, LinuxMemory, LinuxNamespace, Mount, Root};

use super::*;

fn hierarchy() -> Hierarchy {
    Hierarchy::for_tests(&["cpu", "pids"])
}

fn spec(linux: Linux) -> Spec {
    Spec {
        Process: MessageField::some(Process { Args: vec!["sh".to_owned()], ..Default::default() }),
        Root: MessageField::some(Root { Path: "/".to_owned(), ..Default::default() }),
        Linux: MessageField::some(linux),
        Hooks: MessageField::some(Hooks::default()),
        ..Default::default()
    }
}

fn try_adapt(spec: &mut Spec, owns_guest: bool) -> Result<GuestSysctls> {
    let hierarchy = hierarchy();
    let surroundings = Surroundings { owns_guest, hierarchy: &hierarchy, terminal: false };
    adapt(&"c".parse().expect("a name"), spec, &surroundings)
}

fn adapted(mut spec: Spec, owns_guest: bool) -> (Spec, GuestSysctls) {
    let sysctls = try_adapt(&mut spec, owns_guest).expect("usable");
    (spec, sysctls)
}

#[test]
fn the_network_is_the_guests() {
    let namespace = |kind: &str| LinuxNamespace { Type: kind.to_owned(), ..Default::default() };
    let linux = Linux { Namespaces: vec![namespace("network"), namespace("ipc")], ..Default::default() };
    let (spec, _) = adapted(spec(linux), true);
    let kinds: Vec<&str> = spec.Linux.Namespaces.iter().map(|namespace| namespace.Type.as_str()).collect();
    assert_eq!(kinds, ["ipc"]);
}

#[test]
fn only_hooks_of_the_guest_are_run_in_it() {
    let mut spec = spec(Linux::default());
    let hook = |path: &str| vec![Hook { Path: path.to_owned(), ..Default::default() }];
    let hooks = Hooks { Prestart: hook("/host"), CreateContainer: hook("/guest"), ..Default::default() };
    spec.Hooks = MessageField::some(hooks);
    let hooks = adapted(spec, true).0.Hooks;
    assert_eq!((hooks.Prestart.len(), hooks.CreateContainer.len()), (0, 1));
}

#[test]
fn guest_wide_settings_are_the_agents_to_write() {
    let settings = [("net.ipv4.ip_forward", "1"), ("kernel.shmmax", "2"), ("vm.swappiness", "3")];
    let settings = settings.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    let linux = Linux { Sysctl: settings.collect(), ..Default::default() };
    let (spec, guest) = adapted(spec(linux), true);
    assert_eq!(spec.Linux.Sysctl.keys().collect::<Vec<_>>(), ["kernel.shmmax"]);
    assert_eq!(guest.len(), 2);
}

#[test]
fn limits_without_a_controller_are_left_out_only_outside_a_vm() {
    let memory = LinuxMemory { Limit: 1 << 20, ..Default::default() };
    let resources = LinuxResources { Memory: MessageField::some(memory), ..Default::default() };
    let linux = Linux { Resources: MessageField::some(resources), ..Default::default() };
    for (owns_guest, kept) in [(true, true), (false, false)] {
        let (spec, _) = adapted(spec(linux.clone()), owns_guest);
        assert_eq!(spec.Linux.Resources.Memory.is_some(), kept);
    }
}

#[test]
fn a_process_without_arguments_is_refused() {
    let mut spec = spec(Linux::default());
    spec.Process.mut_or_insert_default().Args.clear();
    let error = try_adapt(&mut spec, true).expect_err("nothing to run");
    assert!(error.to_string().contains("process.args"));
}

#[test]
fn a_root_needs_an_absolute_path() {
    let mut spec = spec(Linux::default());
    spec.Root.mut_or_insert_default().Path = "rootfs".to_owned();
    let error = try_adapt(&mut spec, true).expect_err("the host's path");
    assert!(error.to_string().contains("absolute path"));
}

#[test]
fn a_process_begins_at_the_root_unless_it_says_otherwise() {
    let (spec, _) = adapted(spec(Linux::default()), true);
    assert_eq!(spec.Process.Cwd, "/");
}

#[test]
fn volumes_are_the_mounts_from_the_share() {
    let mount = |source: &str| Mount { source: source.to_owned(), ..Default::default() };
    let share = format!("{}volumes/3-data", guest::SHARED_DIR);
    let spec = Spec { Mounts: vec![mount("tmpfs"), mount(&share), mount("/dev/shm")], ..Default::default() };
    assert_eq!(shared_sources(&spec).collect::<Vec<_>>(), [Path::new(&share)]);
}
