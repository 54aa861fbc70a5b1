//! Disks: command lines, and real QEMU processes that get and lose them.

use std::fs::{File, OpenOptions};

use serde::Serialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{any_fd, card, plan, real, real_mode_kernel, rendered};
use crate::plan::{
    Accelerator, BlockSize, Disk, DiskAio, DiskAttachment, DiskCache, DiskLimits, Nic, NicBackend, VmPlan,
};
use crate::qemu::disk::DiskError;
use crate::qemu::disks::Layout;
use crate::qemu::qmp::{Command, QmpError, QueryNamedBlockNodes};
use crate::qemu::{Qemu, launch};
use crate::vmm::{DiskAddress, DiskHotplug, NicHotplug, Vmm, VmmError};

const MIB: u64 = 1 << 20;

/// A file of 4 MiB of which nothing is written, without a name.
fn image(read_only: bool) -> std::os::fd::OwnedFd {
    let named = tempfile::NamedTempFile::new().unwrap();
    named.as_file().set_len(4 * MIB).unwrap();
    OpenOptions::new().read(true).write(!read_only).open(named.path()).unwrap().into()
}

fn disk(id: &str, attachment: DiskAttachment) -> Disk {
    Disk {
        id: id.to_owned(),
        file: image(false),
        read_only: false,
        attachment,
        cache: DiskCache::default(),
        aio: DiskAio::Threads,
        discard: true,
        limits: DiskLimits::default(),
        block_size: None,
        queues: 0,
        queue_size: 0,
    }
}

fn blk(id: &str) -> Disk {
    disk(id, DiskAttachment::Blk)
}

fn with_everything(id: &str) -> Disk {
    Disk {
        cache: DiskCache { direct: true, no_flush: true },
        aio: DiskAio::IoUring,
        limits: DiskLimits { bytes: 1_000_000, ops: 0 },
        block_size: Some(BlockSize { logical: 512, physical: 4096 }),
        queues: 2,
        queue_size: 128,
        ..blk(id)
    }
}

fn read_only(id: &str, attachment: DiskAttachment) -> Disk {
    Disk { file: image(true), read_only: true, discard: false, ..disk(id, attachment) }
}

/// The options of a plan with these disks that are about disks.
fn of_disks(disks: Vec<Disk>) -> String {
    let mut plan = plan(Accelerator::Tcg);
    plan.disks = disks;
    let text = rendered(plan);
    let lines =
        text.lines().filter(|line| line.contains('{') || line.contains("set=") || line.contains("-m "));
    lines
        .filter(|line| !line.contains("console") && !line.contains("\"mem0\""))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn a_disk_of_each_kind_is_on_the_command_line() {
    insta::assert_snapshot!(of_disks(vec![
        blk("root"),
        with_everything("data"),
        read_only("layer", DiskAttachment::Blk),
        disk("slow", DiskAttachment::Scsi),
    ]));
}

#[test]
fn persistent_memory_maps_the_file() {
    let text = of_disks(vec![read_only("layer", DiskAttachment::Pmem)]);
    assert!(
        text.starts_with("-m 256M,maxmem=260M\n-object {\"id\":\"file0\",\"mem-path\":\"/proc/self/fd/"),
        "{text}"
    );
    assert!(
        text.contains(r#""qom-type":"memory-backend-file","readonly":true,"share":true,"size":4194304}"#),
        "{text}"
    );
    assert!(text.contains(r#""driver":"virtio-pmem-pci","id":"disk-layer","memdev":"file0"}"#), "{text}");
}

fn addresses(disks: Vec<Disk>) -> Vec<String> {
    let layout = Layout::of(disks, false).unwrap();
    layout.drives.iter().map(|(_, place)| place.address().to_string()).collect()
}

#[test]
fn disks_without_a_slot_are_on_the_scsi_controller() {
    let disks = (0..8).map(|number| blk(&format!("d{number}"))).collect();
    assert_eq!(addresses(disks), ["18", "19", "1a", "1b", "1c", "1d", "0:0", "0:1"]);
}

/// The guest cannot map what does not begin and end at a multiple of 2 MiB.
#[test]
fn what_cannot_be_persistent_memory_is_a_virtio_blk_disk() {
    let mut odd = disk("odd", DiskAttachment::Pmem);
    File::from(odd.file.try_clone().unwrap()).set_len(3 * MIB).unwrap();
    odd.discard = false;
    let disks = vec![odd, disk("even", DiskAttachment::Pmem), disk("second", DiskAttachment::Pmem)];
    assert_eq!(addresses(disks), ["18", "/dev/pmem0", "/dev/pmem1"]);
}

#[test]
fn impossible_disks_are_refused_with_the_reason() {
    let refused = |disk: Disk| match Layout::of(vec![disk], false).unwrap_err() {
        VmmError::Disk { source, .. } => source,
        other => panic!("{other}"),
    };
    assert!(matches!(refused(blk("0a")), DiskError::Id));
    assert!(matches!(refused(blk("a,b")), DiskError::Id));
    assert!(matches!(refused(Disk { file: any_fd(), ..blk("a") }), DiskError::FileType));
    let not_writable = refused(Disk { file: image(true), ..blk("a") });
    assert_eq!(
        not_writable.to_string(),
        "Its file is open for reading and needed for reading and writing: check the volume's `readOnly`"
    );
    let not_read_only = refused(Disk { read_only: true, ..blk("a") });
    assert!(matches!(not_read_only, DiskError::OpenedFor { needed: "for reading", .. }), "{not_read_only}");
    assert!(matches!(refused(Disk { aio: DiskAio::Native, ..blk("a") }), DiskError::NativeNeedsDirect));
    assert!(matches!(refused(Disk { queue_size: 100, ..blk("a") }), DiskError::QueueSize { size: 100 }));
    assert!(matches!(refused(Disk { queues: 1000, ..blk("a") }), DiskError::Queues { count: 1000 }));
    let block_size = Some(BlockSize { logical: 4096, physical: 512 });
    assert!(matches!(refused(Disk { block_size, ..blk("a") }), DiskError::BlockSize { .. }));
    let twice = Layout::of(vec![blk("a"), blk("a")], false).unwrap_err();
    assert!(matches!(twice, VmmError::DiskExists { .. }), "{twice}");
}

/// A QMP command without arguments, answered by anything.
macro_rules! query {
    ($name:ident, $wire:literal) => {
        #[derive(Serialize)]
        struct $name {}
        impl Command for $name {
            const NAME: &'static str = $wire;
            type Reply = Value;
        }
    };
}
query!(QueryPci, "query-pci");
query!(QueryBlock, "query-block");
query!(QueryFdsets, "query-fdsets");
query!(QueryMemoryDevices, "query-memory-devices");

/// What QEMU has of disks: devices, nodes with their sizes, sets of descriptors.
async fn inventory(vm: &Qemu) -> (Vec<String>, Vec<(String, u64)>, usize) {
    let client = vm.client().await.unwrap();
    let blocks = client.execute(QueryBlock {}).await.unwrap();
    let devices = blocks.as_array().unwrap().iter().map(|block| block["qdev"].as_str().unwrap());
    let devices =
        devices.map(|path| path.split('/').find(|part| part.starts_with("disk-")).unwrap().to_owned());
    let nodes = client.execute(QueryNamedBlockNodes { flat: true }).await.unwrap();
    let mut nodes: Vec<_> = nodes.into_iter().map(|node| (node.node_name, node.image.virtual_size)).collect();
    nodes.sort();
    let sets = client.execute(QueryFdsets {}).await.unwrap();
    // One is the console's.
    (devices.collect(), nodes, sets.as_array().unwrap().len() - 1)
}

fn nothing() -> (Vec<String>, Vec<(String, u64)>, usize) {
    Default::default()
}

async fn start(dir: &TempDir, change: impl FnOnce(&mut VmPlan)) -> Option<Qemu> {
    let mut plan = real(dir)?;
    change(&mut plan);
    Some(launch(plan).await.unwrap())
}

#[tokio::test]
async fn disks_of_the_plan_are_there_and_stay() {
    let dir = tempfile::tempdir().unwrap();
    let disks = vec![
        blk("root"),
        with_everything("data"),
        read_only("layer", DiskAttachment::Pmem),
        disk("slow", DiskAttachment::Scsi),
    ];
    let Some(vm) = start(&dir, |plan| plan.disks = disks).await else { return };
    let plug = vm.disk_hotplug().unwrap();
    assert_eq!(plug.disk_address("root"), Some(DiskAddress::Pci("18".to_owned())));
    assert_eq!(plug.disk_address("slow"), Some(DiskAddress::Scsi { id: 0, lun: 0 }));
    let (devices, nodes, sets) = inventory(&vm).await;
    assert_eq!(devices, ["disk-root", "disk-data", "disk-slow"]);
    let names: Vec<_> = nodes.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((names.as_slice(), sets), (["disk1", "file0", "file1", "file3"].as_slice(), 3));
    let client = vm.client().await.unwrap();
    let memories = client.execute(QueryMemoryDevices {}).await.unwrap();
    assert_eq!(memories[0]["data"]["size"], json!(4 * MIB));
    let pci = client.execute(QueryPci {}).await.unwrap();
    let slots: Vec<_> =
        pci[0]["devices"].as_array().unwrap().iter().map(|device| device["slot"].as_u64().unwrap()).collect();
    assert!([0x18, 0x19, 0x1a, 30].iter().all(|slot| slots.contains(slot)), "{slots:?}");

    let stays = plug.remove_disk("root").await.unwrap_err();
    assert!(matches!(stays, VmmError::DiskStays { .. }), "{stays}");
    let fixed = plug.resize_disk("layer", 8 * MIB).await.unwrap_err();
    assert!(matches!(fixed, VmmError::Disk { source: DiskError::PmemResize, .. }), "{fixed}");
    plug.remove_disk("slow").await.unwrap();
    assert_eq!(inventory(&vm).await.0, ["disk-root", "disk-data"]);
    vm.kill().await;
}

#[tokio::test]
async fn disks_are_in_ports_and_then_on_a_controller_in_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let Some(vm) = start(&dir, |plan| plan.hotplug_ports = 2).await else { return };
    let plug = vm.disk_hotplug().unwrap();
    let mut found = Vec::new();
    for id in ["a", "b", "c"] {
        found.push(plug.add_disk(blk(id)).await.unwrap().to_string());
    }
    assert_eq!(found, ["10/00", "0:0", "0:1"]);
    assert_eq!(inventory(&vm).await.0, ["disk-a", "disk-b", "disk-c"]);
    let full = vm.add_nic(card(1, NicBackend::User)).await.unwrap_err();
    assert!(matches!(full, VmmError::NoPort { count: 2 }), "{full}");
    plug.remove_disk("b").await.unwrap();
    assert_eq!(plug.add_disk(blk("d")).await.unwrap().to_string(), "0:0");
    vm.kill().await;
}

#[tokio::test]
async fn a_controller_of_the_plan_needs_no_port() {
    let dir = tempfile::tempdir().unwrap();
    let Some(vm) = start(&dir, |plan| plan.scsi_controller = true).await else { return };
    let found = vm.add_disk(with_everything("a")).await.unwrap();
    assert_eq!(found, DiskAddress::Scsi { id: 0, lun: 0 });
    vm.kill().await;
}

#[tokio::test]
async fn without_a_port_there_is_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let Some(vm) = start(&dir, |_| {}).await else { return };
    let full = vm.add_disk(blk("a")).await.unwrap_err();
    assert!(matches!(full, VmmError::NoRoomForDisk { ports: 0, .. }), "{full}");
    assert_eq!(inventory(&vm).await, nothing());
    vm.kill().await;
}

#[tokio::test]
async fn a_disk_grows_with_its_file_and_never_shrinks() {
    let dir = tempfile::tempdir().unwrap();
    let Some(vm) = start(&dir, |plan| plan.hotplug_ports = 2).await else { return };
    for (id, disk) in [("plain", blk("plain")), ("limited", with_everything("limited"))] {
        let file = File::from(disk.file.try_clone().unwrap());
        vm.add_disk(disk).await.unwrap();
        vm.resize_disk(id, 6 * MIB).await.unwrap();
        assert_eq!(file.metadata().unwrap().len(), 6 * MIB);
        let shrinks = vm.resize_disk(id, 4 * MIB).await.unwrap_err();
        assert!(matches!(shrinks, VmmError::DiskShrinks { present, .. } if present == 6 * MIB), "{shrinks}");
    }
    let nodes = inventory(&vm).await.1;
    assert!(nodes.len() == 3 && nodes.iter().all(|(_, bytes)| *bytes == 6 * MIB), "{nodes:?}");
    let unknown = vm.resize_disk("other", 4 * MIB).await.unwrap_err();
    assert!(matches!(unknown, VmmError::NoDisk { .. }), "{unknown}");
    vm.kill().await;
}

/// Whatever QEMU refuses leaves neither node nor descriptor nor port in use.
#[tokio::test]
async fn a_disk_that_qemu_refuses_leaves_nothing_and_can_be_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    // A card whose id the disk's device would have, too; on the root bus, where no port is taken for it.
    let plan = |plan: &mut VmPlan| {
        plan.nics =
            vec![card(0, NicBackend::User), Nic { id: "disk-a".to_owned(), ..card(1, NicBackend::User) }];
        plan.hotplug_ports = 1;
        plan.scsi_controller = true;
    };
    let Some(vm) = start(&dir, plan).await else { return };
    let refused = vm.add_disk(with_everything("a")).await.unwrap_err();
    assert_eq!(refused.to_string(), "The hypervisor did not add the disk \"a\"");
    assert_eq!(inventory(&vm).await, nothing());
    let unfit = vm.add_disk(Disk { file: image(true), ..blk("b") }).await.unwrap_err();
    assert!(matches!(unfit, VmmError::Disk { .. }), "{unfit}");
    assert_eq!(vm.add_disk(blk("b")).await.unwrap().to_string(), "0:0");
    let twice = vm.add_disk(blk("b")).await.unwrap_err();
    assert!(matches!(twice, VmmError::DiskExists { .. }), "{twice}");
    vm.kill().await;
}

/// A writable image in two VMs is a destroyed image.
#[tokio::test]
async fn a_writable_image_is_a_disk_of_one_vm_and_a_layer_of_many() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    File::create(&path).unwrap().set_len(MIB).unwrap();
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let Some(one) = start(&one, |plan| plan.scsi_controller = true).await else { return };
    let Some(two) = start(&two, |plan| plan.scsi_controller = true).await else { return };
    let image = |write| OpenOptions::new().read(true).write(write).open(&path).unwrap().into();
    let layer = |id: &str| Disk { file: image(false), ..read_only(id, DiskAttachment::Blk) };
    one.add_disk(layer("layer")).await.unwrap();
    two.add_disk(layer("layer")).await.unwrap();
    one.add_disk(Disk { file: image(true), ..blk("data") }).await.unwrap();
    let taken = two.add_disk(Disk { file: image(true), ..blk("data") }).await.unwrap_err();
    let VmmError::DiskRefused { source, .. } = &taken else { panic!("{taken}") };
    let QmpError::Refused { description, .. } = source.as_ref() else { panic!("{source}") };
    assert!(description.contains("\"write\" lock"), "{description}");
    one.kill().await;
    two.kill().await;
}

/// A kernel that lets go of what ACPI asks it for: at each tick of the firmware's timer it reads, bus by bus, QEMU's
/// hot-plug controller and writes to its eject register what is to go.
fn obliging() -> Vec<u8> {
    let code = [
        &[0xfb][..],                     // sti
        &[0xf4],                         // tick: hlt
        &[0x66, 0x31, 0xdb],             // xor ebx, ebx
        &[0xba, 0xd0, 0x0c],             // bus: mov dx, 0xcd0
        &[0x66, 0x89, 0xd8, 0x66, 0xef], // mov eax, ebx; out dx, eax
        &[0xba, 0xc4, 0x0c, 0x66, 0xed], // mov dx, 0xcc4; in eax, dx
        &[0x66, 0x85, 0xc0, 0x74, 0x05], // test eax, eax; jz next
        &[0xba, 0xc8, 0x0c, 0x66, 0xef], // mov dx, 0xcc8; out dx, eax
        &[0xfe, 0xc3, 0x75, 0xe5],       // next: inc bl; jnz bus
        &[0xeb, 0xdf],                   // jmp tick
    ];
    real_mode_kernel(&code.concat())
}

/// Firmware with a timer.
const SEABIOS: &str = "/usr/share/seabios/bios-256k.bin";

#[tokio::test]
async fn ten_rounds_of_plug_and_unplug_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    if !std::path::Path::new(SEABIOS).exists() {
        eprintln!("skipped: there is no {SEABIOS}");
        return;
    }
    let plan = |plan: &mut VmPlan| {
        std::fs::write(&plan.kernel, obliging()).unwrap();
        plan.firmware = Some(SEABIOS.into());
        plan.hotplug_ports = 2;
    };
    let Some(vm) = start(&dir, plan).await else { return };
    for _ in 0..10 {
        assert_eq!(vm.add_disk(blk("plain")).await.unwrap().to_string(), "10/00");
        assert_eq!(vm.add_disk(with_everything("limited")).await.unwrap().to_string(), "0:0");
        vm.remove_disk("plain").await.unwrap();
        vm.remove_disk("limited").await.unwrap();
        assert_eq!(inventory(&vm).await, nothing());
    }
    let open = std::fs::read_dir(format!("/proc/{}/fd", vm.pid())).unwrap();
    let images = open.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    let images = images.filter(|path| {
        let path = path.to_string_lossy();
        path.contains("/.tmp") && path.ends_with(" (deleted)")
    });
    let images = images.count();
    assert_eq!(images, 0, "QEMU holds files of disks that are gone");
    let gone = vm.remove_disk("plain").await.unwrap_err();
    assert!(matches!(gone, VmmError::NoDisk { .. }), "{gone}");
    vm.kill().await;
}

#[tokio::test]
async fn a_guest_that_keeps_a_disk_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let Some(vm) = start(&dir, |plan| plan.hotplug_ports = 2).await else { return };
    vm.add_disk(blk("a")).await.unwrap();
    let kept = vm.remove_disk("a").await.unwrap_err();
    assert!(matches!(kept, VmmError::DiskInUse { .. }), "{kept}");
    assert_eq!(vm.disk_address("a").unwrap().to_string(), "10/00");
    vm.kill().await;
}

#[tokio::test]
async fn a_vmm_that_dies_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let Some(vm) = start(&dir, |plan| plan.hotplug_ports = 2).await else { return };
    vm.add_disk(blk("a")).await.unwrap();
    let (removed, _) = tokio::join!(vm.remove_disk("a"), vm.kill());
    removed.unwrap_err();
}
