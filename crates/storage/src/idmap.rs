//! Mounts whose files seem to belong to others (mount_setattr(2), "ID-mapped mounts"; OCI `config.md`, mounts'
//! `uidMappings` and `gidMappings`): made on the host, so that no guest and no daemon in between needs to know of them.

use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::wait::{Id, WaitPidFlag, waitid};
use oci_spec::runtime::{LinuxIdMapping, Mount};
use rustix::fs::{Mode, OFlags, open};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::sys;

/// Which ids outside stand for which inside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMap {
    /// Users.
    pub uids: Vec<LinuxIdMapping>,
    /// Groups.
    pub gids: Vec<LinuxIdMapping>,
}

/// What a mount wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) ids: IdMap,
    /// For the mounts below it too.
    pub(crate) recursive: bool,
}

/// The mapping was asked for, but not which.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no ids are given: add uidMappings and gidMappings to it, or to the container's linux section")]
pub struct NoIds;

const ONE: &str = "idmap";
const ALL: &str = "ridmap";

/// Takes the mapping out of a mount; `usual` is the container's own, for one that names none.
pub(crate) fn take(mount: &mut Mount, usual: &IdMap) -> Result<Option<Wanted>, NoIds> {
    let mut options = mount.options().clone().unwrap_or_default();
    let recursive =
        options.iter().rev().find(|option| *option == ONE || *option == ALL).map(|last| last == ALL);
    let own = IdMap {
        uids: mount.uid_mappings().clone().unwrap_or_default(),
        gids: mount.gid_mappings().clone().unwrap_or_default(),
    };
    if recursive.is_none() && own == IdMap::default() {
        return Ok(None);
    }
    let ids = if own == IdMap::default() { usual.clone() } else { own };
    if ids.uids.is_empty() || ids.gids.is_empty() {
        return Err(NoIds);
    }
    options.retain(|option| option != ONE && option != ALL);
    mount.set_options(Some(options)).set_uid_mappings(None).set_gid_mappings(None);
    Ok(Some(Wanted { ids, recursive: recursive.unwrap_or(false) }))
}

impl IdMap {
    /// A user namespace with these ids, that nobody is in.
    pub(crate) fn namespace(&self) -> io::Result<OwnedFd> {
        let (wait, end) = pipe_with(PipeFlags::CLOEXEC)?;
        let (pid, pidfd) = sys::wait_in_user_namespace(wait.as_fd())?;
        let namespace = self.write_to(pid).and_then(|()| {
            Ok(open(format!("/proc/{pid}/ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
        });
        drop((wait, end));
        waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::__WALL)?;
        namespace
    }

    fn write_to(&self, pid: nix::libc::pid_t) -> io::Result<()> {
        for (file, mappings) in [("gid_map", &self.gids), ("uid_map", &self.uids)] {
            std::fs::write(format!("/proc/{pid}/{file}"), lines(mappings))?;
        }
        Ok(())
    }
}

/// As the kernel reads them (user_namespaces(7)).
fn lines(mappings: &[LinuxIdMapping]) -> String {
    let mut lines = String::new();
    for mapping in mappings {
        let _ = writeln!(lines, "{} {} {}", mapping.container_id(), mapping.host_id(), mapping.size());
    }
    lines
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxIdMappingBuilder, Mount, MountBuilder};

    use super::{IdMap, NoIds, take};

    fn ids(container: u32, host: u32) -> IdMap {
        let mapping = LinuxIdMappingBuilder::default().container_id(container).host_id(host).size(10_u32);
        let mapping = vec![mapping.build().unwrap()];
        IdMap { uids: mapping.clone(), gids: mapping }
    }

    fn mount(options: &[&str]) -> Mount {
        let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        MountBuilder::default().destination("/data").options(options).build().unwrap()
    }

    #[test]
    fn a_mount_without_mapping_stays_as_it_is() {
        let mut plain = mount(&["rbind", "ro"]);
        assert_eq!(take(&mut plain, &ids(0, 1000)), Ok(None));
        assert_eq!(plain, mount(&["rbind", "ro"]));
    }

    #[test]
    fn an_option_alone_takes_the_containers_ids() {
        let mut mapped = mount(&["rbind", "ridmap"]);
        let wanted = take(&mut mapped, &ids(0, 1000)).unwrap().unwrap();
        assert!(wanted.recursive && wanted.ids == ids(0, 1000));
        assert_eq!(mapped, mount(&["rbind"]));
    }

    #[test]
    fn a_mounts_own_ids_come_first() {
        let IdMap { uids, gids } = ids(0, 7);
        let mut mapped = mount(&["bind"]);
        mapped.set_uid_mappings(Some(uids)).set_gid_mappings(Some(gids));
        let wanted = take(&mut mapped, &ids(0, 1000)).unwrap().unwrap();
        assert!(!wanted.recursive && wanted.ids == ids(0, 7));
        assert_eq!(mapped, mount(&["bind"]));
    }

    #[test]
    fn a_mapping_without_ids_is_refused() {
        assert_eq!(take(&mut mount(&["idmap"]), &IdMap::default()), Err(NoIds));
    }
}
