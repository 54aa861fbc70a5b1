//! The log in the sandbox's state directory, for hosts without a journal: `kata-runtime logs` reads it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use kata_sandbox::{SHIM_LOG_FILE, SHIM_LOG_FILE_OLD};

/// The directory is on a tmpfs: there are two files of this size at most.
const LONGEST: u64 = 128 << 10;

/// What is held until there is a directory.
const EARLY_LINES: usize = 64;

/// The lines, wherever they are.
pub(super) struct Kept(Mutex<Place>);

enum Place {
    /// There is no sandbox yet.
    Early(Vec<String>),
    There(Files),
    /// It could not be opened, or written to.
    Nowhere,
}

struct Files {
    dir: PathBuf,
    file: File,
    length: u64,
}

impl Default for Kept {
    fn default() -> Self {
        Self(Mutex::new(Place::Early(Vec::new())))
    }
}

impl Kept {
    /// Adds a line. A write to a tmpfs does not wait for anything.
    pub(super) fn write(&self, line: &str) {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match &mut *place {
            Place::Early(lines) if lines.len() < EARLY_LINES => {
                lines.push(line.to_owned());
                Ok(())
            }
            Place::There(files) => files.write(line),
            Place::Early(_) | Place::Nowhere => Ok(()),
        };
        if written.is_err() {
            *place = Place::Nowhere;
        }
    }

    /// The sandbox has a directory; it goes with all that is in it.
    pub(super) fn settle(&self, dir: &Path) -> io::Result<()> {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let early = std::mem::replace(&mut *place, Place::Nowhere);
        let Place::Early(lines) = early else {
            *place = early;
            return Ok(());
        };
        let mut files = Files { dir: dir.to_owned(), file: open(dir)?, length: 0 };
        lines.iter().try_for_each(|line| files.write(line))?;
        *place = Place::There(files);
        Ok(())
    }
}

impl Files {
    fn write(&mut self, line: &str) -> io::Result<()> {
        if self.length >= LONGEST {
            fs::rename(self.dir.join(SHIM_LOG_FILE), self.dir.join(SHIM_LOG_FILE_OLD))?;
            self.file = open(&self.dir)?;
            self.length = 0;
        }
        self.length += line.len() as u64;
        self.file.write_all(line.as_bytes())
    }
}

fn open(dir: &Path) -> io::Result<File> {
    OpenOptions::new().create_new(true).append(true).mode(0o600).open(dir.join(SHIM_LOG_FILE))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use kata_sandbox::{SHIM_LOG_FILE, SHIM_LOG_FILE_OLD};

    use super::{Kept, LONGEST};

    #[test]
    fn lines_from_before_there_was_a_directory_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::default();
        kept.write("early\n");
        kept.settle(dir.path()).unwrap();
        kept.write("late\n");
        assert_eq!(fs::read_to_string(dir.path().join(SHIM_LOG_FILE)).unwrap(), "early\nlate\n");
    }

    #[test]
    fn two_files_are_all_that_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::default();
        kept.settle(dir.path()).unwrap();
        let line = format!("{}\n", "x".repeat(999));
        for _ in 0..1000 {
            kept.write(&line);
        }
        kept.write("last\n");
        let length = |name: &str| fs::metadata(dir.path().join(name)).unwrap().len();
        assert!(length(SHIM_LOG_FILE) + length(SHIM_LOG_FILE_OLD) <= 2 * (LONGEST + 1000));
        assert!(fs::read_to_string(dir.path().join(SHIM_LOG_FILE)).unwrap().ends_with("last\n"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_directory_that_has_gone_is_not_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("s");
        fs::create_dir(&place).unwrap();
        let kept = Kept::default();
        kept.settle(&place).unwrap();
        fs::remove_dir_all(&place).unwrap();
        for _ in 0..2000 {
            kept.write(&format!("{}\n", "x".repeat(999)));
        }
        assert!(!place.exists());
    }
}
