//! Which shell there is, or which one the client brings.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use kata_protocol::console::{Kind, MAX_SHELL};
use rustix::fs::{MemfdFlags, memfd_create};
use tokio::io::AsyncRead;

use super::ConsoleError;
use super::messages::{Tell, hear};

/// Upstream's, in its order.
const SHELLS: [&str; 3] = ["/run/kata-extensions/devkit/bin/devkit-sh", "/bin/bash", "/bin/sh"];

/// A program to run.
#[derive(Debug)]
pub(super) enum Shell {
    /// The guest's own.
    Own(&'static Path),
    /// The client's. It is in no directory, and its memory is free when nobody runs it any more.
    Brought(File),
}

impl Shell {
    /// The guest's own, if it has one.
    pub(super) fn own() -> Option<Self> {
        SHELLS.iter().map(Path::new).find(|path| path.is_file()).map(Self::Own)
    }

    /// Asks the client for its shell.
    pub(super) async fn brought(
        from: &mut (impl AsyncRead + Unpin),
        tell: &Tell,
    ) -> Result<Self, ConsoleError> {
        // Fails if the client is gone, and then hearing does, too.
        let _ = tell.send((Kind::WantShell, Vec::new())).await;
        let mut file = memory().map_err(|source| ConsoleError::Step("keep the shell", source))?;
        let mut length = 0;
        loop {
            let (Kind::Shell, piece) = hear(from).await? else {
                return Err(kata_protocol::console::Breach.into());
            };
            if piece.is_empty() {
                return Ok(Self::Brought(file));
            }
            length += piece.len();
            if length > MAX_SHELL {
                return Err(ConsoleError::LargeShell);
            }
            file.write_all(&piece).map_err(|source| ConsoleError::Step("keep the shell", source))?;
        }
    }

    /// Where it is found as long as this lives.
    pub(super) fn path(&self) -> PathBuf {
        match self {
            Self::Own(path) => path.to_path_buf(),
            Self::Brought(file) => {
                PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()))
            }
        }
    }
}

fn memory() -> io::Result<File> {
    Ok(memfd_create("shell", MemfdFlags::CLOEXEC)?.into())
}
