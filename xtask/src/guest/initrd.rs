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

/// Where the agent mounts, and what programs expect to be there.
const DIRECTORIES: [&str; 9] = ["dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "var"];

/// Packs the agent; returns the path of the image. It is not compressed: the agent is small, and unpacking in a guest
/// takes longer than reading twice the bytes.
pub(crate) fn ensure(workspace: &Workspace, progress: &Progress, agent: &Path) -> Result<PathBuf> {
    let image = workspace.target.join("kata-containers-initrd.img");
    let binary = fs::read(agent).with_context(|| format!("Cannot read the agent {}", agent.display()))?;
    let packed = archive(binary, policies::ensure(workspace, progress)?).to_bytes();
    if fs::read(&image).is_ok_and(|old| old == packed) {
        progress.line("initrd", format_args!("ready, {} KiB", packed.len() / 1024));
        return Ok(image);
    }
    let mut file = tempfile::NamedTempFile::new_in(&workspace.target)?;
    file.write_all(&packed)?;
    file.persist(&image).context("Cannot write the initrd")?;
    progress.line("initrd", format_args!("packed, {} KiB", packed.len() / 1024));
    Ok(image)
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
