//! Folders and files that are made to be mounted on, and taken away again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// How often a folder is made again that somebody else has just taken away as his.
const ATTEMPTS: usize = 8;

/// What was made, parents first.
#[derive(Debug, Default)]
pub(super) struct Made(Vec<PathBuf>);

impl Made {
    /// Makes a folder and those above it, unless they are there.
    pub(super) fn folder(&mut self, path: &Path) -> io::Result<()> {
        for _ in 1..ATTEMPTS {
            match self.try_folder(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                made => return made,
            }
        }
        self.try_folder(path)
    }

    fn try_folder(&mut self, path: &Path) -> io::Result<()> {
        let missing: Vec<_> = path.ancestors().take_while(|folder| !folder.is_dir()).collect();
        for folder in missing.into_iter().rev() {
            match fs::create_dir(folder) {
                Ok(()) => self.0.push(folder.to_owned()),
                Err(_) if folder.is_dir() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes an empty file, unless something is there.
    pub(super) fn file(&mut self, path: &Path) -> io::Result<()> {
        if let Some(parent) = path.parent() {
            self.folder(parent)?;
        }
        match fs::File::create_new(path) {
            Ok(_) => self.0.push(path.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Takes away what was made, except where something else is now.
    pub(super) fn take_back(&mut self) {
        for path in self.0.drain(..).rev() {
            // It stays where somebody else uses it.
            let _ = match fs::symlink_metadata(&path) {
                Ok(found) if found.is_file() && found.len() == 0 => fs::remove_file(&path),
                _ => fs::remove_dir(&path),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_taken_back_and_nothing_else() {
        let root = tempfile::tempdir().expect("temporary folder");
        fs::create_dir(root.path().join("there")).expect("a folder");
        let mut made = Made::default();
        made.folder(&root.path().join("there/a/b")).expect("made");
        made.file(&root.path().join("other/file")).expect("made");
        made.folder(&root.path().join("used/c")).expect("made");
        fs::write(root.path().join("used/data"), "data").expect("written");
        made.take_back();
        let mut left: Vec<_> = fs::read_dir(root.path())
            .expect("is there")
            .map(|entry| entry.expect("is read").file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["there", "used"]);
        assert!(!root.path().join("there/a").exists() && !root.path().join("used/c").exists());
    }
}
