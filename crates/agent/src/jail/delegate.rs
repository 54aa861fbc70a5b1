//! A container that shares out its own cgroup, as one with a container engine in it does.
//!
//! A cgroup that gives controllers to those below it has no processes of its own (Linux's
//! `admin-guide/cgroup-v2.rst`, "No Internal Process Constraint"). An engine in a container finds itself in such a place
//! unless it has moved everything down before; here the first process begins one step below, and those that are added
//! later come to it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use kata_protocol::oci;
use rustix::fs::{AtFlags, Mode, OFlags, Uid, chownat, mkdirat, openat};
use rustix::io::Errno;

use super::error::{Named, Result};
use super::namespaces;
use super::plan::DELEGATED;

/// The cgroup of the container's own processes; engines' images use this name, too.
const OWN: &str = "init";

/// What a cgroup's new owner may write to, from cgroup-v2.rst, "Model of Delegation".
const GIVEN: [&str; 4] = ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"];

/// Whether the container shares out its cgroup.
pub(super) fn is_wanted(mounts: &[oci::Mount]) -> bool {
    mounts.iter().any(|mount| mount.options.iter().any(|option| option == DELEGATED))
}

/// Moves this process, which has just made its cgroup namespace, one step below.
pub(super) fn make_room(cgroup: &OwnedFd) -> Result<()> {
    match mkdirat(cgroup, OWN, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        made => made.step("make a cgroup for the container's own processes")?,
    }
    let procs =
        openat(cgroup, format!("{OWN}/cgroup.procs"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    let moved = procs.map_err(Into::into).and_then(|procs| File::from(procs).write_all(b"0"));
    moved.step("move into the cgroup of the container's own processes")
}

/// Lets the container's root make cgroups below the container's own, if that is in sight and can be written to.
pub(super) fn give_to_root(spec: &oci::Spec, cgroup: &OwnedFd) -> Result<()> {
    let writable = |mount: &&oci::Mount| {
        mount.type_.starts_with("cgroup") && !mount.options.iter().any(|option| option == "ro")
    };
    let own = namespaces::is_own(&spec.Linux, "cgroup");
    let root = root_of(&spec.Linux.UIDMappings);
    let (Some(root), true) = (root, own && spec.Mounts.iter().any(|mount| writable(&mount))) else {
        return Ok(());
    };
    let give = |name: &&str| -> io::Result<()> {
        Ok(chownat(cgroup, *name, Some(Uid::from_raw(root)), None, AtFlags::EMPTY_PATH)?)
    };
    GIVEN.iter().try_for_each(give).step("give the cgroup to the container's root")
}

/// What the container's root is outside.
fn root_of(mappings: &[oci::LinuxIDMapping]) -> Option<u32> {
    mappings.iter().find(|mapping| mapping.ContainerID == 0 && mapping.Size > 0).map(|mapping| mapping.HostID)
}
