//! Which QEMU is installed.

use std::fmt;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::qmp::Version;
use crate::vmm::VmmError;

/// Longest time that `--version` may take; it is milliseconds, unless the binary comes from a cold disk.
const PATIENCE: Duration = Duration::from_secs(10);

/// The oldest version the driver is tested with.
pub const OLDEST_SUPPORTED: Version = Version { major: 7, minor: 2, micro: 0 };

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// Runs `binary --version` and reads the answer.
///
/// # Errors
/// The binary is missing, does not start, or is no QEMU.
pub async fn probe(binary: &Path) -> Result<Version, VmmError> {
    let spawn_error = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => VmmError::BinaryMissing { path: binary.to_owned() },
        _ => VmmError::Spawn { path: binary.to_owned(), source },
    };
    let mut command = Command::new(binary);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let output = match timeout(PATIENCE, command.output()).await {
        Ok(output) => output.map_err(spawn_error)?,
        Err(_) => return Err(spawn_error(io::ErrorKind::TimedOut.into())),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).ok_or_else(|| VmmError::Version {
        path: binary.to_owned(),
        output: text.chars().take(200).collect(),
    })
}

/// Reads `QEMU emulator version 7.2.22 (Debian …)`.
pub(super) fn parse(output: &str) -> Option<Version> {
    let rest = output.split_once("QEMU emulator version ")?.1;
    let number = rest.split(|c: char| c.is_whitespace() || c == '-').next()?;
    let mut parts = number.split('.').map(str::parse);
    let mut next = || parts.next()?.ok();
    let (major, minor) = (next()?, next()?);
    Some(Version { major, minor, micro: next().unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Version, parse, probe};
    use crate::vmm::VmmError;

    #[test]
    fn versions_are_read() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright (c)…";
        assert_eq!(parse(debian), Some(Version { major: 7, minor: 2, micro: 22 }));
        assert_eq!(parse("QEMU emulator version 10.0-rc1\n").unwrap().to_string(), "10.0.0");
        assert_eq!(parse("bash: no such thing"), None);
        assert_eq!(parse("QEMU emulator version ten"), None);
        assert!(parse("QEMU emulator version 10.1.0") > parse(debian));
    }

    #[tokio::test]
    async fn what_is_no_qemu_is_named() {
        let missing = probe(Path::new("/nonexistent/qemu")).await.unwrap_err();
        assert!(matches!(missing, VmmError::BinaryMissing { .. }), "{missing}");
        let other = probe(Path::new("/bin/true")).await.unwrap_err();
        assert!(other.to_string().contains("/bin/true"), "{other}");
    }
}
