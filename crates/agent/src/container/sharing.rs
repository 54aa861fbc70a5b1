//! Namespaces that the containers of a sandbox share.

use std::sync::Arc;

use kata_protocol::oci::{Linux, LinuxNamespace, Spec};

use crate::id::ContainerId;

/// Whose namespaces the others share: the sandbox's first container, or its holder.
#[derive(Clone, Debug)]
pub(crate) struct First {
    /// The container.
    pub(crate) id: ContainerId,
    /// Its first process.
    pub(crate) pid: i32,
    /// What holds for its processes.
    pub(crate) spec: Arc<Spec>,
}

/// A shared user namespace has ids of its own.
#[derive(Debug, thiserror::Error)]
#[error(
    "linux.uidMappings or linux.gidMappings are not those of the sandbox's user namespace, which the container shares \
     by its path; name the same ones, or none"
)]
pub(crate) struct OtherIds;

/// Namespaces that a container can share with the first one of its sandbox.
pub(super) const SHARED: [&str; 6] = ["user", "pid", "ipc", "uts", "time", "cgroup"];

/// Leaves a path only with the namespaces that are joined: those that the specification names a path of, which is the
/// host's and means the sandbox's. The `first` container makes them. Returns whether there are any.
pub(crate) fn share(spec: &mut Spec, pids: bool, first: Option<&Spec>) -> Result<bool, OtherIds> {
    let linux = spec.Linux.mut_or_insert_default();
    if pids {
        linux.Namespaces.retain(|namespace| namespace.Type != "pid");
        let (kind, path) = ("pid".to_owned(), "sandbox".to_owned());
        linux.Namespaces.push(LinuxNamespace { Type: kind, Path: path, ..Default::default() });
    }
    let is_there = |kind: &str| {
        let has = |first: &Spec| first.Linux.Namespaces.iter().any(|namespace| namespace.Type == kind);
        // Without one the sandbox's user namespace would be the guest's, where no ids are mapped.
        SHARED.contains(&kind) && first.is_some_and(|first| kind != "user" || has(first))
    };
    for namespace in linux.Namespaces.iter_mut().filter(|namespace| !is_there(&namespace.Type)) {
        namespace.Path.clear();
    }
    let joined = |kind: &str| {
        linux.Namespaces.iter().any(|namespace| namespace.Type == kind && !namespace.Path.is_empty())
    };
    if let Some(first) = first.filter(|_| joined("user")) {
        share_ids(linux, &first.Linux)?;
    }
    Ok(linux.Namespaces.iter().any(|namespace| !namespace.Path.is_empty()))
}

/// A shared user namespace has one mapping; who names none means that one.
fn share_ids(linux: &mut Linux, first: &Linux) -> Result<(), OtherIds> {
    let theirs = [&first.UIDMappings, &first.GIDMappings];
    for (own, theirs) in [&mut linux.UIDMappings, &mut linux.GIDMappings].into_iter().zip(theirs) {
        match own.is_empty() {
            true => own.clone_from(theirs),
            false if own == theirs => {}
            false => return Err(OtherIds),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use kata_protocol::oci::{Linux, LinuxIDMapping, LinuxNamespace, Spec};
    use protobuf::MessageField;

    use super::share;

    fn with(namespaces: &[(&str, &str)], ids: &[u32]) -> Spec {
        let namespace = |(kind, path): &(&str, &str)| LinuxNamespace {
            Type: (*kind).to_owned(),
            Path: (*path).to_owned(),
            ..Default::default()
        };
        let mapping = |id: &u32| LinuxIDMapping { HostID: *id, Size: 10, ..Default::default() };
        let (uids, gids) = (ids.iter().map(mapping).collect(), ids.iter().map(mapping).collect());
        let namespaces = namespaces.iter().map(namespace).collect();
        let linux =
            Linux { Namespaces: namespaces, UIDMappings: uids, GIDMappings: gids, ..Default::default() };
        Spec { Linux: MessageField::some(linux), ..Default::default() }
    }

    fn joined(spec: &Spec) -> Vec<&str> {
        let joined = spec.Linux.Namespaces.iter().filter(|namespace| !namespace.Path.is_empty());
        joined.map(|namespace| namespace.Type.as_str()).collect()
    }

    #[test]
    fn the_first_container_makes_what_the_others_share() {
        let own = || with(&[("ipc", "/host"), ("mount", ""), ("network", "/host"), ("pid", "")], &[]);
        let mut first = own();
        assert!(!share(&mut first, true, None).expect("no ids") && joined(&first).is_empty());
        let (mut second, mut third) = (own(), own());
        assert!(share(&mut second, false, Some(&first)).expect("no ids"));
        assert_eq!(joined(&second), ["ipc"]);
        assert!(share(&mut third, true, Some(&first)).expect("no ids"));
        assert_eq!(joined(&third), ["ipc", "pid"]);
    }

    #[test]
    fn a_shared_user_namespace_has_the_ids_of_the_first_container() {
        let first = with(&[("user", "")], &[5, 70]);
        let mut silent = with(&[("user", "/host")], &[]);
        share(&mut silent, false, Some(&first)).expect("no other ids");
        assert_eq!(silent.Linux.UIDMappings, first.Linux.UIDMappings);
        share(&mut with(&[("user", "/host")], &[5, 70]), false, Some(&first)).expect("the same ids");
        let other = share(&mut with(&[("user", "/host")], &[5, 71]), false, Some(&first));
        assert!(other.expect_err("other ids").to_string().contains("linux.uidMappings"));
    }

    #[test]
    fn a_sandbox_without_a_user_namespace_has_none_to_share() {
        let mut spec = with(&[("user", "/host")], &[5]);
        share(&mut spec, false, Some(&with(&[], &[]))).expect("its own ids");
        assert!(joined(&spec).is_empty());
    }
}
