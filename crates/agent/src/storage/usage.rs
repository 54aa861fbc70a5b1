//! How full a volume is and whether it is well, as the container storage interface (CSI) has it.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use kata_protocol::csi::volume_usage::Unit;
use kata_protocol::csi::{VolumeCondition, VolumeStatsResponse, VolumeUsage};
use protobuf::MessageField;
use rustix::fs::{StatVfs, fstatvfs, major, minor};

/// A volume cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    /// It is not there.
    #[error("There is no volume {}; name the path at which the guest has it", path.display())]
    Absent { path: PathBuf, source: io::Error },
    /// The kernel does not tell.
    #[error("Cannot read how full the volume {} is", path.display())]
    Read { path: PathBuf, source: io::Error },
}

/// Usage of the file system on `path`, or the size of the block device there. Blocks until its disk answers.
pub(crate) fn of(path: &Path) -> Result<VolumeStatsResponse, UsageError> {
    let absent = |source| UsageError::Absent { path: path.to_owned(), source };
    let read = |source| UsageError::Read { path: path.to_owned(), source };
    let volume = match File::open(path) {
        Ok(volume) => volume,
        // What an XFS says when it has given up.
        Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(broken(&error.to_string())),
        Err(error) => return Err(absent(error)),
    };
    let about = volume.metadata().map_err(absent)?;
    if about.file_type().is_block_device() {
        let total = (&volume).seek(SeekFrom::End(0)).map_err(read)?;
        let usage = VolumeUsage { total, unit: Unit::BYTES.into(), ..Default::default() };
        return Ok(answer(vec![usage], None));
    }
    let counts = fstatvfs(&volume).map_err(|errno| read(errno.into()))?;
    Ok(answer(usage(&counts).to_vec(), errors_of(about.dev())))
}

fn usage(counts: &StatVfs) -> [VolumeUsage; 2] {
    let bytes = |blocks: u64| blocks.saturating_mul(counts.f_frsize);
    let usage = |available, total, free: u64, unit: Unit| VolumeUsage {
        available,
        total,
        used: total.saturating_sub(free),
        unit: unit.into(),
        ..Default::default()
    };
    [
        usage(bytes(counts.f_bavail), bytes(counts.f_blocks), bytes(counts.f_bfree), Unit::BYTES),
        usage(counts.f_favail, counts.f_files, counts.f_ffree, Unit::INODES),
    ]
}

/// What an ext4 has found wrong in itself.
fn errors_of(number: u64) -> Option<String> {
    let disk = fs::read_link(format!("/sys/dev/block/{}:{}", major(number), minor(number))).ok()?;
    let errors = Path::new("/sys/fs/ext4").join(disk.file_name()?).join("errors_count");
    let count = fs::read_to_string(errors).ok()?;
    (count.trim() != "0").then(|| format!("The file system has found {} errors in itself", count.trim()))
}

fn broken(message: &str) -> VolumeStatsResponse {
    answer(Vec::new(), Some(format!("The file system does not answer: {message}")))
}

fn answer(usage: Vec<VolumeUsage>, wrong: Option<String>) -> VolumeStatsResponse {
    let condition = VolumeCondition {
        abnormal: wrong.is_some(),
        message: wrong.unwrap_or_else(|| "OK".to_owned()),
        ..Default::default()
    };
    VolumeStatsResponse { usage, volume_condition: MessageField::some(condition), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_inodes_of_a_file_system_are_told() {
        let stats = of(Path::new("/")).expect("is there");
        let [bytes, inodes] = &stats.usage[..] else { panic!("{:?}", stats.usage) };
        assert_eq!((bytes.unit.enum_value(), inodes.unit.enum_value()), (Ok(Unit::BYTES), Ok(Unit::INODES)));
        assert!(bytes.total > 0 && bytes.used <= bytes.total && bytes.available <= bytes.total);
        assert_eq!(stats.volume_condition.message, "OK");
    }

    #[test]
    fn a_volume_that_is_not_there_is_named() {
        let error = of(Path::new("/no/volume")).expect_err("is not there").to_string();
        assert!(error.contains("/no/volume"), "{error}");
    }
}
