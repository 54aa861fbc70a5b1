//! User namespaces: a new one's ids, and who waits for them.
//!
//! A process that is made with a user namespace is nobody until the ids of the namespace have been mapped, which only
//! the jail outside may do. It waits at a [`Gate`].

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write};

use kata_protocol::oci;
use rustix::fs::{AtFlags, Gid, Uid, chownat};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use std::os::fd::OwnedFd;

use super::error::{JailError, Named, Result};
use super::{identity, scheduling};

const USER: &str = "user";

/// What a cgroup's new owner may write to, from cgroup-v2.rst, "Model of Delegation".
const DELEGATED: [&str; 4] = ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"];

/// Whether the container has a user namespace of its own.
pub(super) fn has_own(linux: &oci::Linux) -> bool {
    linux.Namespaces.iter().any(|namespace| namespace.Type == USER)
}

/// Where the new process waits.
#[derive(Debug)]
pub(super) struct Gate {
    wait: OwnedFd,
    open: OwnedFd,
}

impl Gate {
    /// A closed one, if the container has a user namespace.
    pub(super) fn of(linux: &oci::Linux) -> Result<Option<Self>> {
        let mapped = !linux.UIDMappings.is_empty() && !linux.GIDMappings.is_empty();
        match (has_own(linux), mapped) {
            (false, _) => Ok(None),
            (true, false) => Err(JailError::Refused(
                "A user namespace needs linux.uidMappings and linux.gidMappings; add both".to_owned(),
            )),
            (true, true) => {
                let (wait, open) = pipe_with(PipeFlags::CLOEXEC).step("make a pipe")?;
                Ok(Some(Self { wait, open }))
            }
        }
    }

    /// The new process: waits, and becomes root in its namespace.
    pub(super) fn pass(self) -> Result<()> {
        drop(self.open);
        if File::from(self.wait).read_exact(&mut [0]).is_err() {
            return Err(JailError::GivenUp);
        }
        set_thread_groups(&[])
            .and_then(|()| set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT))
            .and_then(|()| set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT))
            .step(
                "become root in the user namespace; is 0 mapped in linux.uidMappings and linux.gidMappings?",
            )
    }

    /// The jail: maps the ids of process `pid`, gives it what it cannot take itself any more, and lets it go on.
    pub(super) fn open(self, pid: Pid, spec: &oci::Spec) -> Result<()> {
        drop(self.wait);
        identity::limit(Some(pid), &spec.Process)?;
        scheduling::set(Some(pid), &spec.Process)?;
        for (file, mappings) in [("gid_map", &spec.Linux.GIDMappings), ("uid_map", &spec.Linux.UIDMappings)] {
            let path = format!("/proc/{}/{file}", pid.as_raw_nonzero());
            std::fs::write(path, lines(mappings)).step(
                "map the ids of the user namespace; do linux.uidMappings or linux.gidMappings overlap?",
            )?;
        }
        File::from(self.open).write_all(b".").step("let the process go on")
    }
}

/// As the kernel reads them (user_namespaces(7)).
fn lines(mappings: &[oci::LinuxIDMapping]) -> String {
    let mut lines = String::new();
    for mapping in mappings {
        let _ = writeln!(lines, "{} {} {}", mapping.ContainerID, mapping.HostID, mapping.Size);
    }
    lines
}

/// Lets the container's root make cgroups below the container's own, if that is in sight and can be written to.
pub(super) fn delegate(spec: &oci::Spec, cgroup: &OwnedFd) -> Result<()> {
    let writable = |mount: &&oci::Mount| {
        mount.type_.starts_with("cgroup") && !mount.options.iter().any(|option| option == "ro")
    };
    let own = spec.Linux.Namespaces.iter().any(|namespace| namespace.Type == "cgroup");
    let root = root_of(&spec.Linux.UIDMappings);
    let (Some(root), true) = (root, own && spec.Mounts.iter().any(|mount| writable(&mount))) else {
        return Ok(());
    };
    let give = |name: &&str| -> io::Result<()> {
        Ok(chownat(cgroup, *name, Some(Uid::from_raw(root)), None, AtFlags::EMPTY_PATH)?)
    };
    DELEGATED.iter().try_for_each(give).step("give the cgroup to the container's root")
}

/// What the container's root is outside.
fn root_of(mappings: &[oci::LinuxIDMapping]) -> Option<u32> {
    mappings.iter().find(|mapping| mapping.ContainerID == 0 && mapping.Size > 0).map(|mapping| mapping.HostID)
}

#[cfg(test)]
mod tests {
    use kata_protocol::oci;

    use super::{Gate, lines};

    fn mapping(container: u32, host: u32, size: u32) -> oci::LinuxIDMapping {
        oci::LinuxIDMapping { ContainerID: container, HostID: host, Size: size, ..Default::default() }
    }

    #[test]
    fn the_containers_ids_come_first() {
        assert_eq!(lines(&[mapping(0, 100_000, 10), mapping(10, 5, 1)]), "0 100000 10\n10 5 1\n");
    }

    #[test]
    fn a_namespace_without_ids_is_refused() {
        let user = oci::LinuxNamespace { Type: "user".to_owned(), ..Default::default() };
        let linux = oci::Linux { Namespaces: vec![user], ..Default::default() };
        let error = Gate::of(&linux).expect_err("no ids");
        assert!(error.to_string().contains("linux.uidMappings"));
    }
}
