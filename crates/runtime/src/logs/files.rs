//! The logs in a sandbox's directory, read from where the last reading ended.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use kata_sandbox::{CONSOLE_FILE, CONSOLE_FILE_OLD, LogReader, SHIM_LOG_FILE, SHIM_LOG_FILE_OLD};

use super::{console, line::Line};

/// The files of one sandbox.
pub(crate) struct Files {
    dir: PathBuf,
    console: Tail,
    shim: Tail,
    start: SystemTime,
    /// The times of the last lines.
    last: (SystemTime, SystemTime),
}

impl Files {
    /// Those in a state directory.
    pub(crate) fn of(dir: &Path) -> Self {
        let start = console::guest_start(dir);
        let console = Tail::of(LogReader::of(dir, CONSOLE_FILE, CONSOLE_FILE_OLD));
        let shim = Tail::of(LogReader::of(dir, SHIM_LOG_FILE, SHIM_LOG_FILE_OLD));
        Self { dir: dir.to_owned(), console, shim, start, last: (start, SystemTime::UNIX_EPOCH) }
    }

    /// Whether the shim keeps its lines here.
    pub(super) fn has_shim_log(&self) -> bool {
        self.dir.join(SHIM_LOG_FILE).exists()
    }

    /// What has been added since the last call.
    pub(super) fn new_lines(&mut self) -> Vec<Line> {
        let mut lines = Vec::new();
        for raw in self.shim.read() {
            let line = Line::of_shim(&raw, self.last.1);
            self.last.1 = line.time;
            lines.push(line);
        }
        for raw in self.console.read() {
            let line = console::line(&raw, self.start, self.last.0);
            self.last.0 = line.time;
            lines.push(line);
        }
        lines.retain(|line| !line.text.is_empty());
        lines
    }
}

/// A line that is longer goes on as another, in bytes.
const LONGEST_LINE: usize = 64 << 10;

/// A log that grows.
struct Tail {
    log: LogReader,
    /// A line without an end yet.
    rest: Vec<u8>,
}

impl Tail {
    fn of(log: LogReader) -> Self {
        Self { log, rest: Vec::new() }
    }

    /// Whole lines that are new; a file that cannot be read has none.
    fn read(&mut self) -> Vec<String> {
        let mut bytes = std::mem::take(&mut self.rest);
        // What was read before an error counts.
        let _ = self.log.read(|piece| bytes.extend_from_slice(piece));
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if bytes.len() - whole < LONGEST_LINE {
            self.rest = bytes.split_off(whole);
        }
        String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::Files;

    #[test]
    fn a_file_is_read_on_and_a_new_one_from_its_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shim.log");
        fs::write(&path, "level=info msg=a\nlevel=info msg=b").unwrap();
        let mut files = Files::of(dir.path());
        let mut texts =
            move || -> Vec<String> { files.new_lines().into_iter().map(|line| line.text).collect() };
        assert_eq!(texts(), ["level=info msg=a"]);
        fs::write(&path, "level=info msg=a\nlevel=info msg=bc\n").unwrap();
        assert_eq!(texts(), ["level=info msg=bc"]);
        fs::rename(&path, dir.path().join("shim.log.old")).unwrap();
        fs::write(&path, "level=info msg=d\n").unwrap();
        assert_eq!(texts(), ["level=info msg=d"]);
        assert!(texts().is_empty());
    }
}
