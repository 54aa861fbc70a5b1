//! What the fuzz targets in `fuzz/` call: the agent's readers and compilers of what comes from outside, without the
//! system calls around them. Behind the feature `fuzzing`, and no interface for anybody else.

use std::collections::HashMap;
use std::path::PathBuf;

use kata_protocol::agent::Device;
use kata_protocol::oci::{Process, Spec};

pub use crate::cgroup::fuzzing::{cgroup_settings, device_program};
pub use crate::jail::fuzzing::{MountOrders, jail_answer, mount_options};
pub use crate::network::fuzzing::{asked_addresses, asked_names, asked_neighbor, asked_route};
pub use crate::storage::fuzzing::storage_options;

use crate::block::Address;
use crate::cgroup::fuzzing::{folder, hierarchy};
use crate::container::devices;
use crate::container::spec::{self, Surroundings};
use crate::id::{ContainerId, ExecId};
use crate::options::Options;

/// A line of `/proc/self/mountinfo`.
#[must_use]
pub fn mount_point(line: &str) -> Option<PathBuf> {
    crate::mountinfo::mount_point(line)
}

/// The folder of a container of this name, if it is one.
#[must_use]
pub fn container_folder(id: &str) -> Option<PathBuf> {
    id.parse::<ContainerId>().ok().map(|id| folder(id.as_str()))
}

/// Whether a further process can have this name.
#[must_use]
pub fn is_exec_id(id: &str) -> bool {
    id.parse::<ExecId>().is_ok()
}

/// Rewrites a specification for the guest, which is the agent's own or not; returns the settings for the whole guest,
/// by their files, and what was wrong with one.
///
/// # Errors
/// As told to the user.
pub fn adapt_spec(spec: &mut Spec, owns_guest: bool) -> Result<HashMap<PathBuf, String>, String> {
    let hierarchy = hierarchy();
    let surroundings = Surroundings { owns_guest, hierarchy: &hierarchy, terminal: false };
    let id = "fuzzed".parse::<ContainerId>().map_err(|error| error.to_string())?;
    let settings = spec::adapt(&id, spec, &surroundings).map_err(|error| error.to_string())?;
    let files =
        settings.into_iter().filter_map(|(name, value)| Some((crate::agent::sysctl_file(&name)?, value)));
    Ok(files.collect())
}

/// Rewrites a further process.
pub fn adapt_process(process: &mut Process) {
    spec::adapt_process(process);
}

/// The node in `/dev` that the address of a block device means, if it is one and names a node.
#[must_use]
pub fn block_node(driver: &str, address: &str) -> Option<PathBuf> {
    match Address::new(driver, address) {
        Ok(Address::Node(path)) => Some(path),
        _ => None,
    }
}

/// Gives a container disks that have these numbers in the guest; whether all of them are in its specification.
#[must_use]
pub fn give_disks(spec: &mut Spec, disks: &[(Device, u32, u32)]) -> bool {
    devices::fuzzing::translate(spec, disks)
}

/// The agent's options on the kernel's command line; what was not understood.
#[must_use]
pub fn kernel_command_line(line: &str) -> Vec<String> {
    Options::new(line, |_| None).complaints
}
