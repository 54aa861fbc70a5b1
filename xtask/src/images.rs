//! The images that demo, measurements and tests run: busybox, a pause image and a Debian, all made here from Debian
//! packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::apt::Release;
use crate::oci_image::{self, Archive};
use crate::process;
use crate::progress::Progress;
use crate::workspace::Workspace;

/// An image in the cache.
pub(crate) struct Image {
    /// By which name containerd knows it after the import.
    pub(crate) name: &'static str,
    /// Tar file in OCI layout.
    pub(crate) file: PathBuf,
}

/// busybox with all its applets.
pub(crate) fn busybox(workspace: &Workspace) -> Result<Image> {
    let image = Image { name: "localhost/kata/busybox:1", file: directory(workspace)?.join("busybox.tar") };
    if !image.file.is_file() {
        let layer = image.file.with_extension("layer");
        busybox_layer(Path::new("/bin/busybox"), None, &layer)?;
        oci_image::write(image.name, &["/bin/sh"], &layer, &image.file)?;
        fs::remove_file(&layer)?;
    }
    Ok(image)
}

/// What `/pause` is here.
const PAUSE: &str = "#!/bin/sh\ntrap 'exit 0' INT TERM\nwhile :; do sleep 1000000 & wait; done\n";

/// What each pod of the Container Runtime Interface begins with: a program that waits, and reaps what nobody waits for.
pub(crate) fn pause(workspace: &Workspace) -> Result<Image> {
    let image = Image { name: "localhost/kata/pause:2", file: directory(workspace)?.join("pause-2.tar") };
    if !image.file.is_file() {
        let layer = image.file.with_extension("layer");
        busybox_layer(Path::new("/bin/busybox"), Some(("pause", PAUSE)), &layer)?;
        oci_image::write(image.name, &["/pause"], &layer, &image.file)?;
        fs::remove_file(&layer)?;
    }
    Ok(image)
}

/// The smallest Debian with python3, of the same release as this machine.
pub(crate) fn debian(workspace: &Workspace, progress: &Progress) -> Result<Image> {
    let _lock = workspace.lock("debian", progress)?;
    let image = Image { name: "localhost/kata/debian:1", file: directory(workspace)?.join("debian.tar") };
    if image.file.is_file() {
        progress.line("debian image", "ready");
        return Ok(image);
    }
    let log = workspace.log("debian")?;
    progress.line("debian image", format_args!("from Debian packages, once (log: {})", log.display()));
    let scratch = tempfile::Builder::new().prefix(".debian-").tempdir_in(&workspace.cache)?;
    let layer = scratch.path().join("layer.tar");
    progress.watch("debian image", &log, || {
        let release = Release::of_this_machine()?;
        let sources = scratch.path().join("debian.sources");
        fs::write(&sources, release.sources())?;
        let mut mmdebstrap = Command::new("mmdebstrap");
        mmdebstrap.args([
            "--variant=minbase",
            "--include=python3-minimal",
            "--format=tar",
            release.codename(),
        ]);
        // What no program needs to run is a third of the packages' size.
        for unneeded in ["doc", "info", "locale", "man"] {
            mmdebstrap.arg(format!("--dpkgopt=path-exclude=/usr/share/{unneeded}/*"));
        }
        mmdebstrap.arg(&layer).arg(&sources).env("SOURCE_DATE_EPOCH", "0").env("TMPDIR", scratch.path());
        process::logged(&mut mmdebstrap, &log)?;
        oci_image::write(image.name, &["/bin/sh"], &layer, &image.file)
    })?;
    Ok(image)
}

fn directory(workspace: &Workspace) -> Result<PathBuf> {
    let directory = workspace.cache.join("images");
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// With this script beside it, if any: its name and its text.
fn busybox_layer(busybox: &Path, script: Option<(&str, &str)>, to: &Path) -> Result<()> {
    let binary = fs::read(busybox).with_context(|| format!("Cannot read {}", busybox.display()))?;
    let applets = process::text(Command::new(busybox).arg("--list"))?;
    let mut layer = Archive::create(to)?;
    for (path, mode) in
        [("bin", 0o755), ("dev", 0o755), ("etc", 0o755), ("proc", 0o755), ("root", 0o700), ("sys", 0o755)]
    {
        layer.directory(path, mode)?;
    }
    layer.directory("tmp", 0o1777)?;
    layer.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")?;
    layer.text("etc/group", "root:x:0:\nnogroup:x:65534:\n")?;
    layer.file("bin/busybox", 0o755, binary.as_slice(), binary.len() as u64)?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        layer.link(&format!("bin/{applet}"), "busybox")?;
    }
    if let Some((name, text)) = script {
        layer.file(name, 0o755, text.as_bytes(), text.len() as u64)?;
    }
    layer.finish()
}
