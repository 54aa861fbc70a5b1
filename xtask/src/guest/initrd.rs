//! The initrd: the agent as `/init`, the directories it mounts on, the policies of its security modules, and a
//! console for the first words.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::policies::{self, Policies};
use crate::progress::Progress;
use crate::workspace::Workspace;

/// The names of the images.
const PLAIN: &str = "kata-containers-initrd.img";
const GUEST_PULL: &str = "kata-containers-initrd-guest-pull.img";

/// The certificate authorities that this machine trusts: Debian's, and those that its administrator has added.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Where the agent mounts, and what programs expect to be there.
const DIRECTORIES: [&str; 9] = ["dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "var"];

/// The images.
pub(crate) struct Initrds {
    /// The usual one.
    pub(crate) plain: PathBuf,
    /// With the program that pulls images. It is a multiple of the usual one, which every guest would have to load.
    pub(crate) guest_pull: PathBuf,
}

/// Packs the agent; returns the paths of the images. They are not compressed: the agent is small, and unpacking in a guest
/// takes longer than reading twice the bytes.
pub(crate) fn ensure(
    workspace: &Workspace,
    progress: &Progress,
    agent: &Path,
    image_pull: &Path,
) -> Result<Initrds> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("Cannot read {}", path.display()));
    let agent = read(agent)?;
    let mut archive = archive(agent, policies::ensure(workspace, progress)?);
    let plain = write(workspace, progress, PLAIN, &archive.to_bytes())?;
    add_guest_pull(&mut archive, read(image_pull)?, read(Path::new(AUTHORITIES))?);
    let guest_pull = write(workspace, progress, GUEST_PULL, &archive.to_bytes())?;
    Ok(Initrds { plain, guest_pull })
}

fn write(workspace: &Workspace, progress: &Progress, name: &str, packed: &[u8]) -> Result<PathBuf> {
    let image = workspace.target.join(name);
    if fs::read(&image).is_ok_and(|old| old == packed) {
        progress.line("initrd", format_args!("{name} ready, {} KiB", packed.len() / 1024));
        return Ok(image);
    }
    let mut file = tempfile::NamedTempFile::new_in(&workspace.target)?;
    file.write_all(packed)?;
    file.persist(&image).context("Cannot write the initrd")?;
    progress.line("initrd", format_args!("{name} packed, {} KiB", packed.len() / 1024));
    Ok(image)
}

/// Where the agent and the program look.
fn add_guest_pull(archive: &mut Archive, image_pull: Vec<u8>, authorities: Vec<u8>) {
    archive.directory("usr/bin", 0o755).file("usr/bin/kata-image-pull", 0o755, image_pull);
    archive.directory("etc/ssl", 0o755).directory("etc/ssl/certs", 0o755);
    archive.file("etc/ssl/certs/ca-certificates.crt", 0o644, authorities);
}

fn archive(agent: Vec<u8>, policies: Policies) -> Archive {
    let mut archive = Archive::default();
    for directory in DIRECTORIES {
        let mode = match directory {
            "tmp" => 0o1777,
            "root" => 0o700,
            _ => 0o755,
        };
        archive.directory(directory, mode);
    }
    archive.device("dev/console", 0o600, 5, 1).device("dev/null", 0o666, 1, 3).file("init", 0o755, agent);
    for folder in ["etc/apparmor", "etc/selinux"] {
        archive.directory(folder, 0o755);
    }
    archive.file("etc/apparmor/container-default", 0o644, policies.apparmor);
    archive.file("etc/selinux/policy", 0o644, policies.selinux);
    archive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_agents_give_equal_images() {
        let agent = b"not an ELF file, but as good".repeat(1000);
        let policies = || Policies { apparmor: b"profile".to_vec(), selinux: b"policy".to_vec() };
        let first = archive(agent.clone(), policies()).to_bytes();
        assert_eq!(first, archive(agent, policies()).to_bytes());
        assert_eq!(&first[..6], b"070701", "the kernel knows the archive by this");
    }
}
