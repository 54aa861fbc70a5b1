//! Logs that are kept in two files: when one is full it is renamed and another begun.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// More of one file is not read at once, in bytes: none that is kept is longer.
const MOST: u64 = 1 << 20;

/// How far such a log has been read.
#[derive(Debug, Clone)]
pub struct LogReader {
    newer: PathBuf,
    older: PathBuf,
    /// The file of the last reading; 0 before the first.
    inode: u64,
    /// In bytes.
    offset: u64,
}

impl LogReader {
    /// At the beginning of the log of these names in `dir`.
    #[must_use]
    pub fn of(dir: &Path, newer: &str, older: &str) -> Self {
        Self { newer: dir.join(newer), older: dir.join(older), inode: 0, offset: 0 }
    }

    /// Where it is written.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.newer
    }

    /// Tells what has been added since the last call, piece by piece. Files that are not there have nothing.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn read(&mut self, mut tell: impl FnMut(&[u8])) -> io::Result<()> {
        let Some((mut file, inode)) = open(&self.newer)? else { return Ok(()) };
        if inode != self.inode {
            if let Some((mut old, renamed)) = open(&self.older)?
                && renamed != inode
            {
                // Of another file than that of the last reading all is new.
                let offset = if renamed == self.inode { self.offset } else { 0 };
                read_from(&mut old, offset, &mut tell)?;
            }
            (self.inode, self.offset) = (inode, 0);
        }
        self.offset = read_from(&mut file, self.offset, &mut tell)?;
        Ok(())
    }
}

/// The file and its inode.
fn open(path: &Path) -> io::Result<Option<(File, u64)>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let inode = file.metadata()?.ino();
    Ok(Some((file, inode)))
}

/// What is there now; where it ends.
fn read_from(file: &mut File, offset: u64, tell: &mut impl FnMut(&[u8])) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut at = offset.max(length.saturating_sub(MOST));
    file.seek(SeekFrom::Start(at))?;
    let mut piece = vec![0; 8 << 10];
    let mut rest = file.take(length.saturating_sub(at));
    loop {
        match rest.read(&mut piece)? {
            0 => return Ok(at),
            count => tell(&piece[..count]),
        }
        at = length - rest.limit();
    }
}

/// The last bytes of both files, so many at most; nothing if there is neither.
pub(crate) fn last_bytes(newer: &Path, older: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    let length = |path| fs::metadata(path).map_or(0, |about| about.len());
    let of_older = most.saturating_sub(length(newer));
    let mut bytes = None;
    for (path, most) in [(older, of_older), (newer, most)] {
        let Some((mut file, _)) = open(path)? else { continue };
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
        file.take(most).read_to_end(bytes.get_or_insert_default())?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::Path;

    use super::{LogReader, MOST, last_bytes};

    fn told(reader: &mut LogReader) -> String {
        let mut told = Vec::new();
        reader.read(|piece| told.extend_from_slice(piece)).unwrap();
        String::from_utf8(told).unwrap()
    }

    fn append(path: &Path, text: &str) {
        use std::io::Write;
        let mut file = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn nothing_is_missed_when_the_files_change_places() {
        let dir = tempfile::tempdir().unwrap();
        let (newer, older) = (dir.path().join("log"), dir.path().join("log.old"));
        let mut reader = LogReader::of(dir.path(), "log", "log.old");
        assert_eq!(told(&mut reader), "");
        append(&older, "a");
        append(&newer, "b");
        assert_eq!(told(&mut reader), "ab");
        append(&newer, "c");
        fs::rename(&newer, &older).unwrap();
        // In between.
        assert_eq!(told(&mut reader), "");
        append(&newer, "d");
        assert_eq!(told(&mut reader), "cd");
        append(&newer, "e");
        assert_eq!(told(&mut reader), "e");
        assert_eq!(told(&mut reader), "");
    }

    /// All of a console was read into memory, however long the guest had made it.
    #[test]
    fn of_a_long_file_the_end_is_read() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("log")).unwrap().set_len(1 << 40).unwrap();
        append(&dir.path().join("log"), "end");
        let mut reader = LogReader::of(dir.path(), "log", "log.old");
        let text = told(&mut reader);
        assert!(text.len() as u64 == MOST && text.ends_with("end"));
        assert_eq!(told(&mut reader), "");
    }

    #[test]
    fn the_end_may_be_in_both() {
        let dir = tempfile::tempdir().unwrap();
        let (newer, older) = (dir.path().join("log"), dir.path().join("log.old"));
        let last = || last_bytes(&newer, &older, 4).unwrap().map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(last(), None);
        append(&older, "abcdef");
        assert_eq!(last().as_deref(), Some("cdef"));
        append(&newer, "gh");
        assert_eq!(last().as_deref(), Some("efgh"));
        append(&newer, "ijk");
        assert_eq!(last().as_deref(), Some("hijk"));
    }
}
