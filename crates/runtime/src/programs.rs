//! The versions of the programs the runtime starts.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

/// Why a program's version is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VersionError {
    /// It could not be started.
    #[error("it does not start")]
    Start(#[source] io::Error),
    /// It ran and said nothing useful.
    #[error("`--version` fails or prints no version")]
    Silent,
}

/// Runs `binary --version` of a Rust program and takes the number out of `virtiofsd 1.14.0`, the first there is.
pub(crate) fn version(binary: &Path) -> Result<String, VersionError> {
    let output = Command::new(binary).arg("--version").output().map_err(VersionError::Start)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    match number {
        Some(number) if output.status.success() => Ok(number.to_owned()),
        _ => Err(VersionError::Silent),
    }
}

/// Whether a QEMU has the device by which it shares files itself.
pub(crate) fn has_nine_p(qemu: &Path) -> io::Result<bool> {
    let output = Command::new(qemu).args(["-device", "help"]).stdin(Stdio::null()).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).contains("\"virtio-9p-pci\""))
}

/// Asks QEMU for its version.
pub(crate) fn qemu(binary: &Path) -> Result<kata_vmm::qemu::Version, kata_vmm::VmmError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let spawn = |source| kata_vmm::VmmError::Spawn { path: binary.to_owned(), source };
    runtime.map_err(spawn)?.block_on(kata_vmm::qemu::probe(binary))
}
