//! Descriptions as snapshotters write them, and such as nobody should.

use std::path::Path;

use data_encoding::BASE64;
use serde_json::{Value, json};

use super::{GuestPull, OPTION, VirtualVolume, VirtualVolumeError, VolumeDisk};
use crate::rootfs::RootfsMount;

fn mount(options: Vec<String>) -> RootfsMount {
    RootfsMount {
        fs_type: "fuse.nydus-overlayfs".into(),
        source: "overlay".into(),
        options,
        ..Default::default()
    }
}

fn option(json: &Value) -> String {
    format!("{OPTION}={}", BASE64.encode(json.to_string().as_bytes()))
}

fn of(json: &Value) -> Result<Option<VirtualVolume>, VirtualVolumeError> {
    VirtualVolume::among(&[mount(vec!["lowerdir=/a".into(), option(json)])])
}

fn refused(json: &Value) -> String {
    of(json).unwrap_err().to_string()
}

#[test]
fn mounts_without_a_description_are_left_alone() {
    assert_eq!(VirtualVolume::among(&[]).unwrap(), None);
    let other = mount(vec!["io.katacontainers.volumes=x".into(), OPTION.into()]);
    assert_eq!(VirtualVolume::among(&[other]).unwrap(), None);
}

#[test]
fn an_image_to_be_pulled_has_the_snapshotters_labels() {
    let json = json!({ "volume_type": "image_guest_pull", "source": "dummy-image-reference", "fs_type": "",
        "image_pull": { "metadata": { "containerd.io/snapshot/cri.layer-digest": "sha256:1" } } });
    let metadata = [("containerd.io/snapshot/cri.layer-digest".into(), "sha256:1".into())].into();
    assert_eq!(of(&json).unwrap(), Some(VirtualVolume::GuestPull(GuestPull { reference: None, metadata })));
    let json =
        json!({ "volume_type": "image_guest_pull", "source": "registry:5000/a/b:1", "image_pull": null });
    let reference = Some("registry:5000/a/b:1".into());
    let expected = GuestPull { reference, ..Default::default() };
    assert_eq!(of(&json).unwrap(), Some(VirtualVolume::GuestPull(expected)));
}

#[test]
fn disks_have_a_source_a_file_system_and_options() {
    let disk =
        VolumeDisk { source: "/dev/x".into(), fs_type: "ext4".into(), options: vec!["noatime".into()] };
    let json =
        |kind| json!({ "volume_type": kind, "source": "/dev/x", "fs_type": "ext4", "options": ["noatime"] });
    assert_eq!(of(&json("direct_block")).unwrap(), Some(VirtualVolume::DirectBlock(disk.clone())));
    assert_eq!(of(&json("image_raw_block")).unwrap(), Some(VirtualVolume::RawBlock(disk.clone())));
    assert_eq!(of(&json("layer_raw_block")).unwrap(), Some(VirtualVolume::RawBlock(disk)));
}

#[test]
fn what_a_disk_cannot_have_is_refused_by_name() {
    let cases = [
        (json!({ "source": "dev/x", "fs_type": "ext4" }), "\"dev/x\""),
        (json!({ "fs_type": "ext4" }), "source"),
        (json!({ "source": "/dev/x" }), "fs_type"),
        (json!({ "source": "/dev/x", "fs_type": "mkfs/ext4" }), "mkfs/ext4"),
        (json!({ "source": "/dev/x", "fs_type": "ext4", "options": ["a,b"] }), "\"a,b\""),
        (json!({ "source": "/dev/x", "fs_type": "ext4", "image_pull": {} }), "image_pull"),
        (json!({ "source": "/dev/x", "fs_type": "ext4", "nydus_image": {} }), "nydus_image"),
        (
            json!({ "source": "/dev/x", "fs_type": "ext4", "direct_volume": { "metadata": { "k": "v" } } }),
            "\"k\"",
        ),
        (json!({ "source": "/dev/x", "fs_type": "ext4", "dm_verity": { "hash": "" } }), "dm-verity"),
    ];
    for (mut json, part) in cases {
        json["volume_type"] = "image_raw_block".into();
        let message = refused(&json);
        let names = ["image_raw_block", "fuse.nydus-overlayfs", part];
        assert!(names.iter().all(|name| message.contains(name)), "{json}: {message}");
    }
}

#[test]
fn nydus_is_refused_by_name() {
    for kind in ["image_nydus_block", "layer_nydus_block", "image_nydus_fs", "layer_nydus_fs"] {
        let message = refused(&json!({ "volume_type": kind, "source": "/x" }));
        assert!(message.contains(kind) && message.contains("image_guest_pull"), "{message}");
    }
}

#[test]
fn broken_text_is_refused_with_the_mounts_type() {
    let good = option(&json!({ "volume_type": "image_guest_pull" }));
    let long = format!("{OPTION}={}", "A".repeat(super::LONGEST + 4));
    let unknown_part = option(&json!({ "volume_type": "image_guest_pull", "sauce": "x" }));
    let unknown_type = option(&json!({ "volume_type": "image_magic" }));
    let broken = [format!("{OPTION}="), format!("{OPTION}=%%%"), good[..good.len() - 3].into(), long];
    for option in broken.into_iter().chain([unknown_part, unknown_type]) {
        let error = VirtualVolume::among(&[mount(vec![option])]).unwrap_err();
        assert!(error.to_string().contains("fuse.nydus-overlayfs"), "{error}");
    }
}

#[test]
fn a_reference_that_could_be_an_option_is_refused() {
    for source in ["-x", "a b", "a\nb", "http://a?b"] {
        let message = refused(&json!({ "volume_type": "image_guest_pull", "source": source }));
        assert!(message.contains("reference of an image"), "{message}");
    }
}

#[test]
fn several_are_refused_as_their_order_is_not_said() {
    let one = option(&json!({ "volume_type": "layer_raw_block", "source": "/a", "fs_type": "erofs" }));
    let lists =
        [vec![mount(vec![one.clone(), one.clone()])], vec![mount(vec![one.clone()]), mount(vec![one])]];
    for mounts in lists {
        let error = VirtualVolume::among(&mounts).unwrap_err();
        assert!(matches!(error, VirtualVolumeError::Several { .. }), "{error}");
    }
}

#[test]
fn a_volume_cannot_have_one() {
    let options = [format!("{OPTION}=e30=")];
    let mounts = [(Path::new("/data"), &options[..])];
    let message = VirtualVolume::refuse_elsewhere(mounts.into_iter()).unwrap_err().to_string();
    assert!(message.contains("/data") && message.contains("direct-assigned"), "{message}");
}
