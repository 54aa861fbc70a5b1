//! The guest kernel: Debian's source with our configuration fragments and our additions, everything built in, no modules.
//!
//! A finished kernel is kept in the cache under the hash of its source version, fragments, additions, edits and recipe. The
//! build takes minutes, once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::additions::Additions;
use super::edits;
use super::fragments::{Fragments, Unmet};
use super::kernel_source::{self, KernelSource};
use crate::process;
use crate::progress::Progress;
use crate::workspace::Workspace;

/// Raise this when the steps below change what comes out.
const RECIPE: &str = "1";

const SCRATCH: &str = ".kernel-build-";

/// Equal input gives equal bytes: nothing of the machine or the hour goes into the kernel.
const FIXED: [(&str, &str); 4] = [
    ("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970"),
    ("KBUILD_BUILD_USER", "kata"),
    ("KBUILD_BUILD_HOST", "containers"),
    ("KBUILD_BUILD_VERSION", "1"),
];

/// Takes the kernel from the cache or builds it; returns the path of `vmlinux`.
pub(crate) fn ensure(workspace: &Workspace, progress: &Progress) -> Result<PathBuf> {
    let _lock = workspace.lock("kernel", progress)?;
    let directory = workspace.root.join("guest/kernel");
    let fragments = Fragments::read(&directory)?;
    let source = kernel_source::ensure(workspace, progress)?;
    // Another release's inside is another.
    let additions = if source.wanted { Some(Additions::read(&directory)?) } else { None };
    let hash = hash(&source, &fragments, additions.as_ref());
    let home = workspace.cache.join(format!("kernel-{hash}"));
    let vmlinux = home.join("vmlinux");
    if vmlinux.is_file() {
        progress.line("kernel", format_args!("{} ready", source.version));
        return Ok(vmlinux);
    }
    remove_leftovers(workspace)?;
    let scratch = tempfile::Builder::new().prefix(SCRATCH).tempdir_in(&workspace.cache)?;
    let ready = scratch.path().join("ready");
    let (source, fragments) = (&source, &fragments);
    let build = Build { workspace, progress, source, fragments, additions, scratch: scratch.path() };
    build.run(&ready)?;
    fs::rename(&ready, &home).context("Cannot put the kernel into the cache")?;
    progress.line(
        "kernel",
        format_args!("{} ready, {} KiB", source.version, fs::metadata(&vmlinux)?.len() / 1024),
    );
    Ok(vmlinux)
}

/// A build that was killed leaves gigabytes; nobody else builds while this process holds the lock.
fn remove_leftovers(workspace: &Workspace) -> Result<()> {
    for entry in fs::read_dir(&workspace.cache)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(SCRATCH) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn hash(source: &KernelSource, fragments: &Fragments, additions: Option<&Additions>) -> String {
    let mut hasher = Sha256::new();
    let additions = additions.map(|additions| additions.text() + &edits::text()).unwrap_or_default();
    for part in [RECIPE, &source.version, &fragments.text, &additions] {
        hasher.update(part);
        hasher.update([0]);
    }
    hasher.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// One build in a scratch directory.
struct Build<'a> {
    workspace: &'a Workspace,
    progress: &'a Progress,
    source: &'a KernelSource,
    fragments: &'a Fragments,
    /// None for a release that they, and the edits, were not written for.
    additions: Option<Additions>,
    scratch: &'a Path,
}

impl Build<'_> {
    fn run(&self, ready: &Path) -> Result<()> {
        let log = self.workspace.log("kernel")?;
        fs::write(&log, "")?;
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        self.progress.line(
            "kernel",
            format_args!(
                "building {} on {cpus} CPUs; minutes, once (log: {})",
                self.source.version,
                log.display()
            ),
        );
        self.progress.watch("kernel", &log, || {
            self.unpack()?;
            self.configure(&log)?;
            process::logged(self.make().arg(format!("-j{cpus}")).arg("vmlinux"), &log)
        })?;
        fs::create_dir(ready)?;
        strip(&self.tree("build").join("vmlinux"), &ready.join("vmlinux"))?;
        fs::copy(self.tree("build").join(".config"), ready.join("config"))?;
        Ok(())
    }

    fn unpack(&self) -> Result<()> {
        fs::create_dir(self.tree("source"))?;
        fs::create_dir(self.tree("build"))?;
        let mut tar = Command::new("tar");
        tar.arg("-xJf").arg(&self.source.tarball).arg("-C").arg(self.tree("source"));
        process::output(tar.arg("--strip-components=1"))?;
        let source = self.tree("source");
        let Some(additions) = &self.additions else { return Ok(()) };
        additions.add_to(&source)?;
        edits::apply(&source)
    }

    fn configure(&self, log: &Path) -> Result<()> {
        let requested = self.scratch.join("requested.config");
        fs::write(&requested, &self.fragments.text)?;
        process::logged(self.make().env("KCONFIG_ALLCONFIG", &requested).arg("allnoconfig"), log)?;
        let config = fs::read_to_string(self.tree("build").join(".config"))?;
        let unmet = self.fragments.unmet(&config);
        let (unknown, refused): (Vec<Unmet>, _) =
            unmet.into_iter().partition(|unmet| !self.source.wanted && !self.knows(&unmet.symbol));
        for unknown in unknown {
            self.progress
                .line("kernel", format_args!("{} does not know {}", self.source.version, unknown.symbol));
        }
        if !refused.is_empty() {
            let lines: Vec<_> = refused.into_iter().map(|unmet| unmet.text).collect();
            bail!(
                "The kernel's configuration did not follow guest/kernel; a dependency is missing or the name is wrong:\n{}",
                lines.join("\n")
            );
        }
        Ok(())
    }

    /// Whether any Kconfig file of this source defines the symbol.
    fn knows(&self, symbol: &str) -> bool {
        let mut grep = Command::new("grep");
        grep.args(["-rqE", "--include=Kconfig*", &format!("^(menu)?config {symbol}$")])
            .arg(self.tree("source"));
        grep.status().is_ok_and(|status| status.success())
    }

    fn tree(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    fn make(&self) -> Command {
        let mut make = Command::new("make");
        make.arg("-C").arg(self.tree("source")).arg(format!("O={}", self.tree("build").display()));
        make.envs(FIXED)
            .env("LC_ALL", "C")
            .env_remove("MAKEFLAGS")
            .env_remove("CFLAGS")
            .env_remove("LDFLAGS");
        make
    }
}

/// Symbols and debug information go; the note by which QEMU finds the 32-bit entry point must stay.
fn strip(from: &Path, to: &Path) -> Result<()> {
    process::output(Command::new("objcopy").arg("--strip-all").arg(from).arg(to))?;
    let notes = process::text(Command::new("readelf").arg("-nW").arg(to))?;
    if !has_pvh_note(&notes) {
        bail!("The kernel has no PVH entry note (CONFIG_PVH), so QEMU cannot start it directly:\n{notes}");
    }
    Ok(())
}

/// `XEN_ELFNOTE_PHYS32_ENTRY`, note type 18 of owner `Xen`, in the output of `readelf -nW`.
fn has_pvh_note(notes: &str) -> bool {
    notes.lines().any(|line| line.trim_start().starts_with("Xen ") && line.contains("(0x00000012)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pvh_note_is_told_from_others() {
        let other =
            "  Xen                  0x0000000c\tUnknown note type: (0x00000013)\t   description data: 00\n";
        let entry =
            "  Xen                  0x00000008\tUnknown note type: (0x00000012)\t   description data: 00\n";
        assert!(!has_pvh_note(other));
        assert!(has_pvh_note(&format!("{other}{entry}")));
    }
}
