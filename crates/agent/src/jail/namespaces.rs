//! A container's namespaces (OCI `config-linux.md`, "Namespaces"): those that are made for it, and those of the sandbox that
//! it joins, whose entries still have a path (see `container/spec.rs`).

use std::os::fd::{AsFd, OwnedFd};

use kata_protocol::oci::{Linux, LinuxNamespace};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::error::{JailError, Named, Result};

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

/// Whether the container is in a namespace of this kind that is not the guest's.
pub(super) fn has(linux: &Linux, kind: &str) -> bool {
    linux.Namespaces.iter().any(|namespace| namespace.Type == kind)
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Joined {
    /// The jail joins these itself.
    pub(super) before: ThreadNameSpaceType,
    /// These are for whoever makes the process: in that user namespace the jail could not do the rest, and below the root
    /// of that cgroup namespace it would not be.
    pub(super) between: ThreadNameSpaceType,
}

impl Joined {
    /// What the specification says.
    pub(super) fn of(linux: &Linux) -> Self {
        let narrow = ThreadNameSpaceType::USER | ThreadNameSpaceType::CONTROL_GROUP;
        let all = those(|kind| {
            linux.Namespaces.iter().any(|namespace| namespace.Type == kind && !is_made(namespace))
        });
        if !all.intersects(narrow) {
            return Self { before: all, between: ThreadNameSpaceType::empty() };
        }
        // Who makes the process still says its id as the agent knows it.
        let between = all & (narrow | ThreadNameSpaceType::PROCESS_ID);
        Self { before: all - between, between }
    }
}

/// Those that an added process enters, but for the pid namespace, which its maker does. In a user or time namespace that
/// is the guest's it would be already, which is an error.
pub(super) fn entered(linux: &Linux) -> ThreadNameSpaceType {
    those(|kind| kind != "pid" && (has(linux, kind) || !matches!(kind, "user" | "time")))
}

/// Moves this process into these namespaces of another (a pidfd).
pub(super) fn join(process: &OwnedFd, kinds: ThreadNameSpaceType) -> Result<()> {
    if kinds.is_empty() {
        return Ok(());
    }
    move_into_thread_name_spaces(process.as_fd(), kinds)
        .step("join the sandbox's namespaces; has its first container ended?")
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
        assert_eq!(Joined::of(&linux).before, ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION);
        assert!(Joined::of(&linux).between.is_empty());
        assert!(is_own(&linux, "pid") && !is_own(&linux, "ipc") && !is_own(&linux, "uts"));
    }

    #[test]
    fn what_the_jail_cannot_work_in_is_joined_after_it() {
        let Joined { before, between } =
            Joined::of(&with(&[("user", "sandbox"), ("pid", "sandbox"), ("uts", "sandbox"), ("ipc", "")]));
        assert_eq!(before, ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME);
        assert_eq!(between, ThreadNameSpaceType::USER | ThreadNameSpaceType::PROCESS_ID);
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
