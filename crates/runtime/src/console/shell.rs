//! A shell of this host for guests that have none. It must be static: the guest has no libraries for it.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Where Debian and others have a static busybox.
const USUAL: [&str; 3] = ["/bin/busybox", "/usr/bin/busybox", "/bin/busybox.static"];

/// No shell can be brought.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShellError {
    /// None here either.
    #[error(
        "The guest has no shell, and this host has no static busybox to bring ({}); install one (Debian: busybox-static), or \
         name a static shell by --shell FILE",
        USUAL.join(", ")
    )]
    None,
    /// It is not there.
    #[error("Cannot read the shell {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It would not run.
    #[error("{} is no static executable, and the guest has no libraries; name another by --shell FILE", .0.display())]
    Dynamic(PathBuf),
}

/// Where a shell is to be had.
#[derive(Debug, Clone, Default)]
pub(crate) struct ShellSource {
    /// This one; it is used even if the guest has one.
    pub(crate) named: Option<PathBuf>,
}

impl ShellSource {
    /// Whether this host has one.
    pub(crate) fn is_there(&self) -> bool {
        self.named.is_some() || USUAL.iter().any(|path| is_static(Path::new(path)).unwrap_or(false))
    }

    /// The executable.
    pub(super) fn read(&self) -> Result<Vec<u8>, ShellError> {
        let read = |path: &Path| {
            let bytes = fs::read(path);
            bytes.map_err(|source| ShellError::Read { path: path.to_owned(), source })
        };
        if let Some(path) = &self.named {
            return match is_static(path) {
                Ok(true) => read(path),
                Ok(false) => Err(ShellError::Dynamic(path.clone())),
                Err(source) => Err(ShellError::Read { path: path.clone(), source }),
            };
        }
        let found = USUAL.iter().map(Path::new).find(|path| is_static(path).unwrap_or(false));
        read(found.ok_or(ShellError::None)?)
    }
}

/// The kind of the part of an executable that names its dynamic linker.
const PT_INTERP: u32 = 3;

/// Whether this is an executable of 64 bits without a dynamic linker.
fn is_static(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let mut head = [0; 64];
    if file.read_exact(&mut head).is_err() || head[..5] != *b"\x7fELF\x02" {
        return Ok(false);
    }
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
    let (start, size, count) = (number(&head[32..40]), number(&head[54..56]), number(&head[56..58]));
    for index in 0..count {
        file.seek(SeekFrom::Start(start + index * size))?;
        let mut kind = [0; 4];
        file.read_exact(&mut kind)?;
        if u32::from_le_bytes(kind) == PT_INTERP {
            return Ok(false);
        }
    }
    Ok(count > 0)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{ShellError, ShellSource, is_static};

    #[test]
    fn a_program_of_the_host_needs_its_libraries() {
        let program = std::env::current_exe().unwrap();
        assert!(!is_static(&program).unwrap());
        let named = ShellSource { named: Some(program) };
        assert!(matches!(named.read(), Err(ShellError::Dynamic(_))));
    }

    #[test]
    fn a_script_is_no_shell_for_a_guest() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "#!/bin/sh\n".repeat(20)).unwrap();
        assert!(!is_static(file.path()).unwrap());
    }

    #[test]
    fn a_shell_that_is_not_there_is_named() {
        let named = ShellSource { named: Some(PathBuf::from("/nonexistent/sh")) };
        assert!(named.read().unwrap_err().to_string().contains("/nonexistent/sh"));
    }
}
