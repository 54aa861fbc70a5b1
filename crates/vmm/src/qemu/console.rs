//! The guest's console, kept in two files of bounded size.
//!
//! QEMU writes to a pipe. Had it the file itself, whoever has power over the guest could fill the file system, a tmpfs that all
//! sandboxes of the host share. No guest waits for a pipe that is full, or that nobody reads any more: QEMU drops what a
//! `virtconsole` cannot get rid of. So that little is dropped, a thread reads it that has nothing else to do.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::io::ioctl_fionbio;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use tokio::sync::oneshot;

use crate::vmm::VmmError;

/// How long each of the two files may become, in bytes.
pub(super) const LONGEST: u64 = 512 << 10;

/// What a boot says while nobody reads, in bytes.
const PIPE: usize = 256 << 10;

/// How much is read at once, in bytes.
const PIECE: usize = 16 << 10;

/// What of the stack the thread needs, and more, in bytes.
const STACK: usize = 64 << 10;

/// Opens the log. What is written to the descriptor is kept until all of its duplicates are closed; then the receiver hears of the
/// end.
///
/// # Errors
/// The log cannot be opened, there is no pipe, or no thread.
pub(super) fn keep(path: &Path) -> Result<(OwnedFd, oneshot::Receiver<()>), VmmError> {
    let log = Log::open(path).map_err(|source| VmmError::ConsoleLog { path: path.to_owned(), source })?;
    let wrong = |source| VmmError::Socket { what: "console", source };
    let (ours, theirs) = pipe().map_err(wrong)?;
    let (end, ended) = oneshot::channel();
    let thread = thread::Builder::new().name("console".to_owned()).stack_size(STACK);
    let started = thread.spawn(move || {
        pass_on(&mut ours.into(), log);
        // Nobody may wait for it.
        end.send(()).ok();
    });
    started.map_err(wrong)?;
    Ok((theirs, ended))
}

/// The end to read, which waits, and the one to write, which does not.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    ioctl_fionbio(&theirs, true)?;
    // A host may allow less; then more is dropped while the thread is not scheduled.
    fcntl_setpipe_size(&theirs, PIPE).ok();
    Ok((ours, theirs))
}

fn pass_on(pipe: &mut File, mut log: Log) {
    let mut piece = vec![0; PIECE];
    let mut is_kept = true;
    loop {
        let count = match pipe.read(&mut piece) {
            Ok(count @ 1..) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // An error ends it like the end of the stream.
            Ok(0) | Err(_) => return,
        };
        let kept = log.write(&piece[..count]);
        if let (Err(error), true) = (&kept, is_kept) {
            tracing::warn!(error = error as &dyn std::error::Error, "the guest's console is not kept");
        }
        is_kept = kept.is_ok();
    }
}

/// The file that is written, and its length.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Log {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let length = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, length })
    }

    fn write(&mut self, mut piece: &[u8]) -> io::Result<()> {
        while !piece.is_empty() {
            if self.length >= LONGEST {
                fs::rename(&self.path, older(&self.path))?;
                *self = Self::open(&self.path)?;
            }
            let room = usize::try_from(LONGEST - self.length).unwrap_or(usize::MAX);
            let (now, later) = piece.split_at(piece.len().min(room));
            self.length += now.len() as u64;
            self.file.write_all(now)?;
            piece = later;
        }
        Ok(())
    }
}

/// Where the log goes when it is full.
fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".old");
    name.into()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::{ErrorKind, Write};

    use super::{LONGEST, Log, PIPE, keep, pipe};

    /// A guest that wrote to its console without end filled the host's `/run`.
    #[tokio::test]
    async fn two_files_of_a_bounded_length_are_all_that_is_kept_and_they_have_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let (pipe, kept) = keep(&path).unwrap();
        let mut pipe = File::from(pipe);
        let (mut line, mut told) = (0, String::new());
        while told.len() < 3 * usize::try_from(LONGEST).unwrap() {
            let text = format!("[    0.000000] line {line}\r\n");
            match pipe.write(text.as_bytes()) {
                Ok(written) => {
                    assert_eq!(written, text.len(), "short writes to a pipe are whole or not there");
                    told.push_str(&text);
                    line += 1;
                }
                // QEMU would drop it.
                Err(error) if error.kind() == ErrorKind::WouldBlock => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
        drop(pipe);
        kept.await.unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        let old = fs::read(dir.path().join("console.log.old")).unwrap();
        let new = fs::read(&path).unwrap();
        assert_eq!(old.len() as u64, LONGEST);
        assert!((1..=LONGEST).contains(&(new.len() as u64)));
        assert!(told.into_bytes().ends_with(&[old, new].concat()));
    }

    #[test]
    fn a_writer_that_nobody_reads_is_not_kept_waiting() {
        let (reader, writer) = pipe().unwrap();
        let mut writer = File::from(writer);
        let written: usize = std::iter::from_fn(|| writer.write(&[b'x'; 4096]).ok()).sum();
        assert!((4096..=PIPE).contains(&written), "{written}");
        drop(reader);
        assert_eq!(writer.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_directory_that_has_gone_is_not_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("s");
        fs::create_dir(&place).unwrap();
        let mut log = Log::open(&place.join("console.log")).unwrap();
        fs::remove_dir_all(&place).unwrap();
        let piece = vec![b'x'; usize::try_from(LONGEST).unwrap()];
        log.write(&piece).unwrap();
        assert!(log.write(b"more").is_err());
        assert!(!place.exists());
    }
}
