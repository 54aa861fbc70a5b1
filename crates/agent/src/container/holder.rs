//! The holder: a process of the agent's own that keeps the namespaces which the containers of a sandbox share, where no
//! container of the manager's does (there is no pause container in the guest).
//!
//! Namespaces live as long as a process or a descriptor is in them, but a pid namespace ends with its first process. So
//! it is a process: the jail makes it like the first one of any container, in an empty root. It then runs nothing, but
//! stays, reaps whatever is left to it (`jail/hold.rs`) and lives as long as the sandbox.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;

use kata_protocol::oci::{Linux, LinuxNamespace, Mount, Process, Root, Spec};
use protobuf::MessageField;

use super::sharing::SHARED;

/// Its root in the guest.
const ROOT: &str = "/run/kata-containers/sandbox/holder";
/// Its folder of devices, which is empty.
const DEVICES: &str = "/dev";
/// All containers depend on it: it must not be the one that is killed for want of memory. So it is with pause elsewhere.
const UNKILLED: i64 = -998;
/// It has these in any case, so that whoever joins one finds the sandbox's and not the guest's.
const ALWAYS: [&str; 3] = ["pid", "ipc", "uts"];

/// What a pod's containers need to be there before them, as the pod has said itself; none if it has said nothing.
pub(crate) fn of_pod(pod: &Spec) -> Option<Spec> {
    let asked = pod.Linux.get_or_default();
    let kinds: Vec<&str> = SHARED
        .into_iter()
        .filter(|kind| asked.Namespaces.iter().any(|namespace| namespace.Type == *kind))
        .collect();
    if kinds.is_empty() && asked.Sysctl.is_empty() {
        return None;
    }
    let mut held = holding(&kinds, asked);
    held.Sysctl.clone_from(&asked.Sysctl);
    held.TimeOffsets.clone_from(&asked.TimeOffsets);
    Some(Spec { Domainname: pod.Domainname.clone(), ..spec(&pod.Version, held) })
}

/// What the first container that shares namespaces (the `pids`, or those that have a path) needs to be there before it;
/// none if it shares none. A user namespace has the ids of that container.
pub(crate) fn of_first(container: &Spec, pids: bool) -> Option<Spec> {
    let linux = container.Linux.get_or_default();
    let joins = |kind: &str| linux.Namespaces.iter().any(|ns| ns.Type == kind && !ns.Path.is_empty());
    if !pids && !SHARED.iter().any(|kind| joins(kind)) {
        return None;
    }
    let kinds: Vec<&str> = SHARED.into_iter().filter(|kind| ALWAYS.contains(kind) || joins(kind)).collect();
    Some(spec(&container.Version, holding(&kinds, linux)))
}

/// New namespaces of these kinds; one of users has the ids of `linux`.
fn holding(kinds: &[&str], linux: &Linux) -> Linux {
    let namespace = |kind: &&str| LinuxNamespace { Type: (*kind).to_owned(), ..LinuxNamespace::default() };
    let mut held =
        Linux { Namespaces: kinds.iter().chain(&["mount"]).map(namespace).collect(), ..Linux::default() };
    if kinds.contains(&"user") {
        held.UIDMappings.clone_from(&linux.UIDMappings);
        held.GIDMappings.clone_from(&linux.GIDMappings);
    }
    held
}

/// Has the kernel spare it when memory runs out. Outside a guest of its own an agent may not be allowed to.
pub(crate) fn spare(holder: &mut Spec) {
    holder.Process.mut_or_insert_default().OOMScoreAdj = UNKILLED;
}

fn spec(version: &str, held: Linux) -> Spec {
    let process = Process {
        // A specification must have some.
        Args: vec!["hold".to_owned()],
        Cwd: "/".to_owned(),
        NoNewPrivileges: true,
        ..Process::default()
    };
    Spec {
        Version: version.to_owned(),
        Root: MessageField::some(Root { Path: ROOT.to_owned(), Readonly: true, ..Root::default() }),
        Process: MessageField::some(process),
        // A bound folder of devices is left as it is, and it needs none.
        Mounts: vec![devices()],
        Linux: MessageField::some(held),
        ..Spec::default()
    }
}

fn devices() -> Mount {
    Mount {
        destination: DEVICES.to_owned(),
        source: format!("{ROOT}{DEVICES}"),
        type_: "bind".to_owned(),
        options: ["bind", "ro", "nosuid", "nodev"].map(str::to_owned).to_vec(),
        ..Mount::default()
    }
}

/// Makes its root, with the place that something is mounted on: the root of a user namespace could not make it.
pub(crate) fn make_root() -> io::Result<()> {
    let devices = format!("{ROOT}{DEVICES}");
    fs::create_dir_all(&devices)?;
    [ROOT, &devices]
        .into_iter()
        .try_for_each(|folder| fs::set_permissions(folder, Permissions::from_mode(0o755)))
}

#[cfg(test)]
mod tests {
    use kata_protocol::oci::{Linux, LinuxIDMapping, LinuxNamespace, Spec};
    use protobuf::MessageField;

    use super::{of_first, of_pod, spare};

    fn sharing(kinds: &[&str]) -> Spec {
        let namespace = |kind: &&str| LinuxNamespace {
            Type: (*kind).to_owned(),
            Path: "/proc/7/ns".to_owned(),
            ..LinuxNamespace::default()
        };
        let ids = vec![LinuxIDMapping { HostID: 5, Size: 10, ..LinuxIDMapping::default() }];
        let namespaces = kinds.iter().map(namespace).collect();
        let linux =
            Linux { Namespaces: namespaces, UIDMappings: ids.clone(), GIDMappings: ids, ..Linux::default() };
        Spec { Linux: MessageField::some(linux), ..Spec::default() }
    }

    fn held(spec: &Spec) -> Vec<&str> {
        assert!(spec.Linux.Namespaces.iter().all(|namespace| namespace.Path.is_empty()), "it makes them");
        spec.Linux.Namespaces.iter().map(|namespace| namespace.Type.as_str()).collect()
    }

    #[test]
    fn who_shares_nothing_needs_no_holder() {
        assert!(of_first(&sharing(&["network"]), false).is_none(), "the network is the guest's");
        assert!(of_first(&Spec::default(), false).is_none());
    }

    /// The kernel chose it before the workloads of a pod whose own scores are low.
    #[test]
    fn it_is_spared_when_memory_runs_out() {
        let mut holder = of_first(&sharing(&["uts"]), false).expect("one is shared");
        spare(&mut holder);
        assert_eq!((holder.Process.OOMScoreAdj, holder.Process.Args.len()), (-998, 1));
    }

    #[test]
    fn whoever_joins_pids_later_finds_the_sandboxs() {
        let holder = of_first(&sharing(&["uts"]), false).expect("one is shared");
        assert_eq!(held(&holder), ["pid", "ipc", "uts", "mount"]);
        assert!(holder.Linux.UIDMappings.is_empty());
        assert_eq!(
            held(&of_first(&Spec::default(), true).expect("pids are")),
            ["pid", "ipc", "uts", "mount"]
        );
    }

    #[test]
    fn a_shared_user_namespace_has_the_ids_of_who_asks_for_it() {
        let container = sharing(&["user", "ipc"]);
        let holder = of_first(&container, false).expect("two are shared");
        assert_eq!(held(&holder), ["user", "pid", "ipc", "uts", "mount"]);
        assert_eq!(holder.Linux.UIDMappings, container.Linux.UIDMappings);
    }

    #[test]
    fn what_a_pod_says_is_held_and_nothing_else() {
        assert!(of_pod(&Spec::default()).is_none(), "the first container says");
        let mut pod = sharing(&["network", "mount", "user", "ipc", "cgroup"]);
        pod.Domainname = "test".to_owned();
        pod.Linux.mut_or_insert_default().Sysctl.insert("kernel.shmmni".to_owned(), "7".to_owned());
        let holder = of_pod(&pod).expect("it says much");
        assert_eq!(held(&holder), ["user", "ipc", "cgroup", "mount"]);
        assert_eq!(
            (&holder.Linux.UIDMappings, &holder.Linux.Sysctl),
            (&pod.Linux.UIDMappings, &pod.Linux.Sysctl)
        );
        assert_eq!(holder.Domainname, "test");
    }

    #[test]
    fn settings_of_a_pod_that_shares_nothing_are_made_nonetheless() {
        let mut pod = Spec::default();
        pod.Linux.mut_or_insert_default().Sysctl.insert("net.core.somaxconn".to_owned(), "7".to_owned());
        assert_eq!(held(&of_pod(&pod).expect("it says something")), ["mount"]);
    }
}
