//! A container's namespaces (OCI `config-linux.md`, "Namespaces"): those that are made for it, and those of the sandbox that
//! it joins, whose entries still have a path (see `container/spec.rs`).

use kata_protocol::oci::{Linux, LinuxNamespace};
use rustix::thread::ThreadNameSpaceType;

use super::error::{JailError, Result};

/// By their names in the specification. What they are joined by are the flags of `clone` too.
const KINDS: [(&str, ThreadNameSpaceType); 7] = [
    ("user", ThreadNameSpaceType::USER),
    ("mount", ThreadNameSpaceType::MOUNT),
    ("pid", ThreadNameSpaceType::PROCESS_ID),
    ("ipc", ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION),
    ("uts", ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME),
    ("time", ThreadNameSpaceType::TIME),
    ("cgroup", ThreadNameSpaceType::CONTROL_GROUP),
];

/// Whether the container has a namespace of this kind to itself.
pub(super) fn is_own(linux: &Linux, kind: &str) -> bool {
    linux.Namespaces.iter().any(|namespace| namespace.Type == kind && is_made(namespace))
}

fn is_made(namespace: &LinuxNamespace) -> bool {
    namespace.Path.is_empty()
}

/// Flags of `clone` for those that are made with the process. For a cgroup namespace it must be in its cgroup, and clocks
/// are set off before anybody has them.
pub(super) fn cloned(linux: &Linux) -> Result<libc::c_int> {
    let later = ThreadNameSpaceType::CONTROL_GROUP | ThreadNameSpaceType::TIME;
    let mut made = ThreadNameSpaceType::MOUNT;
    for namespace in linux.Namespaces.iter().filter(|namespace| is_made(namespace)) {
        let kind = namespace.Type.as_str();
        let Some((_, flag)) = KINDS.iter().find(|(name, _)| *name == kind) else {
            let text = format!("A {kind} namespace is not supported; remove it from linux.namespaces");
            return Err(JailError::Refused(text));
        };
        made |= *flag;
    }
    Ok((made - later).bits().cast_signed())
}

/// Those of the sandbox that the container shares.
pub(super) fn joined(linux: &Linux) -> ThreadNameSpaceType {
    those(|kind| linux.Namespaces.iter().any(|namespace| namespace.Type == kind && !is_made(namespace)))
}

/// Those that an added process enters, but for the pid namespace, which its maker does. In a user or time namespace that
/// is the guest's it would be already, which is an error.
pub(super) fn entered(linux: &Linux) -> ThreadNameSpaceType {
    let listed = |kind: &str| linux.Namespaces.iter().any(|namespace| namespace.Type == kind);
    those(|kind| kind != "pid" && (listed(kind) || !matches!(kind, "user" | "time")))
}

fn those(are: impl Fn(&str) -> bool) -> ThreadNameSpaceType {
    let kinds = KINDS.iter().filter(|(kind, _)| are(kind));
    kinds.fold(ThreadNameSpaceType::empty(), |all, (_, flag)| all | *flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(namespaces: &[(&str, &str)]) -> Linux {
        let namespace = |(kind, path): &(&str, &str)| LinuxNamespace {
            Type: (*kind).to_owned(),
            Path: (*path).to_owned(),
            ..Default::default()
        };
        Linux { Namespaces: namespaces.iter().map(namespace).collect(), ..Default::default() }
    }

    #[test]
    fn a_namespace_with_a_path_is_joined_and_not_made() {
        let linux = with(&[("ipc", "sandbox"), ("pid", ""), ("time", ""), ("cgroup", "")]);
        assert_eq!(cloned(&linux).expect("known"), libc::CLONE_NEWNS | libc::CLONE_NEWPID);
        assert_eq!(joined(&linux), ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION);
        assert!(is_own(&linux, "pid") && !is_own(&linux, "ipc") && !is_own(&linux, "uts"));
    }

    #[test]
    fn an_added_process_enters_what_is_not_the_guests() {
        let plain = entered(&with(&[("pid", "")]));
        assert!(plain.contains(ThreadNameSpaceType::MOUNT | ThreadNameSpaceType::CONTROL_GROUP));
        assert!(!plain.intersects(ThreadNameSpaceType::USER | ThreadNameSpaceType::PROCESS_ID));
        assert!(entered(&with(&[("user", "")])).contains(ThreadNameSpaceType::USER));
    }

    #[test]
    fn an_unknown_namespace_is_named() {
        assert!(
            cloned(&with(&[("dream", "")])).expect_err("unknown").to_string().contains("A dream namespace")
        );
    }
}
