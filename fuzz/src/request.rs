//! What the agent does with a request before it starts a jail, and what must be true of it.

use std::path::{Component, Path};

use kata_agent::fuzzing;
use kata_protocol::agent::{Device, Storage};
use kata_protocol::oci::{LinuxResources, Process, Spec};
use kata_protocol::types::{ARPNeighbor, Interface, Route};
use kata_seccomp::Program;
use protobuf::Message;

use crate::{device_machine, seccomp_machine};

/// A container is made of this.
pub fn container(id: &str, spec: &Spec, storages: &[Storage]) {
    container_id(id);
    storages.iter().for_each(storage);
    for owns_guest in [true, false] {
        let mut spec = spec.clone();
        let Ok(settings) = fuzzing::adapt_spec(&mut spec, owns_guest) else { continue };
        for file in settings.keys() {
            assert!(is_below(file, "/proc/sys"), "{} is no kernel setting", file.display());
        }
        assert!(owns_guest || settings.is_empty());
        adapted(&spec);
    }
}

fn adapted(spec: &Spec) {
    assert!(!spec.Process.Cwd.is_empty() && !spec.Process.Args.is_empty());
    let hooks = &spec.Hooks;
    let hosts = [&hooks.Prestart, &hooks.CreateRuntime, &hooks.Poststart, &hooks.Poststop];
    assert!(hosts.iter().all(|hooks| hooks.is_empty()), "hooks of the host are run in the guest");
    assert!(spec.Linux.Namespaces.iter().all(|namespace| namespace.Type != "network"));
    resources(&spec.Linux.Resources);
    if let Some(profile) = spec.Linux.Seccomp.as_ref()
        && let Ok(program) = Program::compile(profile)
    {
        seccomp_machine::verify(&program.instructions);
    }
    for mount in &spec.Mounts {
        mount_options(&mount.options);
    }
    let plan = spec.write_to_bytes().expect("what was read can be written");
    assert_eq!(&Spec::parse_from_bytes(&plan).expect("what was written can be read"), spec);
}

/// An interface is configured.
pub fn interface(asked: &Interface) {
    assert!(fuzzing::asked_names(asked).unwrap_or_default().iter().all(|name| is_interface(name)));
    for (address, length) in fuzzing::asked_addresses(asked).unwrap_or_default() {
        assert!(length <= if address.is_ipv6() { 128 } else { 32 }, "{address}/{length}");
    }
}

/// A route is made.
pub fn route(asked: &Route) {
    if let Some([route, sent]) = fuzzing::asked_route(asked) {
        assert_eq!(route, sent, "the kernel is asked for another route");
    }
}

/// A neighbour is added.
pub fn neighbor(asked: &ARPNeighbor) {
    assert!(fuzzing::asked_neighbor(asked).is_none_or(|device| is_interface(&device)));
}

fn is_interface(name: &str) -> bool {
    (1..16).contains(&name.len()) && !name.contains(['/', '\0', ' '])
}

/// A process is added.
pub fn process(process: &mut Process) {
    fuzzing::adapt_process(process);
    assert!(!process.Cwd.is_empty());
}

/// Limits are set.
pub fn resources(resources: &LinuxResources) {
    for (file, _) in fuzzing::cgroup_settings(resources).unwrap_or_default() {
        let mut parts = Path::new(&file).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        assert!(plain && !file.contains('/'), "{file:?} is no file of a cgroup");
    }
    if let Ok(Some(program)) = fuzzing::device_program(&resources.Devices) {
        device_machine::verify(&program);
    }
}

/// A container's name becomes that of folders.
pub fn container_id(id: &str) {
    if let Some(folder) = fuzzing::container_folder(id) {
        assert!(
            folder.file_name() == Some(id.as_ref()) && folder.parent() == Some("/sys/fs/cgroup".as_ref())
        );
    }
    let _ = fuzzing::is_exec_id(id);
}

/// Something is mounted for the container.
pub fn storage(storage: &Storage) {
    let (flags, data) = fuzzing::storage_options(&storage.options);
    let twice = [&storage.options[..], &storage.options].concat();
    assert_eq!(fuzzing::storage_options(&twice).0, flags);
    assert!(data.split(',').all(|part| !part.is_empty()) || data.is_empty());
    block_device(&storage.driver, &storage.source);
}

fn block_device(driver: &str, address: &str) {
    for driver in [driver, "blk", "scsi", "nvdimm"] {
        if let Some(node) = fuzzing::block_node(driver, address) {
            assert!(is_below(&node, "/dev"), "{} is no device", node.display());
        }
    }
}

/// Disks become devices of a container: the guest's numbers stand where the host's stood.
///
/// # Panics
/// Something else has changed.
pub fn devices(spec: &Spec, asked: &[Device]) {
    asked.iter().for_each(|device| block_device(&device.type_, &device.id));
    let numbered = asked.iter().zip(1000..);
    let disks: Vec<_> = numbered.map(|(device, minor)| (device.clone(), 259, minor)).collect();
    let mut given = spec.clone();
    if !fuzzing::give_disks(&mut given, &disks) {
        return;
    }
    let (before, after) = (&spec.Linux.Devices, &given.Linux.Devices);
    assert_eq!(before.len(), after.len());
    for (before, after) in before.iter().zip(after) {
        let is_disk = asked.iter().any(|disk| disk.container_path == before.Path) && before.Type == "b";
        assert!(if is_disk { after.Major == 259 } else { before == after });
    }
    let [before, after] = [spec, &given].map(|spec| &spec.Linux.Resources.Devices);
    assert!(after.len() >= before.len());
    if asked.is_empty() {
        assert_eq!(before, after);
    }
}

/// Options of a mount in a container.
///
/// # Panics
/// They contradict themselves, or something of them is lost or new.
pub fn mount_options(options: &[String]) {
    let Some(read) = fuzzing::mount_options(options) else { return };
    for (set, clear, propagation) in read.changes {
        let times = libc::MOUNT_ATTR__ATIME;
        assert_eq!(set & clear & !times, 0, "{options:?} sets what it clears");
        assert!(set & times == 0 || clear & times == times, "{options:?} mixes two kinds of access times");
        assert!(
            [libc::MOUNT_ATTR_RELATIME, libc::MOUNT_ATTR_NOATIME, libc::MOUNT_ATTR_STRICTATIME]
                .contains(&(set & times))
        );
        let kinds = [0, libc::MS_SHARED, libc::MS_SLAVE, libc::MS_PRIVATE, libc::MS_UNBINDABLE];
        assert!(kinds.contains(&propagation));
    }
    let mut left = options.iter();
    for (name, value) in &read.data {
        let whole = value.map_or_else(|| (*name).to_owned(), |value| format!("{name}={value}"));
        assert!(left.any(|option| *option == whole), "{whole:?} is not what was asked for");
    }
    let twice = [options, options].concat();
    let again = fuzzing::mount_options(&twice).expect("each was understood");
    assert_eq!((again.changes, again.data.len()), (read.changes, 2 * read.data.len()));
}

fn is_below(path: &Path, folder: &str) -> bool {
    let below = path.strip_prefix(folder).ok().filter(|rest| !rest.as_os_str().is_empty());
    below.is_some_and(|rest| rest.components().all(|part| matches!(part, Component::Normal(_))))
}
