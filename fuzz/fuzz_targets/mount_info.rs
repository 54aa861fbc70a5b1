//! The `mountInfo.json` of a direct-assigned volume: what is accepted is safe to hand on, and is read again as it was.
#![no_main]

use kata_storage::direct_volume::{MAX_MOUNT_INFO, MountInfo};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(info) = MountInfo::parse(input) else { return };
    assert!(input.len() <= MAX_MOUNT_INFO);
    let device = info.device.to_str().expect("a device that is accepted is text");
    assert!(device.starts_with('/') && device.split('/').all(|part| part != ".."));
    let texts = info.options.iter().map(String::as_str).chain([device, &info.fs_type, &info.volume_type]);
    for text in texts {
        assert!(!text.is_empty() && !text.contains(char::is_control), "{text:?}");
    }
    assert!(info.options.join(",").len() < 4096, "the kernel takes a page of options");
    assert_eq!(MountInfo::parse(info.to_json().as_bytes()).expect("what was written is read"), info);
});
