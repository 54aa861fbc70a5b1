//! The initrd: the agent as `/init`, the directories it mounts on, and a console for its first words.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::cpio::Archive;
use crate::progress::Progress;
use crate::workspace::Workspace;

/// Where the agent mounts, and what programs expect to be there.
const DIRECTORIES: [&str; 9] = ["dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "var"];

/// Packs the agent; returns the path of the compressed image.
pub(crate) fn ensure(workspace: &Workspace, progress: &Progress, agent: &Path) -> Result<PathBuf> {
    let image = workspace.target.join("kata-containers-initrd.img");
    let binary = fs::read(agent).with_context(|| format!("Cannot read the agent {}", agent.display()))?;
    let compressed = compress(&archive(binary).to_bytes())?;
    if fs::read(&image).is_ok_and(|old| old == compressed) {
        progress.line("initrd", format_args!("ready, {} KiB", compressed.len() / 1024));
        return Ok(image);
    }
    let mut file = tempfile::NamedTempFile::new_in(&workspace.target)?;
    file.write_all(&compressed)?;
    file.persist(&image).context("Cannot write the initrd")?;
    progress.line("initrd", format_args!("packed, {} KiB", compressed.len() / 1024));
    Ok(image)
}

fn archive(agent: Vec<u8>) -> Archive {
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
    archive
}

/// lz4 in the kernel's own ("legacy") framing: a little larger than the others, and the quickest to unpack in a guest.
fn compress(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut lz4 = Command::new("lz4");
    lz4.args(["-l", "-9", "-q", "-z", "-", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = lz4.spawn().context("Cannot run lz4")?;
    let mut input = child.stdin.take().expect("its standard input was asked for");
    let output = std::thread::scope(|scope| {
        // The input is closed when the thread ends, or lz4 would wait for more.
        let writer = scope.spawn(move || input.write_all(bytes));
        let output = child.wait_with_output();
        writer.join().expect("writing does not panic").and(output)
    })?;
    if !output.status.success() {
        bail!("lz4 failed ({})", output.status);
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_agents_give_equal_images() {
        let agent = b"not an ELF file, but as good".repeat(1000);
        let first = compress(&archive(agent.clone()).to_bytes()).unwrap();
        let second = compress(&archive(agent).to_bytes()).unwrap();
        assert_eq!(first, second);
        assert_eq!(first[..4], [0x02, 0x21, 0x4c, 0x18], "the kernel knows only lz4's legacy magic");
    }
}
