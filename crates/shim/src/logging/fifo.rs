//! containerd's `log` FIFO.
//!
//! It is opened for reading, too: then opening never waits or fails for want of a reader, writing never
//! raises `EPIPE` while containerd is away, and up to a pipe full of lines waits for containerd's return.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;

/// Up to this many bytes, a pipe takes a write whole or not at all (`PIPE_BUF`).
pub(super) const WHOLE: usize = 4096;
const CUT: &str = " …(cut)\n";

/// The writing end.
pub(super) struct LogFifo {
    file: File,
    lost: AtomicU64,
}

impl LogFifo {
    /// Opens it; whether anybody reads makes no difference.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).expect("the flag is a small constant");
        let file = OpenOptions::new().read(true).append(true).custom_flags(flags).open(path)?;
        Ok(Self { file, lost: AtomicU64::new(0) })
    }

    /// Writes a line, which should not be longer than [`WHOLE`], or drops it when the pipe is full; how many were dropped is
    /// told in the words of `told` before the next one that fits.
    pub(super) fn write(&self, mut line: String, told: impl FnOnce(u64) -> String) {
        cut(&mut line);
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 && !self.put(&told(lost)) {
            self.lost.fetch_add(lost, Ordering::Relaxed);
        }
        if !self.put(&line) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn put(&self, line: &str) -> bool {
        (&self.file).write(line.as_bytes()).is_ok()
    }
}

/// Shortens a line to what a pipe takes whole.
fn cut(line: &mut String) {
    if line.len() > WHOLE {
        line.truncate(line.floor_char_boundary(WHOLE - CUT.len()));
        line.push_str(CUT);
    }
}

#[cfg(test)]
mod tests {
    use super::{WHOLE, cut};

    #[test]
    fn long_lines_are_cut_between_characters() {
        let mut line = "é".repeat(WHOLE);
        cut(&mut line);
        assert!(line.len() <= WHOLE && line.ends_with("(cut)\n"));
        let mut short = "short\n".to_owned();
        cut(&mut short);
        assert_eq!(short, "short\n");
    }
}
