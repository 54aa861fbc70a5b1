//! The options of storages, for fuzz targets.

use super::options::MountOptions;

/// The flags (`MS_*`) of a storage's options, and what the file system is told.
#[must_use]
pub fn storage_options(options: &[String]) -> (u64, String) {
    let MountOptions { flags, data } = MountOptions::parse(options);
    (flags.bits(), data)
}
