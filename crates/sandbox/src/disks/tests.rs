//! Disks of a VM that only writes down what it is asked for.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use kata_protocol::agent::Storage;
use kata_storage::RootfsMount;
use kata_storage::block::{DiskError, DiskImage};
use kata_vmm::{Disk, DiskAddress, DiskHotplug, VmmError};
use oci_spec::runtime::{MountBuilder, Spec};
use rustix::mount::{self, MountFlags, UnmountFlags};

use super::{DiskFailure, Disks, Manner, Roots, Wanted};
use crate::ContainerId;
use crate::foreseen::Foreseen;
use crate::host::Sources;

/// A VM that writes down what it is asked for, and holds the files.
#[derive(Default)]
struct Vm {
    asked: Mutex<Vec<String>>,
    disks: Mutex<Vec<Disk>>,
    /// The guest lets go of nothing.
    clings: Mutex<bool>,
    stay: HashSet<String>,
}

impl Vm {
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

#[async_trait]
impl DiskHotplug for Vm {
    async fn add_disk(&self, disk: Disk) -> Result<DiskAddress, VmmError> {
        let access = if disk.read_only { "ro" } else { "rw" };
        self.asked.lock().unwrap().push(format!("add {} {access}", disk.id));
        let address = DiskAddress::Pci(format!("02/{}", disk.id));
        self.disks.lock().unwrap().push(disk);
        Ok(address)
    }

    async fn remove_disk(&self, id: &str) -> Result<(), VmmError> {
        self.asked.lock().unwrap().push(format!("remove {id}"));
        if *self.clings.lock().unwrap() {
            return Err(VmmError::DiskInUse { id: id.to_owned(), deadline: Duration::from_secs(1) });
        }
        if self.stay.contains(id) {
            return Err(VmmError::DiskStays { id: id.to_owned() });
        }
        self.disks.lock().unwrap().retain(|disk| disk.id != id);
        Ok(())
    }

    async fn resize_disk(&self, id: &str, bytes: u64) -> Result<(), VmmError> {
        self.asked.lock().unwrap().push(format!("resize {id} {bytes}"));
        Ok(())
    }

    fn disk_address(&self, id: &str) -> Option<DiskAddress> {
        Some(DiskAddress::Scsi { id: 0, lun: u16::try_from(id.len()).unwrap() })
    }
}

fn cid(id: &str) -> ContainerId {
    id.parse().unwrap()
}

fn disks() -> Disks {
    Disks::new(Manner::of(&kata_config::BlockDevices::default()))
}

fn image(dir: &Path, name: &str, read_only: bool) -> DiskImage {
    let path = dir.join(name);
    File::options().create(true).append(true).open(&path).unwrap();
    DiskImage::at(path, read_only)
}

#[tokio::test]
async fn a_disk_of_two_containers_is_plugged_in_once_and_taken_out_with_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let (vm, disks, data) = (Vm::default(), disks(), image(dir.path(), "data", false));
    let first = disks.attach(&cid("a"), &data, &vm).await.unwrap();
    assert_eq!(disks.attach(&cid("b"), &data, &vm).await.unwrap(), first);
    disks.attach(&cid("b"), &data, &vm).await.unwrap();
    disks.detach(&cid("a"), Some(&vm)).await;
    assert_eq!(vm.asked(), ["add disk-1 rw"]);
    disks.detach(&cid("b"), Some(&vm)).await;
    disks.detach(&cid("b"), Some(&vm)).await;
    assert_eq!(vm.asked(), ["remove disk-1"]);
    disks.attach(&cid("c"), &data, &vm).await.unwrap();
    assert_eq!(vm.asked(), ["add disk-2 rw"]);
}

#[tokio::test]
async fn a_writable_disk_of_another_pod_is_refused_and_a_read_only_one_is_shared() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (Vm::default(), Vm::default());
    let (ours, theirs) = (disks(), disks());
    let (data, layer) = (image(dir.path(), "data", false), image(dir.path(), "layer", true));
    ours.attach(&cid("a"), &layer, &one).await.unwrap();
    theirs.attach(&cid("a"), &layer, &other).await.unwrap();
    ours.attach(&cid("a"), &data, &one).await.unwrap();
    let refused = theirs.attach(&cid("b"), &data, &other).await;
    assert!(matches!(refused, Err(DiskFailure::Disk(DiskError::InUse { .. }))), "{refused:?}");
    theirs.detach(&cid("b"), Some(&other)).await;
    ours.detach(&cid("a"), Some(&one)).await;
    theirs.attach(&cid("b"), &data, &other).await.unwrap();
    assert_eq!(other.asked(), ["add disk-1 ro", "add disk-2 rw"]);
}

#[tokio::test]
async fn a_disk_that_is_read_only_in_the_pod_is_not_given_to_write() {
    let dir = tempfile::tempdir().unwrap();
    let (vm, disks) = (Vm::default(), disks());
    disks.attach(&cid("a"), &image(dir.path(), "data", true), &vm).await.unwrap();
    let refused = disks.attach(&cid("b"), &image(dir.path(), "data", false), &vm).await;
    assert!(matches!(refused, Err(DiskFailure::ReadOnly { .. })));
    disks.detach(&cid("b"), Some(&vm)).await;
    assert_eq!(vm.asked(), ["add disk-1 ro"], "the other one's disk stays");
}

#[tokio::test]
async fn a_direct_assigned_volume_is_resized_by_its_own_requests_only() {
    let dir = tempfile::tempdir().unwrap();
    let (vm, disks) = (Vm::default(), disks());
    let given = image(dir.path(), "given", false);
    let file = File::open(image(dir.path(), "assigned", false).path).unwrap();
    let assigned =
        DiskImage { found: Some(OwnedFd::from(file).into()), ..image(dir.path(), "assigned", false) };
    for image in [&given, &assigned] {
        disks.attach(&cid("a"), image, &vm).await.unwrap();
        let slot = disks.table().slots[&image.key().unwrap()].clone();
        slot.lock().await.grow(4096, &vm).await.unwrap();
    }
    assert_eq!(vm.asked(), ["add disk-1 rw", "resize disk-1 4096", "add disk-2 rw"]);
}

/// The next container got the address of a disk that the guest may let go of at any moment.
#[tokio::test]
async fn a_disk_that_is_leaving_is_taken_out_and_plugged_in_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (vm, disks, data) = (Vm::default(), disks(), image(dir.path(), "data", false));
    disks.attach(&cid("a"), &data, &vm).await.unwrap();
    *vm.clings.lock().unwrap() = true;
    disks.detach(&cid("a"), Some(&vm)).await;
    assert_eq!(disks.name(&data).await, None, "it is nobody's any more");
    let refused = disks.attach(&cid("b"), &data, &vm).await;
    assert!(matches!(refused, Err(DiskFailure::Leaving { .. })), "{refused:?}");
    disks.detach(&cid("b"), Some(&vm)).await;
    *vm.clings.lock().unwrap() = false;
    disks.attach(&cid("c"), &data, &vm).await.unwrap();
    let asked = vm.asked();
    assert_eq!(
        asked,
        [
            "add disk-1 rw",
            "remove disk-1",
            "remove disk-1",
            "remove disk-1",
            "remove disk-1",
            "add disk-2 rw"
        ]
    );
}

#[tokio::test]
async fn a_disk_of_the_vms_start_is_not_plugged_in_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (disks, data) = (disks(), image(dir.path(), "data", false));
    let missing = DiskImage::at(dir.path().join("missing"), true);
    let planned = disks.planned(&[data.clone(), missing, data.clone()]);
    let vm = Vm { stay: planned.iter().map(|disk| disk.id.clone()).collect(), ..Vm::default() };
    assert_eq!(planned.len(), 1);
    for _ in 0..2 {
        let address = disks.attach(&cid("a"), &data, &vm).await.unwrap();
        assert_eq!(address, DiskAddress::Scsi { id: 0, lun: 6 });
        disks.detach(&cid("a"), Some(&vm)).await;
    }
    assert_eq!(vm.asked(), ["remove disk-1", "remove disk-1"]);
}

#[tokio::test]
async fn nothing_is_remembered_of_disks_that_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (vm, disks) = (Vm::default(), disks());
    for round in 0..20 {
        let data = image(dir.path(), &round.to_string(), false);
        disks.attach(&cid("a"), &data, &vm).await.unwrap();
        disks.detach(&cid("a"), if round % 2 == 0 { Some(&vm) } else { None }).await;
    }
    let table = disks.table();
    assert!(table.slots.is_empty() && table.held.is_empty());
}

fn sources(mounts: Vec<RootfsMount>) -> Sources {
    Sources { bundle: "/bundle".into(), rootfs: mounts, spec: Spec::default() }
}

fn on_disks(layers: &Path) -> Roots<'_> {
    Roots { layers: Some(layers), ..Roots::default() }
}

fn mount(fs_type: &str, source: &Path, options: &[&str]) -> RootfsMount {
    let options = options.iter().map(|option| (*option).to_owned()).collect();
    RootfsMount { fs_type: fs_type.to_owned(), source: source.to_owned(), options, ..Default::default() }
}

#[tokio::test]
async fn the_guest_is_told_of_layers_then_of_what_is_made_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let layer = image(dir.path(), "layer", true).path;
    let list = vec![
        mount("erofs", &layer, &["ro", "loop"]),
        mount("format/overlay", Path::new("overlay"), &["lowerdir={{ mount 0 }}"]),
    ];
    let (vm, disks) = (Vm::default(), disks());
    let layers = disks.layers();
    let wanted = Wanted::of(&cid("c"), &mut sources(list), on_disks(&layers)).unwrap();
    assert_eq!(wanted.root().unwrap(), Path::new("/run/kata-containers/c/rootfs"));
    let told = wanted.attach(&cid("c"), &disks, Some(&vm)).await.unwrap();
    let line = |storage: &Storage| {
        let Storage { driver, source, fstype, mount_point, .. } = storage;
        format!("{driver} {source} {fstype} {mount_point}")
    };
    assert_eq!(
        told.storages.iter().map(line).collect::<Vec<_>>(),
        [
            "blk 02/disk-1 erofs /run/kata-containers/sandbox/layers/1/0",
            "ephemeral tmpfs tmpfs /run/kata-containers/c/writable",
            "overlayfs overlay overlay /run/kata-containers/c/rootfs",
        ]
    );
    assert_eq!(
        told.storages[2].driver_options[1],
        "io.katacontainers.volume.overlayfs.create_directory=/run/kata-containers/c/writable/work"
    );
}

/// With the mounts, as the sources of the container `c`.
fn foreseen(mounts: Vec<RootfsMount>, spec: Spec, layers: Option<&Path>) -> (Vec<String>, bool) {
    let disks = disks();
    let sources = Sources { spec, ..sources(mounts) };
    let roots = Roots { layers, ..Roots::default() };
    let Foreseen { disks, is_on_disks } = Foreseen::of(&cid("c"), sources, roots, &disks);
    (disks.into_iter().map(|disk| disk.id).collect(), is_on_disks)
}

#[test]
fn a_container_on_disks_needs_no_shared_directory() {
    let dir = tempfile::tempdir().unwrap();
    let root = || vec![mount("erofs", &image(dir.path(), "layer", true).path, &["ro", "loop"])];
    let layers = Some(Path::new("/layers"));
    assert_eq!(foreseen(root(), Spec::default(), layers), (vec!["disk-1".to_owned()], true));
    let mut bound = Spec::default();
    let bind = MountBuilder::default().destination("/data").typ("bind").source("/srv").build().unwrap();
    bound.set_mounts(Some(vec![bind]));
    assert_eq!(foreseen(root(), bound, layers), (vec!["disk-1".to_owned()], false));
    assert_eq!(
        foreseen(vec![mount("bind", dir.path(), &["rbind"])], Spec::default(), layers),
        (vec![], false)
    );
}

#[test]
fn nothing_is_foreseen_of_what_is_going_to_be_refused() {
    let dir = tempfile::tempdir().unwrap();
    let root = vec![mount("ext4", &image(dir.path(), "image", false).path, &["loop"])];
    assert_eq!(foreseen(root, Spec::default(), None), (vec![], false));
}

#[tokio::test]
async fn without_hot_plug_the_configuration_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path(), "image", false).path;
    let list = vec![mount("ext4", &image, &["loop"])];
    let wanted = Wanted::of(&cid("c"), &mut sources(list.clone()), on_disks(Path::new("/l"))).unwrap();
    let error = wanted.attach(&cid("c"), &disks(), None).await.unwrap_err().to_string();
    assert!(error.contains("disable_block_device_use"), "{error}");
    let error = Wanted::of(&cid("c"), &mut sources(list), Roots::default()).unwrap_err().to_string();
    assert!(error.contains("disable_block_device_use"), "{error}");
}

/// Annotated as containerd does.
fn named(list: Vec<RootfsMount>, image: &str) -> Sources {
    let mut sources = sources(list);
    let name = "io.kubernetes.cri.image-name".to_owned();
    sources.spec.set_annotations(Some([(name, image.to_owned())].into()));
    sources
}

#[tokio::test]
async fn the_guest_is_told_which_image_to_pull() {
    // `{"volume_type":"image_guest_pull","image_pull":{"metadata":{"k":"v"}}}`
    let option = "io.katacontainers.volume=eyJ2b2x1bWVfdHlwZSI6ImltYWdlX2d1ZXN0X3B1bGwiLCJpbWFnZV9wdWxsIjp7Im1ldGFkYXR\
                  hIjp7ImsiOiJ2In19fQ==";
    let list = vec![mount("fuse.nydus-overlayfs", Path::new("overlay"), &["lowerdir=/a", option])];
    let wanted = Wanted::of(&cid("c"), &mut named(list, "r:5000/a:1"), Roots::default()).unwrap();
    let told = wanted.attach(&cid("c"), &disks(), None).await.unwrap();
    let [storage] = &told.storages[..] else { panic!("one storage, not {:?}", told.storages) };
    assert_eq!((storage.driver.as_str(), storage.source.as_str()), ("image_guest_pull", "r:5000/a:1"));
    assert_eq!(storage.mount_point, "/run/kata-containers/c/rootfs");
    assert_eq!(storage.driver_options, [r#"image_guest_pull={"metadata":{"k":"v"}}"#]);
}

#[test]
fn every_image_is_pulled_in_the_guest_if_that_is_forced() {
    let forced = Roots { guest_pull: true, ..Roots::default() };
    let list = || vec![mount("bind", Path::new("/"), &["rbind"])];
    let wanted = Wanted::of(&cid("c"), &mut named(list(), "a:1"), forced).unwrap();
    assert_eq!(wanted.root().unwrap(), Path::new("/run/kata-containers/c/rootfs"));
    let refused = Wanted::of(&cid("c"), &mut sources(list()), forced).unwrap_err().to_string();
    assert!(refused.contains("io.kubernetes.cri.image-name"), "{refused}");
}

/// With a volume on a server that was away, requests for other containers were not answered either.
#[tokio::test]
async fn a_file_system_that_does_not_answer_holds_up_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    // One whose server never answers.
    let server = File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
    let options = CString::new(options).unwrap();
    let mounted = mount::mount("silent", dir.path(), "fuse", MountFlags::empty(), options.as_c_str());
    if let Err(error) = mounted {
        return println!("skipped: only root can mount: {error}");
    }
    let (vm, disks) = (Vm::default(), disks());
    let (data, container) = (DiskImage::at(dir.path().join("data"), false), cid("a"));
    let something_else = async { drop(server) };
    let (attached, ()) = tokio::join!(biased; disks.attach(&container, &data, &vm), something_else);
    mount::unmount(dir.path(), UnmountFlags::DETACH).unwrap();
    assert!(matches!(attached, Err(DiskFailure::Disk(DiskError::Open { .. }))), "{attached:?}");
}
