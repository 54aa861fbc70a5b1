//! The jail's readers and compilers, for fuzz targets.

use kata_protocol::oci;

use super::mounts::options::Options;
use super::plan::Answer;
use super::seccomp::Filter;

/// An instruction of classic BPF: code, jumps if true and if false, constant.
pub type BpfInstruction = (u16, u8, u8, u32);

/// The program of a seccomp profile, or why there is none.
///
/// # Errors
/// As told to the user.
pub fn seccomp_program(profile: &oci::LinuxSeccomp) -> Result<Vec<BpfInstruction>, String> {
    let filter = Filter::of(profile).map_err(|error| error.to_string())?;
    Ok(filter.program.iter().map(|step| (step.code, step.jt, step.jf, step.k)).collect())
}

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
