//! The kernel's source: Debian's `linux-source` package, fetched once through a private apt state and kept.
//!
//! To build from a newer version, remove `linux-source` from the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt::{PrivateApt, Release};
use crate::process;
use crate::progress::Progress;
use crate::workspace::Workspace;

/// The long-term release the fragments are written for.
const WANTED: &str = "linux-source-6.12";
/// Metapackage of the release's own kernel.
const FALLBACK: &str = "linux-source";

/// An unpacked package in the cache.
pub(crate) struct KernelSource {
    /// Package and Debian version, such as `linux-source-6.12 6.12.95-1~bpo12+1`.
    pub(crate) version: String,
    /// The packed tree.
    pub(crate) tarball: PathBuf,
    /// Whether the fragments were written for this release.
    pub(crate) wanted: bool,
}

/// Takes the source from the cache, or downloads it.
pub(crate) fn ensure(workspace: &Workspace, progress: &Progress) -> Result<KernelSource> {
    let home = workspace.cache.join("linux-source");
    if !home.is_dir() {
        let temporary = tempfile::Builder::new().prefix(".linux-source-").tempdir_in(&workspace.cache)?;
        let ready = temporary.path().join("ready");
        download(workspace, progress, temporary.path(), &ready)?;
        fs::rename(&ready, &home).context("Cannot put the kernel source into the cache")?;
    }
    read(&home)
}

fn read(home: &Path) -> Result<KernelSource> {
    let version = fs::read_to_string(home.join("version"));
    let version = version.with_context(|| format!("Cannot read {0}/version: remove {0}", home.display()))?;
    let wanted = version.starts_with(WANTED);
    Ok(KernelSource { version, tarball: home.join("source.tar.xz"), wanted })
}

fn download(workspace: &Workspace, progress: &Progress, scratch: &Path, ready: &Path) -> Result<()> {
    let log = workspace.log("kernel-source")?;
    let release = Release::of_this_machine()?;
    progress.line("kernel", format_args!("fetching Debian's linux-source, once (log: {})", log.display()));
    let package = progress.watch("kernel", &log, || fetch(&release, scratch, &log))?;

    let unpacked = scratch.join("unpacked");
    process::output(Command::new("dpkg").arg("-x").arg(&package).arg(&unpacked))?;
    let name = process::text(Command::new("dpkg-deb").arg("-f").arg(&package).arg("Package"))?;
    let version = process::text(Command::new("dpkg-deb").arg("-f").arg(&package).arg("Version"))?;
    fs::create_dir(ready)?;
    let tarball = unpacked.join("usr/src").join(format!("{name}.tar.xz"));
    fs::rename(&tarball, ready.join("source.tar.xz"))
        .with_context(|| format!("{name} {version} holds no {}", tarball.display()))?;
    fs::write(ready.join("version"), format!("{name} {version}"))?;
    progress.line("kernel", format_args!("source is {name} {version}"));
    Ok(())
}

/// The wanted package from backports or the release, else what the release calls its kernel source.
fn fetch(release: &Release, scratch: &Path, log: &Path) -> Result<PathBuf> {
    let first = PrivateApt::new(&scratch.join("apt"), &release.sources_with_backports(), log)?;
    let error = match first.update().and_then(|()| first.download(WANTED)) {
        Ok(package) => return Ok(package),
        Err(error) => error,
    };
    let own = PrivateApt::new(&scratch.join("apt-release"), &release.sources(), log)?;
    let fallback = own.update().and_then(|()| {
        let packages = own.dependencies(FALLBACK)?;
        let package = packages.iter().find(|p| p.starts_with("linux-source-"));
        own.download(package.context("linux-source depends on no source package")?)
    });
    let Ok(package) = fallback else {
        bail!(
            "Neither {WANTED} from {0}-backports nor {0}'s own {FALLBACK} can be had: check the machine's apt \
             sources and network. The first attempt said: {error:#}",
            release.codename()
        );
    };
    Ok(package)
}
