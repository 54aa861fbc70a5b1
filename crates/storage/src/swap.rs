//! Files that guests swap to: without names, so that nothing is left when the VMM has gone, and as large as what is swapped.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// What kernels swap in.
const PAGE: u64 = 4096;
/// The first page holds what kernels want to know, and nothing is swapped to it.
const HEADER: usize = 4096;
/// Where version, last page and number of bad pages stand in it.
const INFO: usize = 1024;
/// The last bytes of the first page.
const MAGIC: &[u8] = b"SWAPSPACE2";
/// The most pages that the header can count.
const MOST_PAGES: u64 = u32::MAX as u64;

/// A file to swap to could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// Its size has no place in its header.
    #[error("{bytes} bytes of swap are too much: {} are the most", MOST_PAGES * PAGE)]
    Size {
        /// What was asked for.
        bytes: u64,
    },
    /// The file system refused.
    #[error("No file of {bytes} bytes for swap can be made in {dir:?}: check `guest_swap_path`")]
    File {
        /// Its size.
        bytes: u64,
        /// The directory.
        dir: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A file in `dir`, without a name, that a guest can swap at least `bytes` to. It takes no room before.
///
/// # Errors
/// `dir` is none, its file system knows no files without names, or the size is too much.
pub fn create(dir: &Path, bytes: u64) -> Result<OwnedFd, SwapError> {
    let pages = bytes.div_ceil(PAGE);
    let last = u32::try_from(pages).map_err(|_| SwapError::Size { bytes })?;
    let make = || {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR)?);
        file.set_len((pages + 1) * PAGE)?;
        file.write_all_at(&header(last), 0)?;
        Ok(file.into())
    };
    make().map_err(|source| SwapError::File { bytes, dir: dir.to_owned(), source })
}

/// The first page, as `mkswap` writes it: a version, the number of the last page, and no bad ones.
fn header(last: u32) -> [u8; HEADER] {
    let mut page = [0; HEADER];
    page[INFO..INFO + 4].copy_from_slice(&1_u32.to_le_bytes());
    page[INFO + 4..INFO + 8].copy_from_slice(&last.to_le_bytes());
    page[HEADER - MAGIC.len()..].copy_from_slice(MAGIC);
    page
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_file_has_no_name_and_takes_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::from(create(dir.path(), 100 << 20).unwrap());
        let found = file.metadata().unwrap();
        assert_eq!((found.nlink(), found.len()), (0, (100 << 20) + 4096));
        assert!(found.blocks() * 512 <= 64 << 10, "{} blocks", found.blocks());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_header_counts_the_pages_that_can_be_swapped_to() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::from(create(dir.path(), 5 * 4096 - 1).unwrap());
        let mut page = [0; HEADER];
        file.read_exact_at(&mut page, 0).unwrap();
        assert_eq!(page[1024..1036], [1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&page[4086..], b"SWAPSPACE2");
    }

    #[test]
    fn what_cannot_be_is_told_with_its_place() {
        let error = create(Path::new("/proc"), 4096).unwrap_err().to_string();
        assert!(error.contains("\"/proc\"") && error.contains("guest_swap_path"), "{error}");
        let error = create(Path::new("/tmp"), u64::MAX).unwrap_err();
        assert!(matches!(error, SwapError::Size { .. }), "{error}");
    }
}
