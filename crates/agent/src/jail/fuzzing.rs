//! The jail's readers and compilers, for fuzz targets.

use super::mounts::options::Options;
use super::plan::Answer;

/// What the kernel is told about one mount.
#[derive(Debug)]
pub struct MountOrders<'a> {
    /// Attributes that are set and cleared, and the propagation: of the mount itself, and of all below it.
    pub changes: [(u64, u64, u64); 2],
    /// What the file system is told.
    pub data: Vec<(&'a str, Option<&'a str>)>,
}

/// The meaning of a container's mount options; none if one is refused.
#[must_use]
pub fn mount_options(options: &[String]) -> Option<MountOrders<'_>> {
    let read = Options::read(options).ok()?;
    let changes = [read.own, read.all].map(|change| (change.set, change.clear, change.propagation));
    Some(MountOrders { changes, data: read.data })
}

/// The complete parts of a jail's answer, each as it is written.
#[must_use]
pub fn jail_answer(bytes: &[u8]) -> Vec<Vec<u8>> {
    let written = |answer: &Answer| {
        let mut bytes = Vec::new();
        answer.send(&mut bytes).expect("a vector takes all");
        bytes
    };
    Answer::read(bytes).iter().map(written).collect()
}
