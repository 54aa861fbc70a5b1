//! Disks that are devices in a container (Kubernetes' `volumeMode: Block`, block devices of `linux.devices`).
//!
//! The specification has the host's numbers, in its devices and in the rules for them; the guest has others.

use std::time::Duration;

use kata_protocol::agent::Device;
use kata_protocol::oci::{LinuxDevice, LinuxDeviceCgroup, Mount, Spec};

use super::privilege::is_privileged;
use crate::block::{self, Address, BLK, BlockError, NVDIMM, Node, SCSI};

/// The word by which a device may only be read.
const READ_ONLY: &str = "ro";

/// A device cannot be given to a container.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    /// The agent has no such driver.
    #[error(
        "Device driver {kind:?} of {path} is not supported by this agent; it has {BLK}, {SCSI} and {NVDIMM}"
    )]
    Driver { kind: String, path: String },
    /// It is not in the specification.
    #[error("The container's specification has no block device {path}; add it to linux.devices")]
    Unknown { path: String },
    /// The disk.
    #[error(transparent)]
    Block(#[from] BlockError),
}

type Result<T> = std::result::Result<T, DeviceError>;

/// Gives a container its disks, which must appear within `limit`.
pub(crate) async fn give(spec: &mut Spec, asked: &[Device], owns_guest: bool, limit: Duration) -> Result<()> {
    let addresses = asked.iter().map(address).collect::<Result<Vec<_>>>()?;
    let nodes = block::arrival(&addresses, limit).await?;
    let disks: Vec<_> = asked.iter().zip(nodes).map(|(asked, node)| Disk { asked, node }).collect();
    let has_users = spec.Linux.Namespaces.iter().any(|namespace| namespace.Type == "user");
    translate(spec, &disks)?;
    if has_users || (owns_guest && is_privileged(spec)) {
        bind_all(spec, &disks);
    }
    Ok(())
}

/// Upstream's runtimes name a disk on the PCI bus or of a SCSI controller in `id`, any other by its path in the guest.
fn address(asked: &Device) -> Result<Address> {
    let text = match asked.type_.as_str() {
        BLK | SCSI if !asked.id.is_empty() => &asked.id,
        BLK | NVDIMM => &asked.vm_path,
        SCSI => &asked.id,
        kind => {
            let (kind, path) = (kind.to_owned(), asked.container_path.clone());
            return Err(DeviceError::Driver { kind, path });
        }
    };
    Ok(Address::new(&asked.type_, text)?)
}

struct Disk<'a> {
    asked: &'a Device,
    node: Node,
}

impl Disk<'_> {
    fn is(&self, device: &LinuxDevice) -> bool {
        device.Type == "b" && device.Path == self.asked.container_path
    }

    fn is_read_only(&self) -> bool {
        self.asked.options.iter().any(|option| option == READ_ONLY)
    }

    /// The rule that is for this disk what `rule` is for the host's.
    fn rule(&self, rule: &LinuxDeviceCgroup) -> LinuxDeviceCgroup {
        let (major, minor) = self.node.numbers();
        let mut access = rule.Access.clone();
        if rule.Allow && self.is_read_only() {
            access.retain(|letter| letter != 'w');
        }
        let (kind, allow) = ("b".to_owned(), rule.Allow);
        LinuxDeviceCgroup {
            Allow: allow,
            Type: kind,
            Major: major.into(),
            Minor: minor.into(),
            Access: access,
            ..Default::default()
        }
    }
}

/// Puts the guest's numbers in place of the host's. All at once: one disk may have in the guest the numbers that another
/// has on the host.
fn translate(spec: &mut Spec, disks: &[Disk<'_>]) -> Result<()> {
    let linux = spec.Linux.mut_or_insert_default();
    let mut hosts = Vec::new();
    for disk in disks {
        let device = linux.Devices.iter().find(|device| disk.is(device));
        let unknown = || DeviceError::Unknown { path: disk.asked.container_path.clone() };
        let device = device.ok_or_else(unknown)?;
        hosts.push(((device.Major, device.Minor), disk));
    }
    for device in &mut linux.Devices {
        if let Some(disk) = disks.iter().find(|disk| disk.is(device)) {
            let (major, minor) = disk.node.numbers();
            (device.Major, device.Minor) = (major.into(), minor.into());
        }
    }
    if let Some(resources) = linux.Resources.as_mut() {
        let rules = std::mem::take(&mut resources.Devices);
        resources.Devices = rules.into_iter().flat_map(|rule| translated(rule, &hosts)).collect();
    }
    Ok(())
}

/// A rule for one disk of the host is for that of the guest. One for many of the host's devices stays, and the disks among
/// them get it, too.
fn translated(rule: LinuxDeviceCgroup, hosts: &[((i64, i64), &Disk<'_>)]) -> Vec<LinuxDeviceCgroup> {
    let concerns = |(major, minor): (i64, i64)| {
        rule.Type == "b" && [-1, major].contains(&rule.Major) && [-1, minor].contains(&rule.Minor)
    };
    let concerned = hosts.iter().filter(|(host, _)| concerns(*host));
    let of_disks: Vec<_> = concerned.map(|(_, disk)| disk.rule(&rule)).collect();
    let names_one = rule.Major != -1 && rule.Minor != -1;
    let kept = if names_one && !of_disks.is_empty() { None } else { Some(rule) };
    kept.into_iter().chain(of_disks).collect()
}

/// Where a container cannot have nodes of its own, it gets the guest's: in a user namespace, or if its `/dev` is the guest's.
fn bind_all(spec: &mut Spec, disks: &[Disk<'_>]) {
    spec.Linux.mut_or_insert_default().Devices.retain(|device| !disks.iter().any(|disk| disk.is(device)));
    for Disk { asked, node } in disks {
        spec.Mounts.push(Mount {
            destination: asked.container_path.clone(),
            source: node.path.to_string_lossy().into_owned(),
            type_: "bind".to_owned(),
            options: vec!["bind".to_owned()],
            ..Default::default()
        });
    }
}

/// What becomes of a specification, for fuzz targets.
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing {
    use super::{Device, Disk, Node, Spec};

    /// Whether each disk is in the specification.
    pub(crate) fn translate(spec: &mut Spec, disks: &[(Device, u32, u32)]) -> bool {
        let disks = disks.iter().map(|(asked, major, minor)| {
            let node = Node::new("/dev/vda", *major, *minor);
            Disk { asked, node }
        });
        let disks: Vec<_> = disks.collect();
        super::translate(spec, &disks).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use kata_protocol::oci::{Linux, LinuxResources};
    use protobuf::MessageField;

    use super::*;
    use crate::cgroup::devices::tests::rule;

    fn asked(path: &str, options: &[&str]) -> Device {
        Device {
            type_: BLK.to_owned(),
            container_path: path.to_owned(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            ..Default::default()
        }
    }

    fn device(path: &str, major: i64, minor: i64) -> LinuxDevice {
        LinuxDevice {
            Path: path.to_owned(),
            Type: "b".to_owned(),
            Major: major,
            Minor: minor,
            ..Default::default()
        }
    }

    fn spec(devices: Vec<LinuxDevice>, rules: Vec<LinuxDeviceCgroup>) -> Spec {
        let resources = LinuxResources { Devices: rules, ..Default::default() };
        let linux =
            Linux { Devices: devices, Resources: MessageField::some(resources), ..Default::default() };
        Spec { Linux: MessageField::some(linux), ..Default::default() }
    }

    fn numbers(spec: &Spec) -> Vec<(i64, i64)> {
        spec.Linux.Devices.iter().map(|device| (device.Major, device.Minor)).collect()
    }

    fn rules(spec: &Spec) -> Vec<(bool, i64, i64, &str)> {
        let rules = spec.Linux.Resources.Devices.iter();
        rules.map(|rule| (rule.Allow, rule.Major, rule.Minor, rule.Access.as_str())).collect()
    }

    #[test]
    fn disks_may_have_in_the_guest_each_others_numbers() {
        let devices = vec![device("/dev/a", 8, 0), device("/dev/b", 254, 0), device("/dev/c", 7, 7)];
        let given =
            vec![rule(true, "b", (8, 0), "rw"), rule(true, "b", (254, 0), "r"), rule(true, "c", (8, 0), "m")];
        let mut spec = spec(devices, given);
        let (a, b) = (asked("/dev/a", &[]), asked("/dev/b", &[]));
        let disks = [
            Disk { asked: &a, node: Node::new("/dev/vda", 254, 0) },
            Disk { asked: &b, node: Node::new("/dev/sda", 8, 0) },
        ];
        translate(&mut spec, &disks).expect("both are there");
        assert_eq!(numbers(&spec), [(254, 0), (8, 0), (7, 7)]);
        assert_eq!(rules(&spec), [(true, 254, 0, "rw"), (true, 8, 0, "r"), (true, 8, 0, "m")]);
    }

    #[test]
    fn a_rule_for_many_devices_holds_for_the_disk_too() {
        let given = vec![
            rule(false, "a", (-1, -1), "rwm"),
            rule(true, "b", (8, -1), "rwm"),
            rule(true, "b", (9, -1), "r"),
        ];
        let mut spec = spec(vec![device("/dev/a", 8, 0)], given);
        let a = asked("/dev/a", &[]);
        translate(&mut spec, &[Disk { asked: &a, node: Node::new("/dev/vda", 254, 0) }]).expect("is there");
        assert_eq!(
            rules(&spec),
            [(false, -1, -1, "rwm"), (true, 8, -1, "rwm"), (true, 254, 0, "rwm"), (true, 9, -1, "r")]
        );
    }

    #[test]
    fn a_read_only_disk_cannot_be_written_by_its_rules() {
        let mut spec = spec(vec![device("/dev/a", 8, 0)], vec![rule(true, "b", (8, 0), "rwm")]);
        let a = asked("/dev/a", &["ro"]);
        translate(&mut spec, &[Disk { asked: &a, node: Node::new("/dev/vda", 254, 0) }]).expect("is there");
        assert_eq!(rules(&spec), [(true, 254, 0, "rm")]);
    }

    #[test]
    fn a_disk_that_the_specification_lacks_is_named() {
        let mut spec = spec(vec![device("/dev/a", 8, 0)], Vec::new());
        let b = asked("/dev/b", &[]);
        let error = translate(&mut spec, &[Disk { asked: &b, node: Node::new("/dev/vda", 254, 0) }]);
        assert!(error.expect_err("no such device").to_string().contains("/dev/b"));
    }

    #[test]
    fn a_disk_is_bound_where_no_node_can_be_made() {
        let mut spec = spec(vec![device("/dev/a", 8, 0), device("/dev/b", 7, 0)], Vec::new());
        let a = asked("/dev/a", &[]);
        bind_all(&mut spec, &[Disk { asked: &a, node: Node::new("/dev/vda", 254, 0) }]);
        assert_eq!(numbers(&spec), [(7, 0)]);
        assert_eq!(
            (spec.Mounts[0].source.as_str(), spec.Mounts[0].destination.as_str()),
            ("/dev/vda", "/dev/a")
        );
    }

    #[test]
    fn a_driver_that_is_not_there_is_named() {
        let other = Device { type_: "vfio-pci".to_owned(), ..asked("/dev/vfio/1", &[]) };
        let error = address(&other).expect_err("no such driver").to_string();
        assert!(error.contains("vfio-pci") && error.contains("scsi"), "{error}");
    }
}
