//! Block devices of the host that a container is given: by `linux.devices`, as `volumeMode: Block` comes, or by a bind
//! mount of the device's node.
//!
//! A privileged container is given all devices of the host by their own names. Those are not meant: it has the guest's
//! own. A volume has a name of its own and is there for it, too.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
    Mount, Spec,
};
use rustix::fs::{major, makedev, minor};

use super::DiskImage;
use crate::volumes;

/// Where the kernel tells the names of block devices by their numbers.
const BY_NUMBER: &str = "/sys/dev/block";
/// Where their nodes are.
const NODES: &str = "/dev";

/// A block device of the host for a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockDevice {
    /// The device.
    pub disk: DiskImage,
    /// Its path in the container; there is an entry for it in `linux.devices`, with the host's number.
    pub container_path: PathBuf,
}

/// Why a device could not be given to a container.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The device has no node.
    #[error(
        "The block device {number} for {container_path:?} has no node in /dev: make one, or take it from the container's devices"
    )]
    NoNode {
        /// Its number.
        number: String,
        /// Where it should be in the container.
        container_path: PathBuf,
    },
    /// The specification cannot be changed.
    #[error("The container's devices cannot be described")]
    Spec(#[from] OciSpecError),
}

/// The block devices of the host in `spec`. Bind mounts of such devices become entries of `linux.devices`. Relative sources
/// are in `bundle`. What cannot be looked at is left for who mounts it.
///
/// # Errors
/// A device of the host has no node to open.
pub fn take_devices(spec: &mut Spec, bundle: &Path) -> Result<Vec<BlockDevice>, DeviceError> {
    binds_become_devices(spec, bundle)?;
    let Some(linux) = spec.linux() else { return Ok(Vec::new()) };
    let rules = rules(linux);
    let privileged = rules.iter().any(allows_all);
    let mut found = Vec::new();
    for device in linux.devices().iter().flatten().filter(|device| device.typ() == LinuxDeviceType::B) {
        let (Ok(major), Ok(minor)) = (u32::try_from(device.major()), u32::try_from(device.minor())) else {
            continue;
        };
        // What the host does not have may be a device of the guest's.
        let Some(name) = host_name(major, minor) else { continue };
        let is_node = |path: &PathBuf| number(path) == Some(makedev(major, minor));
        // A privileged container is told of all devices that the host has. A volume has a name that the host has not.
        if privileged && is_node(device.path()) {
            continue;
        }
        let path = [Path::new(NODES).join(name), device.path().clone()].into_iter().find(is_node);
        let path = path.ok_or_else(|| DeviceError::NoNode {
            number: format!("{major}:{minor}"),
            container_path: device.path().clone(),
        })?;
        let read_only = is_read_only(rules, device);
        let disk = DiskImage::at(path, read_only);
        found.push(BlockDevice { disk, container_path: device.path().clone() });
    }
    Ok(found)
}

fn rules(linux: &Linux) -> &[LinuxDeviceCgroup] {
    let resources = linux.resources().as_ref();
    resources.and_then(|resources| resources.devices().as_deref()).unwrap_or_default()
}

fn allows_all(rule: &LinuxDeviceCgroup) -> bool {
    rule.allow()
        && rule.typ().is_none_or(|kind| kind == LinuxDeviceType::A)
        && rule.major().is_none_or(|number| number < 0)
        && rule.minor().is_none_or(|number| number < 0)
}

/// Whether the container may not write to it: the last rule that names the device decides.
fn is_read_only(rules: &[LinuxDeviceCgroup], device: &LinuxDevice) -> bool {
    let names = |rule: &&LinuxDeviceCgroup| {
        rule.allow()
            && rule.typ() == Some(LinuxDeviceType::B)
            && rule.major() == Some(device.major())
            && rule.minor() == Some(device.minor())
    };
    let last = rules.iter().rfind(names);
    last.is_some_and(|rule| rule.access().as_ref().is_some_and(|access| !access.contains('w')))
}

/// The name of the block device of this number, if the host has it: `sda1`, `dm-0`.
fn host_name(major: u32, minor: u32) -> Option<String> {
    let text = fs::read_to_string(Path::new(BY_NUMBER).join(format!("{major}:{minor}/uevent"))).ok()?;
    text.lines().find_map(|line| line.strip_prefix("DEVNAME=")).map(str::to_owned)
}

/// The number of the block device that `path` is the node of.
fn number(path: &Path) -> Option<u64> {
    let metadata = fs::metadata(path).ok()?;
    metadata.file_type().is_block_device().then(|| metadata.rdev())
}

fn binds_become_devices(spec: &mut Spec, bundle: &Path) -> Result<(), DeviceError> {
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    let mut devices = Vec::new();
    mounts.retain(|mount| match bound_device(mount, bundle) {
        Some(device) => {
            devices.push((mount.clone(), device));
            false
        }
        None => true,
    });
    if devices.is_empty() {
        return Ok(());
    }
    spec.set_mounts(Some(mounts));
    let mut linux = spec.linux().clone().unwrap_or_default();
    for (mount, device) in devices {
        add_device(&mut linux, &mount, &device)?;
    }
    spec.set_linux(Some(linux));
    Ok(())
}

/// The block device that `mount` binds.
fn bound_device(mount: &Mount, bundle: &Path) -> Option<fs::Metadata> {
    if !volumes::is_bind(mount) {
        return None;
    }
    let metadata = fs::metadata(bundle.join(mount.source().as_ref()?)).ok()?;
    metadata.file_type().is_block_device().then_some(metadata)
}

fn add_device(linux: &mut Linux, mount: &Mount, device: &fs::Metadata) -> Result<(), DeviceError> {
    let (major, minor) = (i64::from(major(device.rdev())), i64::from(minor(device.rdev())));
    let entry = LinuxDeviceBuilder::default()
        .path(mount.destination().clone())
        .typ(LinuxDeviceType::B)
        .major(major)
        .minor(minor)
        .file_mode(device.mode() & 0o777)
        .uid(device.uid())
        .gid(device.gid())
        .build()?;
    let rule = LinuxDeviceCgroupBuilder::default()
        .allow(true)
        .typ(LinuxDeviceType::B)
        .major(major)
        .minor(minor)
        .access(if volumes::is_read_only(mount) { "rm" } else { "rwm" })
        .build()?;
    let mut devices = linux.devices().clone().unwrap_or_default();
    devices.push(entry);
    linux.set_devices(Some(devices));
    let mut resources = linux.resources().clone().unwrap_or_default();
    let mut rules = resources.devices().clone().unwrap_or_default();
    rules.push(rule);
    resources.set_devices(Some(rules));
    linux.set_resources(Some(resources));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use oci_spec::runtime::Spec;
    use rustix::fs::{major, minor};
    use serde_json::json;

    use super::{BlockDevice, number, take_devices};
    use crate::block::DiskImage;

    /// A block device of this machine, with its number.
    fn any_device() -> Option<(PathBuf, u32, u32)> {
        let names = fs::read_dir("/sys/class/block").ok()?.flatten().map(|entry| entry.file_name());
        let mut nodes = names.map(|name| Path::new("/dev").join(name));
        let node = nodes.find(|node| number(node).is_some());
        if node.is_none() {
            eprintln!("skipped: there is no block device");
        }
        let node = node?;
        let number = number(&node)?;
        Some((node, major(number), minor(number)))
    }

    fn spec(devices: &serde_json::Value, rules: &serde_json::Value, mounts: &serde_json::Value) -> Spec {
        let linux = json!({ "devices": devices, "resources": { "devices": rules } });
        serde_json::from_value(json!({ "ociVersion": "1.1.0", "linux": linux, "mounts": mounts })).unwrap()
    }

    fn found(path: &Path, read_only: bool, container_path: &str) -> BlockDevice {
        let disk = DiskImage::at(path.to_owned(), read_only);
        BlockDevice { disk, container_path: container_path.into() }
    }

    #[test]
    fn a_device_is_found_by_its_number_and_its_rule_says_whether_it_is_written_to() {
        let Some((node, major, minor)) = any_device() else { return };
        let device = json!([{ "path": "/dev/data", "type": "b", "major": major, "minor": minor }]);
        let deny = json!({ "allow": false, "access": "rwm" });
        for (access, read_only) in [("rwm", false), ("r", true), ("mr", true), ("mrw", false)] {
            let rule =
                json!({ "allow": true, "type": "b", "major": major, "minor": minor, "access": access });
            let mut spec = spec(&device, &json!([deny, rule]), &json!([]));
            let devices = take_devices(&mut spec, Path::new("/")).unwrap();
            assert_eq!(devices, [found(&node, read_only, "/dev/data")], "{access}");
        }
    }

    #[test]
    fn characters_and_devices_that_the_host_does_not_have_are_left() {
        let devices = json!([
            { "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229 },
            { "path": "/dev/none", "type": "b", "major": 3000, "minor": 1 },
        ]);
        assert_eq!(take_devices(&mut spec(&devices, &json!([]), &json!([])), Path::new("/")).unwrap(), []);
        assert_eq!(take_devices(&mut Spec::default(), Path::new("/")).unwrap(), []);
    }

    #[test]
    fn a_privileged_container_gets_its_volumes_and_not_the_hosts_devices() {
        let Some((node, major, minor)) = any_device() else { return };
        let devices = json!([
            { "path": node, "type": "b", "major": major, "minor": minor },
            { "path": "/dev/volume", "type": "b", "major": major, "minor": minor },
        ]);
        let mut privileged = spec(&devices, &json!([{ "allow": true, "access": "rwm" }]), &json!([]));
        let devices = take_devices(&mut privileged, Path::new("/")).unwrap();
        assert_eq!(devices, [found(&node, false, "/dev/volume")]);
    }

    #[test]
    fn a_bound_node_becomes_a_device_with_a_rule() {
        let Some((node, major, minor)) = any_device() else { return };
        let mounts = json!([
            { "destination": "/dev/data", "type": "bind", "source": node, "options": ["rbind", "ro"] },
            { "destination": "/etc", "type": "bind", "source": "/etc", "options": ["rbind"] },
        ]);
        let mut spec = spec(&json!([]), &json!([]), &mounts);
        let devices = take_devices(&mut spec, Path::new("/")).unwrap();
        assert_eq!(devices, [found(&node, true, "/dev/data")]);
        assert_eq!(spec.mounts().as_ref().unwrap().len(), 1);
        let linux = spec.linux().as_ref().unwrap();
        let device = &linux.devices().as_ref().unwrap()[0];
        assert_eq!((device.major(), device.minor()), (major.into(), minor.into()));
        let rules = linux.resources().as_ref().unwrap().devices().as_ref().unwrap();
        assert_eq!(rules[0].access().as_deref(), Some("rm"));
    }
}
