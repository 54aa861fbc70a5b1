//! The reference: Debian's cloud kernel, downloaded and unpacked in the cache, not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::apt::{PrivateApt, Release};
use crate::process;
use crate::progress::Progress;
use crate::workspace::Workspace;

const METAPACKAGE: &str = "linux-image-cloud-amd64";

/// The kernel image's path.
pub(crate) fn kernel(workspace: &Workspace, progress: &Progress) -> Result<PathBuf> {
    let _lock = workspace.lock("debian-kernel", progress)?;
    let directory = workspace.cache.join("debian-kernel");
    if let Some(image) = image_in(&directory) {
        return Ok(image);
    }
    let log = workspace.log("debian-kernel")?;
    progress.line("Debian's kernel", format_args!("downloading, once (log: {})", log.display()));
    let scratch = tempfile::Builder::new().prefix(".debian-kernel-").tempdir_in(&workspace.cache)?;
    let apt = PrivateApt::new(scratch.path(), &Release::of_this_machine()?.sources(), &log)?;
    apt.update()?;
    let packages = apt.dependencies(METAPACKAGE)?;
    let package = packages.first().with_context(|| format!("{METAPACKAGE} depends on nothing"))?;
    let file = apt.download(package)?;
    let unpacked = scratch.path().join("unpacked");
    process::logged(Command::new("dpkg").arg("-x").arg(&file).arg(&unpacked), &log)?;
    let image = image_in(&unpacked.join("boot")).context("The package holds no kernel")?;
    fs::create_dir_all(&directory)?;
    let name = image.file_name().context("A kernel has a name")?;
    fs::copy(&image, directory.join(name)).context("Cannot keep the kernel")?;
    Ok(directory.join(name))
}

fn image_in(directory: &Path) -> Option<PathBuf> {
    let mut files = fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path());
    files.find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")))
}
