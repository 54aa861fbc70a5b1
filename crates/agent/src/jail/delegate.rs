//! A container that shares out its own cgroup, as one with a container engine in it does.
//!
//! A cgroup that gives controllers to those below it has no processes of its own (Linux's
//! `admin-guide/cgroup-v2.rst`, "No Internal Process Constraint"). An engine in a container finds itself in such a place
//! unless it has moved everything down before; here the first process begins one step below, and those that are added
//! later come to it.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use kata_protocol::oci;
use rustix::fs::{Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;

use super::error::{Named, Result};
use super::plan::DELEGATED;

/// The cgroup of the container's own processes; engines' images use this name, too.
const OWN: &str = "init";

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
