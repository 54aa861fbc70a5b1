//! The images that demo, measurements and tests run: busybox, a pause image, a Debian, servers and clients for
//! networks, and programs that work a file system hard, all made here from Debian packages.

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
    let choice = Choice {
        label: "debian image",
        name: "localhost/kata/debian:1",
        file: "debian",
        arguments: &["--variant=minbase", "--include=python3-minimal"],
        disk_bytes: None,
    };
    choice.image(workspace, progress)
}

/// Programs that work a file system hard, in a Debian whose packages are configured, so that apt-get works; also as
/// disks for root file systems.
pub(crate) fn tools(workspace: &Workspace, progress: &Progress) -> Result<Image> {
    let choice = Choice {
        label: "tools image",
        name: "localhost/kata/tools:1",
        file: "tools",
        arguments: &[
            "--variant=minbase",
            "--include=dbench,fio,git,postgresql,sqlite3,stress-ng",
            "--aptopt=APT::Install-Recommends \"false\"",
            // PostgreSQL's package would make a cluster, which the tests do by themselves.
            "--essential-hook=mkdir -p \"$1/etc/postgresql-common\"; \
             echo create_main_cluster = false > \"$1/etc/postgresql-common/createcluster.conf\"",
            // For compilers at run time, of graphics and of queries: half of all the packages' size.
            "--dpkgopt=path-exclude=/usr/lib/*/libLLVM*",
            "--dpkgopt=path-exclude=/usr/lib/*/libz3*",
            "--dpkgopt=path-exclude=/usr/lib/llvm-*",
            "--dpkgopt=path-exclude=/usr/lib/*/dri/*",
            "--dpkgopt=path-exclude=/usr/lib/postgresql/*/lib/bitcode/*",
        ],
        disk_bytes: Some(TOOLS_DISK),
    };
    choice.image(workspace, progress)
}

/// Room for what the largest tests write; what is not written takes none.
const TOOLS_DISK: u64 = 6 << 30;

/// Servers and clients that prove a network, of the same release as this machine, with as much around them as a shell
/// needs; nothing is configured.
pub(crate) fn network(workspace: &Workspace, progress: &Progress) -> Result<Image> {
    let choice = Choice {
        label: "network image",
        name: "localhost/kata/network:1",
        file: "network",
        arguments: &[
            "--variant=extract",
            "--include=base-files,busybox-static,dash,dnsmasq-base,iperf3,iproute2,iputils-ping,libc-bin,\
             nginx-light,redis-server,wrk",
            "--aptopt=APT::Install-Recommends \"false\"",
            // Only the packages' scripts want it, and none of them runs.
            "--dpkgopt=path-exclude=/usr/*/perl*/*",
            "--extract-hook=for applet in cat grep sleep; do ln -s busybox \"$1/bin/$applet\"; done",
            // busybox's own would take its applets for the packages' programs.
            "--extract-hook=ln -sf dash \"$1/bin/sh\"",
            "--extract-hook=echo root:x:0:0:root:/root:/bin/sh > \"$1/etc/passwd\"",
            "--extract-hook=echo root:x:0: > \"$1/etc/group\"",
            "--extract-hook=echo hosts: files dns > \"$1/etc/nsswitch.conf\"",
        ],
        disk_bytes: None,
    };
    choice.image(workspace, progress)
}

/// Debian packages that make an image.
struct Choice {
    label: &'static str,
    name: &'static str,
    /// In the cache, without extension.
    file: &'static str,
    /// Of mmdebstrap.
    arguments: &'static [&'static str],
    /// If it is wanted as an ext4 file system of this size and as a layer of EROFS, too.
    disk_bytes: Option<u64>,
}

impl Choice {
    fn image(&self, workspace: &Workspace, progress: &Progress) -> Result<Image> {
        let _lock = workspace.lock(self.file, progress)?;
        let file = directory(workspace)?.join(self.file).with_extension("tar");
        let image = Image { name: self.name, file };
        // The last that is made.
        if image.file.is_file() {
            progress.line(self.label, "ready");
            return Ok(image);
        }
        let log = workspace.log(self.file)?;
        progress.line(self.label, format_args!("from Debian packages, once (log: {})", log.display()));
        let scratch = tempfile::Builder::new().prefix(".image-").tempdir_in(&workspace.cache)?;
        progress.watch(self.label, &log, || {
            let layer = scratch.path().join("layer.tar");
            process::logged(&mut self.mmdebstrap(scratch.path(), &layer)?, &log)?;
            if let Some(bytes) = self.disk_bytes {
                disks(scratch.path(), &layer, bytes, &log)?;
                for kind in ["ext4", "erofs"] {
                    fs::rename(scratch.path().join(kind), image.file.with_extension(kind))?;
                }
            }
            oci_image::write(image.name, &["/bin/sh"], &layer, &image.file)
        })?;
        Ok(image)
    }

    fn mmdebstrap(&self, scratch: &Path, layer: &Path) -> Result<Command> {
        let release = Release::of_this_machine()?;
        let sources = scratch.join("debian.sources");
        fs::write(&sources, release.sources())?;
        let mut mmdebstrap = Command::new("mmdebstrap");
        mmdebstrap.args(self.arguments).args(["--format=tar", release.codename()]);
        // What no program needs to run is a third of the packages' size.
        for unneeded in ["doc", "info", "locale", "man"] {
            mmdebstrap.arg(format!("--dpkgopt=path-exclude=/usr/share/{unneeded}/*"));
        }
        mmdebstrap.arg(layer).arg(&sources).env("SOURCE_DATE_EPOCH", "0").env("TMPDIR", scratch);
        Ok(mmdebstrap)
    }
}

/// Makes the files `ext4` and `erofs` of what is in `layer`.
fn disks(scratch: &Path, layer: &Path, bytes: u64, log: &Path) -> Result<()> {
    let [root, ext4, erofs] = ["root", "ext4", "erofs"].map(|name| scratch.join(name));
    fs::create_dir(&root)?;
    let mut tar = Command::new("tar");
    process::logged(tar.args(["-xp", "--numeric-owner", "-f"]).arg(layer).arg("-C").arg(&root), log)?;
    fs::File::create_new(&ext4)?.set_len(bytes)?;
    process::logged(Command::new("mkfs.ext4").arg("-qFd").arg(&root).arg(&ext4), log)?;
    process::logged(Command::new("mkfs.erofs").arg("--quiet").arg(&erofs).arg(&root), log)
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
