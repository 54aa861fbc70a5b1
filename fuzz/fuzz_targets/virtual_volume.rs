//! Root file systems that a snapshotter describes: JSON, which is put into base64 here so that it is worth reading.
#![no_main]

use kata_storage::RootfsMount;
use kata_storage::virtual_volume::{OPTION, VirtualVolume, VolumeDisk, is_reference};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let raw = format!("{OPTION}={}", String::from_utf8_lossy(input));
    let encoded = format!("{OPTION}={}", data_encoding::BASE64.encode(input));
    for option in [raw, encoded] {
        let mount = RootfsMount { options: vec![option], ..Default::default() };
        match VirtualVolume::among(&[mount]) {
            // It names the option always, so it is never taken for a mount without one.
            Ok(None) => unreachable!("a description that is not seen"),
            Ok(Some(VirtualVolume::GuestPull(pull))) => {
                assert!(pull.reference.is_none_or(|text| is_reference(&text) && !text.starts_with('-')));
            }
            Ok(Some(VirtualVolume::DirectBlock(disk) | VirtualVolume::RawBlock(disk))) => check(&disk),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
});

/// Nothing in it means more than it says.
fn check(disk: &VolumeDisk) {
    assert!(disk.source.is_absolute() && !disk.fs_type.is_empty() && !disk.fs_type.contains('/'));
    assert!(disk.options.iter().all(|option| !option.contains([',', '\0'])));
}
