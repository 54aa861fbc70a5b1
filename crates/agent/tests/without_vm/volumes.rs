//! Disks, layers and memory that the host asks to be mounted, and what it asks of them later.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kata_protocol::agent::{
    Device, FSGroup, ResizeVolumeRequest, Storage, UpdateEphemeralMountsRequest, VolumeStatsRequest,
};
use kata_protocol::csi::VolumeUsage;
use kata_protocol::kata::ContainerRequest;
use protobuf::MessageField;
use serde_json::{Value, json};

use super::disks::{Disk, lacks};
use super::guest::{Guest, as_message, limit, message, skips};

const MIB: u64 = 1 << 20;

fn bound(guest: &Guest, arguments: &[&str], target: &str) -> Value {
    let mut spec = guest.spec(arguments);
    let source = guest.folder.path().join(target);
    spec["mounts"].as_array_mut().expect("a list").push(json!({
        "destination": "/mnt", "type": "bind", "source": source, "options": ["rbind"],
    }));
    spec
}

/// Makes a container of these storages; what it prints.
async fn output(guest: &Guest, id: &str, spec: &Value, storages: Vec<Storage>) -> ttrpc::Result<String> {
    let (mut streams, stdio) = guest.streams().await;
    let request = ContainerRequest {
        container_id: id.into(),
        oci: as_message(spec),
        storages,
        stdio: MessageField::some(stdio),
        ..Default::default()
    };
    guest.sandbox.create_container(limit(), &request).await?;
    guest.start_container(id).await?;
    let printed = String::from_utf8(streams.output().await).expect("is text");
    // What it prints may end before it does.
    guest.wait(id, "").await?;
    Ok(printed)
}

async fn resize(guest: &Guest, target: &str, size: u64) -> ttrpc::Result<()> {
    let path = guest.folder.path().join(target);
    let request = ResizeVolumeRequest {
        volume_guest_path: path.to_str().expect("is text").into(),
        size,
        ..Default::default()
    };
    guest.agent.resize_volume(limit(), &request).await.map(|_| ())
}

async fn usage(guest: &Guest, path: &Path) -> Vec<VolumeUsage> {
    let path = path.to_str().expect("is text").to_owned();
    let request = VolumeStatsRequest { volume_guest_path: path, ..Default::default() };
    let stats = guest.agent.get_volume_stats(limit(), &request).await.expect("told");
    assert_eq!((stats.volume_condition.abnormal, stats.volume_condition.message.as_str()), (false, "OK"));
    stats.usage
}

fn mounts(guest: &Guest) -> String {
    fs::read_to_string(format!("/proc/{}/mountinfo", guest.agent_id())).expect("is alive")
}

agent_test!(what_is_written_to_a_disk_is_there_when_its_container_is_gone, |guest| {
    if lacks(&["mkfs.ext4"]) {
        return;
    }
    let disk = Disk::formatted(&guest, "disk", 16, "ext4");
    let before = mounts(&guest);
    for (id, line, expected) in [("a", "echo kept > /mnt/file", ""), ("b", "cat /mnt/file", "kept\n")] {
        let spec = bound(&guest, &["sh", "-c", line], "volume");
        let storage = disk.storage(&guest, "volume", "ext4");
        assert_eq!(output(&guest, id, &spec, vec![storage]).await.expect("made"), expected);
        guest.remove(id).await.expect("removed");
        assert!(disk.is_free(), "a file system still holds {}", disk.node.display());
    }
    assert_eq!(mounts(&guest), before);
    assert!(!guest.folder.path().join("volume").exists(), "the mount point is left");
});

// What a container had mounted over its whole volume was unmounted in the volume's place, with the data not on the disk.
agent_test!(a_disk_that_its_container_has_covered_goes_with_it, |guest| {
    if lacks(&["mkfs.ext4"]) {
        return;
    }
    let disk = Disk::formatted(&guest, "disk", 16, "ext4");
    let before = mounts(&guest);
    for (id, cover) in [("a", "mount -t tmpfs tmpfs /mnt"), ("b", "mkdir /mnt/d; mount -o bind /mnt/d /mnt")]
    {
        let mut spec =
            bound(&guest, &["sh", "-c", &format!("{cover} && grep -c ' /mnt ' /proc/mounts")], "volume");
        let mounts = spec["mounts"].as_array_mut().expect("a list");
        mounts.last_mut().expect("the volume's")["options"] = json!(["rbind", "rshared"]);
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN"]);
        }
        let storage = disk.storage(&guest, "volume", "ext4");
        assert_eq!(output(&guest, id, &spec, vec![storage]).await.expect("made"), "2\n");
        guest.remove(id).await.expect("removed");
        assert!(disk.is_free(), "a file system still holds {}", disk.node.display());
    }
    assert_eq!(mounts(&guest), before);
    assert!(!guest.folder.path().join("volume").exists(), "the mount point is left");
});

agent_test!(a_disk_of_two_containers_goes_with_the_last, |guest| {
    if lacks(&["mkfs.ext4"]) {
        return;
    }
    let disk = Disk::formatted(&guest, "disk", 16, "ext4");
    let storage = disk.storage(&guest, "volume", "ext4");
    for (id, line) in [("a", "echo shared > /mnt/file"), ("b", "cat /mnt/file")] {
        let spec = bound(&guest, &["sh", "-c", line], "volume");
        let printed = output(&guest, id, &spec, vec![storage.clone()]).await.expect("made");
        assert_eq!(printed, if id == "b" { "shared\n" } else { "" });
    }
    let other = Storage { source: "/dev/loop-control".into(), ..storage.clone() };
    let refusal = message(output(&guest, "c", &guest.spec(&["true"]), vec![other]).await);
    assert!(refusal.contains("/dev/loop-control is not a block device"), "{refusal}");
    guest.remove("a").await.expect("removed");
    assert!(!disk.is_free());
    guest.remove("b").await.expect("removed");
    assert!(disk.is_free());
});

agent_test!(the_files_of_a_disk_are_given_to_its_group, |guest| {
    if lacks(&["mkfs.ext4"]) {
        return;
    }
    let disk = Disk::formatted(&guest, "disk", 16, "ext4");
    let mut storage = disk.storage(&guest, "volume", "ext4");
    let spec = bound(&guest, &["sh", "-c", "echo x > /mnt/file"], "volume");
    output(&guest, "a", &spec, vec![storage.clone()]).await.expect("made");
    guest.remove("a").await.expect("removed");
    storage.fs_group = MessageField::some(FSGroup { group_id: 4321, ..Default::default() });
    output(&guest, "b", &guest.spec(&["true"]), vec![storage]).await.expect("made");
    let root = format!("/proc/{}/root{}", guest.agent_id(), guest.folder.path().display());
    let of = |path: &str| {
        let found = fs::metadata(format!("{root}/volume/{path}")).expect("is there");
        (found.gid(), found.mode() & 0o7777)
    };
    assert_eq!((of("file"), of("")), ((4321, 0o664), (4321, 0o2775)));
    guest.remove("b").await.expect("removed");
});

/// Whether this machine lets root have `CAP_SYS_RESOURCE`, which an ext4 asks for before it grows.
fn may_use_reserves() -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("is there");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("is told");
    let has = u64::from_str_radix(effective.trim(), 16).expect("a number") >> 24 & 1 == 1;
    if !has {
        println!("skipped for ext4: this user has no CAP_SYS_RESOURCE");
    }
    has
}

agent_test!(a_file_system_grows_with_its_disk_while_it_is_used, |guest| {
    for (kind, small, large) in [("ext4", 32, 96), ("xfs", 320, 640)] {
        if lacks(&[&format!("mkfs.{kind}")]) || (kind == "ext4" && !may_use_reserves()) {
            continue;
        }
        let disk = Disk::formatted(&guest, kind, small, kind);
        let mut spec = bound(&guest, &["cat", "/mnt/none"], "volume");
        spec["process"]["args"] = json!(["true"]);
        output(&guest, kind, &spec, vec![disk.storage(&guest, "volume", kind)]).await.expect("made");
        let path = guest.folder.path().join("volume");
        let before = usage(&guest, &path).await[0].total;
        // The host's change arrives while the agent waits for it.
        let (resized, ()) = tokio::join!(resize(&guest, "volume", large * MIB), async {
            tokio::task::yield_now().await;
            disk.grow(large);
        });
        resized.expect("larger");
        let after = usage(&guest, &path).await[0].total;
        assert!(after > before + (large - small) * MIB * 9 / 10, "{kind}: {before} to {after} bytes");
        resize(&guest, "volume", large * MIB).await.expect("is as large already");
        let refusal = message(resize(&guest, "volume", MIB).await);
        assert!(refusal.contains("cannot shrink"), "{refusal}");
        guest.remove(kind).await.expect("removed");
        assert!(disk.is_free());
    }
});

agent_test!(a_disk_that_the_host_has_not_made_larger_is_told, |guest| {
    if lacks(&["mkfs.ext4"]) {
        return;
    }
    let disk = Disk::formatted(&guest, "disk", 16, "ext4");
    let storages = vec![disk.storage(&guest, "volume", "ext4")];
    output(&guest, "c", &guest.spec(&["true"]), storages).await.expect("made");
    let refusal = message(resize(&guest, "volume", 32 * MIB).await);
    assert!(refusal.contains("has 16777216 bytes, not 33554432"), "{refusal}");
    guest.remove("c").await.expect("removed");
});

agent_test!(usage_is_told_in_bytes_and_inodes_and_of_a_disk_its_size, |guest| {
    if lacks(&["mkfs.ext4"]) {
        return;
    }
    let disk = Disk::formatted(&guest, "disk", 16, "ext4");
    let spec = bound(&guest, &["sh", "-c", "head -c 1000000 /dev/zero > /mnt/file"], "volume");
    output(&guest, "c", &spec, vec![disk.storage(&guest, "volume", "ext4")]).await.expect("made");
    let [bytes, inodes] = &usage(&guest, &guest.folder.path().join("volume")).await[..] else {
        panic!("bytes and inodes")
    };
    assert!(bytes.used >= 1_000_000 && bytes.total < 16 * MIB && bytes.available < bytes.total, "{bytes}");
    // Eleven are the file system's own.
    assert_eq!(inodes.used, 12);
    assert_eq!(usage(&guest, &disk.node).await[0].total, 16 * MIB);
    let nowhere = VolumeStatsRequest { volume_guest_path: "/no/volume".into(), ..Default::default() };
    assert!(message(guest.agent.get_volume_stats(limit(), &nowhere).await).contains("/no/volume"));
    guest.remove("c").await.expect("removed");
});

agent_test!(a_root_of_read_only_layers_is_written_to_its_own_disk, |guest| {
    if lacks(&["mkfs.ext4", "mkfs.erofs"]) {
        return;
    }
    let folder = guest.folder.path();
    let second = folder.join("second");
    fs::create_dir_all(second.join("etc")).expect("a folder");
    fs::write(second.join("etc/layer"), "second\n").expect("a file");
    let base = Disk::layer(&guest, "base.erofs", &folder.join("rootfs"));
    let above = Disk::layer(&guest, "above.erofs", &second);
    let own = Disk::formatted(&guest, "own", 16, "ext4");
    let path = |name: &str| folder.join(name).to_str().expect("is text").to_owned();
    let (upper, work) = (path("c/own/upper"), path("c/own/work"));
    let overlay = Storage {
        driver: "overlayfs".into(),
        source: "overlay".into(),
        fstype: "overlay".into(),
        options: vec![
            format!("lowerdir={}:{}", path("c/1"), path("c/0")),
            format!("upperdir={upper},workdir={work}"),
        ],
        driver_options: [&upper, &work]
            .map(|folder| format!("io.katacontainers.volume.overlayfs.create_directory={folder}"))
            .to_vec(),
        mount_point: path("c/rootfs"),
        ..Default::default()
    };
    let storages = || {
        let layer = |disk: &Disk, target| Storage {
            options: vec!["ro".into()],
            ..disk.storage(&guest, target, "erofs")
        };
        vec![layer(&base, "c/0"), layer(&above, "c/1"), own.storage(&guest, "c/own", "ext4"), overlay.clone()]
    };
    let mut spec = guest.spec(&["sh", "-c", "cat /etc/layer; echo written > /etc/layer"]);
    spec["root"]["path"] = json!(path("c/rootfs"));
    let before = mounts(&guest);
    for expected in ["second\n", "written\n"] {
        assert_eq!(output(&guest, "c", &spec, storages()).await.expect("made"), expected);
        guest.remove("c").await.expect("removed");
        assert!([&base, &above, &own].iter().all(|disk| disk.is_free()), "a layer is still held");
    }
    assert_eq!(mounts(&guest), before);
    assert!(!folder.join("c").exists(), "folders are left");
});

agent_test!(
    /// mount(2) takes one page of options.
    a_root_may_have_more_layers_than_a_page_names,
    |guest| {
        let mut lower = Vec::new();
        for number in 0..80 {
            let layer = guest.folder.path().join(format!("{number}{}", "l".repeat(100)));
            fs::create_dir(&layer).expect("a folder");
            fs::write(layer.join(number.to_string()), format!("{number}\n")).expect("a file");
            lower.push(layer.to_str().expect("is text").to_owned());
        }
        let overlay = Storage {
            driver: "overlayfs".into(),
            options: vec![format!("lowerdir={},nodev,ro", lower.join(":"))],
            mount_point: guest.folder.path().join("volume").to_str().expect("is text").into(),
            ..Default::default()
        };
        let spec = bound(&guest, &["cat", "/mnt/0", "/mnt/79", "/proc/mounts"], "volume");
        let printed = output(&guest, "c", &spec, vec![overlay]).await.expect("made");
        assert!(printed.starts_with("0\n79\n") && printed.contains(" /mnt overlay ro,nodev,"), "{printed}");
        guest.remove("c").await.expect("removed");
    }
);

agent_test!(a_disk_that_cannot_be_mounted_leaves_nothing, |guest| {
    if lacks(&["mkfs.ext4"]) {
        return;
    }
    let good = Disk::formatted(&guest, "good", 16, "ext4");
    let empty = Disk::empty(&guest, "empty", 16);
    let before = mounts(&guest);
    let with = |second: Storage| vec![good.storage(&guest, "first", "ext4"), second];
    let wrong = [
        (empty.storage(&guest, "second/below", "ext4"), "Cannot mount ext4"),
        (empty.storage(&guest, "second/below", "nofs"), "no file system \"nofs\""),
        (empty.storage(&guest, "second/below", ""), "names no file system"),
        (good.storage(&guest, "first/below/a/file", "overlay"), "overlay"),
    ];
    for (second, words) in wrong {
        let refusal = message(output(&guest, "c", &guest.spec(&["true"]), with(second)).await);
        assert!(refusal.contains(words), "{refusal}");
        assert_eq!(mounts(&guest), before);
        assert!(good.is_free());
        assert!(["first", "second"].iter().all(|name| !guest.folder.path().join(name).exists()), "{words}");
    }
});

agent_test!(a_disk_that_the_vm_has_not_is_named_when_its_time_is_over, |guest| {
    let storage = Storage {
        driver: "blk".into(),
        source: "1f/1f".into(),
        fstype: "ext4".into(),
        mount_point: "/mnt".into(),
        ..Default::default()
    };
    let refusal = message(output(&guest, "c", &guest.spec(&["true"]), vec![storage]).await);
    assert!(refusal.contains("1f.0/1f.0 appeared in the guest within 3 s"), "{refusal}");
});

/// With the device of that path, of a disk that the guest has.
fn with_device(guest: &Guest, disk: &Disk, arguments: &[&str]) -> ContainerRequest {
    let mut spec = guest.spec(arguments);
    // The host's numbers mean another device here.
    spec["linux"]["devices"] =
        json!([{ "path": "/dev/xvda", "type": "b", "major": 1, "minor": 0, "fileMode": 0o600 }]);
    let device = Device {
        type_: "blk".into(),
        id: disk.node.to_str().expect("is text").into(),
        container_path: "/dev/xvda".into(),
        ..Default::default()
    };
    ContainerRequest {
        container_id: "c".into(),
        oci: as_message(&spec),
        devices: vec![device],
        ..Default::default()
    }
}

agent_test!(a_disk_is_a_device_in_a_container, |guest| {
    if lacks(&[]) {
        return;
    }
    let disk = Disk::empty(&guest, "disk", 1);
    let request = with_device(&guest, &disk, &["sh", "-c", "echo written > /dev/xvda"]);
    guest.sandbox.create_container(limit(), &request).await.expect("created");
    guest.start_container("c").await.expect("started");
    assert_eq!(guest.wait("c", "").await.expect("ended"), 0);
    guest.remove("c").await.expect("removed");
    assert_eq!(disk.start(8), b"written\n");
});

agent_test!(a_device_that_the_specification_lacks_is_refused, |guest| {
    if lacks(&[]) {
        return;
    }
    let disk = Disk::empty(&guest, "disk", 1);
    let mut request = with_device(&guest, &disk, &["true"]);
    request.devices[0].container_path = "/dev/other".into();
    let refusal = message(guest.sandbox.create_container(limit(), &request).await);
    assert!(refusal.contains("no block device /dev/other"), "{refusal}");
    assert!(!guest.cgroup.join("c").exists());
});

agent_test!(memory_gets_another_size_while_it_is_used, |guest| {
    let target: PathBuf = guest.folder.path().join("memory");
    let storage = |size: &str| Storage {
        driver: "ephemeral".into(),
        source: "tmpfs".into(),
        fstype: "tmpfs".into(),
        options: vec![format!("size={size}"), "nodev".into()],
        mount_point: target.to_str().expect("is text").into(),
        ..Default::default()
    };
    let update = |storage| UpdateEphemeralMountsRequest { storages: vec![storage], ..Default::default() };
    let refusal = message(guest.agent.update_ephemeral_mounts(limit(), &update(storage("4m"))).await);
    assert!(refusal.contains("No memory is mounted"), "{refusal}");
    let spec = bound(&guest, &["sh", "-c", "head -c 900000 /dev/zero > /mnt/file"], "memory");
    output(&guest, "c", &spec, vec![storage("1m")]).await.expect("made");
    assert_eq!(usage(&guest, &target).await[0].total, MIB);
    guest.agent.update_ephemeral_mounts(limit(), &update(storage("4m"))).await.expect("changed");
    assert_eq!(usage(&guest, &target).await[0].total, 4 * MIB);
    let refusal = message(guest.agent.update_ephemeral_mounts(limit(), &update(storage("64k"))).await);
    assert!(refusal.contains("size=64k"), "{refusal}");
    guest.remove("c").await.expect("removed");
});
