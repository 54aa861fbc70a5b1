//! What the kernel has of our own: files next to the kernel's, with their lines in the Makefile and a symbol in Kconfig. What
//! is changed of the kernel's own stands in `edits`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

/// Where the files stand, below the kernel's fragments.
const PROGRAMS: [&str; 2] = ["host-watch/host_watch.c", "max-unused/max_unused.c"];
const KCONFIG: &str = "host-watch/Kconfig";
/// Where they belong in the kernel's source.
const PLACE: &str = "fs/fuse";
const MAKE_LINES: &str = "obj-$(CONFIG_FUSE_HOST_WATCH) += host_watch.o\nfuse-y += max_unused.o\n";

/// The files' texts.
pub(crate) struct Additions {
    /// By where they stand.
    programs: Vec<(&'static str, String)>,
    kconfig: String,
}

impl Additions {
    /// Reads them below `directory`, where the fragments are.
    pub(crate) fn read(directory: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = directory.join(name);
            fs::read_to_string(&path).with_context(|| format!("Cannot read {}", path.display()))
        };
        let programs = PROGRAMS.into_iter().map(|name| Ok((name, read(name)?)));
        Ok(Self { programs: programs.collect::<Result<_>>()?, kconfig: read(KCONFIG)? })
    }

    /// All that a kernel depends on.
    pub(crate) fn text(&self) -> String {
        let programs: String = self.programs.iter().map(|(_, text)| text.as_str()).collect();
        [&programs, &self.kconfig, MAKE_LINES].concat()
    }

    /// Adds them to an unpacked source.
    pub(crate) fn add_to(&self, source: &Path) -> Result<()> {
        let place = source.join(PLACE);
        for (name, text) in &self.programs {
            let name = Path::new(name).file_name().context("A program of the kernel has a name")?;
            fs::write(place.join(name), text).context("Cannot write to the kernel's source")?;
        }
        append(&place.join("Kconfig"), &format!("\n{}", self.kconfig))?;
        append(&place.join("Makefile"), &format!("\n{MAKE_LINES}"))
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
    fn a_source_gets_the_files_their_symbol_and_their_lines() {
        let programs = vec![("a/x.c", "int x;\n".to_owned()), ("b/y.c", "int y;\n".to_owned())];
        let additions = Additions { programs, kconfig: "config X\n".into() };
        let source = tempfile::tempdir().unwrap();
        let place = source.path().join(PLACE);
        fs::create_dir_all(&place).unwrap();
        assert!(additions.add_to(source.path()).is_err(), "no source of a kernel");
        fs::write(place.join("Makefile"), "obj-y += a.o\n").unwrap();
        fs::write(place.join("Kconfig"), "config A\n").unwrap();
        additions.add_to(source.path()).unwrap();
        let read = |name: &str| fs::read_to_string(place.join(name)).unwrap();
        assert_eq!((read("x.c"), read("y.c")), ("int x;\n".to_owned(), "int y;\n".to_owned()));
        assert_eq!(read("Kconfig"), "config A\n\nconfig X\n");
        assert_eq!(read("Makefile"), format!("obj-y += a.o\n\n{MAKE_LINES}"));
    }
}
