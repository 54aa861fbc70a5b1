//! User namespaces: a new one's ids, and who waits for them.
//!
//! A process that is made with a user namespace is nobody until the ids of the namespace have been mapped, which only
//! the jail outside may do. It waits at a [`Gate`].

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use kata_protocol::oci;
use rustix::fs::{Gid, Uid};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::error::{JailError, Named, Result};
use super::{identity, namespaces, scheduling};

/// Where the new process waits.
#[derive(Debug)]
pub(super) struct Gate {
    wait: OwnedFd,
    open: OwnedFd,
}

impl Gate {
    /// A closed one, if the container is in a user namespace.
    pub(super) fn of(linux: &oci::Linux) -> Result<Option<Self>> {
        let mapped = !linux.UIDMappings.is_empty() && !linux.GIDMappings.is_empty();
        match (namespaces::has(linux, "user"), mapped) {
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

    /// The jail: maps the ids of process `pid`, if its namespace is new; gives it what it cannot take itself any more,
    /// and lets it go on.
    pub(super) fn open(self, pid: Pid, spec: &oci::Spec) -> Result<()> {
        drop(self.wait);
        identity::limit(Some(pid), &spec.Process)?;
        scheduling::set(Some(pid), &spec.Process)?;
        let ids = [("gid_map", &spec.Linux.GIDMappings), ("uid_map", &spec.Linux.UIDMappings)];
        for (file, mappings) in ids.into_iter().filter(|_| namespaces::is_own(&spec.Linux, "user")) {
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
