//! What becomes of a container's limits, and what is read from the kernel's files, for fuzz targets.

use std::path::PathBuf;

use kata_protocol::oci::{LinuxDeviceCgroup, LinuxResources};

use super::{CGROUP_MOUNT, Cgroup, Hierarchy, devices, limits};

/// The program of device rules, if one is needed.
///
/// # Errors
/// As told to the user.
pub fn device_program(rules: &[LinuxDeviceCgroup]) -> Result<Option<Vec<u64>>, String> {
    devices::program(rules).map_err(|error| error.to_string())
}

/// Files of the cgroup, and what is written to each.
///
/// # Errors
/// As told to the user.
pub fn cgroup_settings(resources: &LinuxResources) -> Result<Vec<(String, String)>, String> {
    limits::settings(resources).map_err(|error| error.to_string())
}

/// A hierarchy with all controllers, used by no one.
pub(crate) fn hierarchy() -> Hierarchy {
    let controllers = ["cpu", "cpuset", "memory"].map(str::to_owned).to_vec();
    Hierarchy { root: CGROUP_MOUNT.into(), controllers }
}

/// The folder of a container of this name.
pub(crate) fn folder(id: &str) -> PathBuf {
    let Cgroup { path } = hierarchy().container(id);
    path
}
