//! Plain progress lines with the seconds since the start, on standard error.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

const HEARTBEAT: Duration = Duration::from_secs(30);

/// Longer lines are cut.
const LINE_MAX: u64 = 200;

/// Prints what is going on; one per command.
pub(crate) struct Progress {
    start: Instant,
}

impl Progress {
    /// Starts the clock.
    pub(crate) fn new() -> Self {
        Self { start: Instant::now() }
    }

    /// One line: seconds, what it is about, what happens to it.
    pub(crate) fn line(&self, area: &str, text: impl Display) {
        eprintln!("[{:6.1} s] {area}: {text}", self.start.elapsed().as_secs_f64());
    }

    /// Does `work`; says every half minute how far its log is, and at the end how long it took.
    pub(crate) fn watch<T>(&self, area: &str, log: &Path, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let (finished, ticks) = mpsc::channel::<()>();
        let result = std::thread::scope(|scope| {
            scope.spawn(move || {
                while ticks.recv_timeout(HEARTBEAT) == Err(mpsc::RecvTimeoutError::Timeout) {
                    let seconds = begun.elapsed().as_secs();
                    self.line(area, format_args!("{seconds} s so far: {}", last_line(log)));
                }
            });
            let result = work();
            drop(finished);
            result
        });
        if begun.elapsed() > Duration::from_secs(2) {
            self.line(area, format_args!("took {} s", begun.elapsed().as_secs()));
        }
        result
    }
}

/// The last words of a log; empty when there are none yet.
fn last_line(log: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LINE_MAX)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_long_log_is_found() {
        let log = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(log.path(), format!("{}   CC x.o\n\n", "LD y.o\n".repeat(1000))).unwrap();
        assert_eq!(last_line(log.path()), "CC x.o");
        assert_eq!(last_line(Path::new("/nonexistent")), "");
    }
}
