//! Devices, and containers that may do everything.
//!
//! A privileged container has the guest's devices, not the host's: managers list every node of the host's `/dev`, or none
//! (`privileged_without_host_devices`), and either way mean "all". It gets the guest's own `/dev`, where devices appear
//! that are made later, too. Any other container gets the devices that its specification names, which the guest must have.

use std::path::Path;

use kata_protocol::oci::{LinuxDevice, LinuxDeviceCgroup, LinuxNamespace, LinuxResources, Mount, Spec};

use crate::jail::plan::DELEGATED;

/// A device of the host cannot be reached from the guest.
#[derive(Debug, thiserror::Error)]
#[error(
    "The guest has no device for {path} ({kind} {major}:{minor}): a device of the host does not reach the guest by \
     linux.devices; leave it out"
)]
pub(crate) struct NoDevice {
    path: String,
    kind: &'static str,
    major: i64,
    minor: i64,
}

/// No manager gives these to a container that is not privileged, unless asked for each. (Managers may lack some of the
/// others themselves.)
const CAPABILITIES: [&str; 4] = ["CAP_SYS_ADMIN", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_MKNOD"];

/// The guest's devices by their numbers: `char/1:3`, `block/7:0`.
const DEVICES: &str = "/sys/dev";

/// Gives a container of this guest its devices.
pub(super) fn give_devices(spec: &mut Spec) -> Result<(), NoDevice> {
    if is_privileged(spec) {
        open_up(spec);
        return Ok(());
    }
    spec.Linux
        .iter()
        .flat_map(|linux| &linux.Devices)
        .try_for_each(|device| check(device, Path::new(DEVICES)))
}

/// All that matters is allowed, and nothing is hidden or all devices are allowed.
pub(super) fn is_privileged(spec: &Spec) -> bool {
    let (process, linux) = (spec.Process.get_or_default(), spec.Linux.get_or_default());
    let bounding = &process.Capabilities.get_or_default().Bounding;
    let has_all = CAPABILITIES.iter().all(|needed| bounding.iter().any(|name| name == needed));
    let hides_nothing = linux.MaskedPaths.is_empty() && linux.ReadonlyPaths.is_empty();
    has_all && (hides_nothing || allows_all(linux.Resources.get_or_default()))
}

fn allows_all(resources: &LinuxResources) -> bool {
    let is_all = |rule: &LinuxDeviceCgroup| {
        let all = ["r", "w", "m"].iter().all(|letter| rule.Access.contains(letter));
        rule.Allow && all && matches!(rule.Type.as_str(), "" | "a")
    };
    resources.Devices.last().is_some_and(is_all)
}

fn open_up(spec: &mut Spec) {
    for mount in spec.Mounts.iter_mut().filter(|mount| is_dev(mount)) {
        mount.type_ = "devtmpfs".to_owned();
        mount.source = "devtmpfs".to_owned();
        // The rest is about a file system of the container's own.
        mount.options = vec!["nosuid".to_owned()];
    }
    let cgroups = spec.Mounts.iter_mut().filter(|mount| matches!(mount.type_.as_str(), "cgroup" | "cgroup2"));
    let has_cgroups = cgroups.map(|mount| mount.options.push(DELEGATED.to_owned())).count() > 0;
    let linux = spec.Linux.mut_or_insert_default();
    linux.Devices.clear();
    linux.Resources.mut_or_insert_default().Devices =
        vec![LinuxDeviceCgroup { Allow: true, Access: "rwm".to_owned(), ..LinuxDeviceCgroup::default() }];
    // It sees its own cgroup, and what runs in it has to be told so: else an engine in it makes paths that are not there.
    if has_cgroups && linux.Namespaces.iter().all(|namespace| namespace.Type != "cgroup") {
        linux.Namespaces.push(LinuxNamespace { Type: "cgroup".to_owned(), ..LinuxNamespace::default() });
    }
}

fn is_dev(mount: &Mount) -> bool {
    Path::new(&mount.destination) == Path::new("/dev") && mount.type_ == "tmpfs"
}

/// Whether the guest has a device of these numbers; `devices` is [`DEVICES`].
fn check(device: &LinuxDevice, devices: &Path) -> Result<(), NoDevice> {
    let kind = match device.Type.as_str() {
        "b" => "block",
        "c" | "u" => "char",
        // A pipe, or what the jail refuses.
        _ => return Ok(()),
    };
    if devices.join(format!("{kind}/{}:{}", device.Major, device.Minor)).exists() {
        return Ok(());
    }
    Err(NoDevice { path: device.Path.clone(), kind, major: device.Major, minor: device.Minor })
}

#[cfg(test)]
mod tests {
    use kata_protocol::oci::{Linux, LinuxCapabilities, Process};
    use protobuf::MessageField;

    use super::*;

    fn rule(allow: bool, kind: &str, access: &str) -> LinuxDeviceCgroup {
        LinuxDeviceCgroup {
            Allow: allow,
            Type: kind.to_owned(),
            Access: access.to_owned(),
            ..Default::default()
        }
    }

    /// With these capabilities and device rules; `hides` some paths.
    fn container(capabilities: &[&str], rules: Vec<LinuxDeviceCgroup>, hides: bool) -> Spec {
        let bounding = capabilities.iter().map(|name| (*name).to_owned()).collect();
        let capabilities = LinuxCapabilities { Bounding: bounding, ..Default::default() };
        let resources = LinuxResources { Devices: rules, ..Default::default() };
        let linux = Linux {
            Resources: MessageField::some(resources),
            MaskedPaths: if hides { vec!["/proc/kcore".to_owned()] } else { Vec::new() },
            Devices: vec![LinuxDevice {
                Path: "/dev/sda".to_owned(),
                Type: "b".to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let mount = |to: &str, kind: &str, options: &[&str]| Mount {
            destination: to.to_owned(),
            type_: kind.to_owned(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            ..Default::default()
        };
        Spec {
            Process: MessageField::some(Process {
                Capabilities: MessageField::some(capabilities),
                ..Default::default()
            }),
            Linux: MessageField::some(linux),
            Mounts: vec![
                mount("/dev", "tmpfs", &["nosuid", "size=65536k"]),
                mount("/sys/fs/cgroup", "cgroup", &["rw"]),
            ],
            ..Default::default()
        }
    }

    #[test]
    fn a_container_with_all_devices_or_nothing_hidden_is_privileged() {
        let deny = || vec![rule(false, "a", "rwm")];
        let allow = || vec![rule(false, "", "rwm"), rule(true, "a", "rwm")];
        assert!(is_privileged(&container(&CAPABILITIES, allow(), true)));
        assert!(is_privileged(&container(&CAPABILITIES, deny(), false)), "privileged_without_host_devices");
        assert!(!is_privileged(&container(&CAPABILITIES, deny(), true)), "only all capabilities");
        assert!(!is_privileged(&container(&CAPABILITIES[1..], allow(), false)), "only all devices");
        assert!(!is_privileged(&container(&CAPABILITIES, vec![rule(true, "a", "r")], true)));
    }

    #[test]
    fn a_privileged_container_has_the_guests_devices_and_its_own_cgroups() {
        let mut spec = container(&CAPABILITIES, Vec::new(), false);
        give_devices(&mut spec).expect("nothing of the host is needed");
        assert!(spec.Linux.Devices.is_empty() && allows_all(&spec.Linux.Resources));
        assert_eq!(
            (spec.Mounts[0].type_.as_str(), spec.Mounts[0].options.join(",")),
            ("devtmpfs", "nosuid".into())
        );
        assert!(spec.Mounts[1].options.iter().any(|option| option == DELEGATED));
        assert_eq!(spec.Linux.Namespaces.iter().map(|own| own.Type.as_str()).collect::<Vec<_>>(), ["cgroup"]);
    }

    #[test]
    fn a_device_that_the_guest_lacks_is_named() {
        let guest = tempfile::tempdir().expect("temporary folder");
        std::fs::create_dir_all(guest.path().join("char/10:229")).expect("folder");
        let device = |kind: &str, major, minor| LinuxDevice {
            Path: "/dev/own".to_owned(),
            Type: kind.to_owned(),
            Major: major,
            Minor: minor,
            ..Default::default()
        };
        check(&device("c", 10, 229), guest.path()).expect("there");
        check(&device("p", 0, 0), guest.path()).expect("needs no device");
        let error = check(&device("b", 10, 229), guest.path()).expect_err("another kind").to_string();
        assert!(error.contains("/dev/own (block 10:229)"), "{error}");
    }
}
