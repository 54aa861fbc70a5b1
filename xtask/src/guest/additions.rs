//! What the kernel has of our own (`guest/kernel/host-watch`): a file next to the kernel's, with a line in the Makefile
//! and its symbol in Kconfig. Nothing of the kernel's is changed.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

/// Where the files stand, below the kernel's fragments.
const HOME: &str = "host-watch";
/// Where they belong in the kernel's source.
const PLACE: &str = "fs/fuse";
const PROGRAM: &str = "host_watch.c";
const KCONFIG: &str = "Kconfig";
const MAKE_LINE: &str = "obj-$(CONFIG_FUSE_HOST_WATCH) += host_watch.o\n";

/// The files' texts.
pub(crate) struct Additions {
    program: String,
    kconfig: String,
}

impl Additions {
    /// Reads them below `directory`, where the fragments are.
    pub(crate) fn read(directory: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = directory.join(HOME).join(name);
            fs::read_to_string(&path).with_context(|| format!("Cannot read {}", path.display()))
        };
        Ok(Self { program: read(PROGRAM)?, kconfig: read(KCONFIG)? })
    }

    /// All that a kernel depends on.
    pub(crate) fn text(&self) -> String {
        [&self.program, &self.kconfig, MAKE_LINE].concat()
    }

    /// Adds them to an unpacked source.
    pub(crate) fn add_to(&self, source: &Path) -> Result<()> {
        let place = source.join(PLACE);
        fs::write(place.join(PROGRAM), &self.program).context("Cannot write to the kernel's source")?;
        append(&place.join(KCONFIG), &format!("\n{}", self.kconfig))?;
        append(&place.join("Makefile"), &format!("\n{MAKE_LINE}"))
    }
}

fn append(file: &Path, text: &str) -> Result<()> {
    let opened = OpenOptions::new().append(true).open(file);
    let mut opened = opened.with_context(|| format!("The kernel's source has no {}", file.display()))?;
    Ok(opened.write_all(text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_gets_the_file_its_symbol_and_its_line() {
        let additions = Additions { program: "int x;\n".into(), kconfig: "config X\n".into() };
        let source = tempfile::tempdir().unwrap();
        let place = source.path().join(PLACE);
        fs::create_dir_all(&place).unwrap();
        assert!(additions.add_to(source.path()).is_err(), "no source of a kernel");
        fs::write(place.join("Makefile"), "obj-y += a.o\n").unwrap();
        fs::write(place.join("Kconfig"), "config A\n").unwrap();
        additions.add_to(source.path()).unwrap();
        let read = |name: &str| fs::read_to_string(place.join(name)).unwrap();
        assert_eq!(read(PROGRAM), "int x;\n");
        assert_eq!(read("Kconfig"), "config A\n\nconfig X\n");
        assert_eq!(read("Makefile"), format!("obj-y += a.o\n\n{MAKE_LINE}"));
    }
}
