//! A container's log in the format of the Container Runtime Interface: `<time> <stream> <F|P> <text>`.

use std::fs;
use std::path::Path;

use crate::failure::fail;

/// A line of a container's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When, in RFC 3339.
    pub time: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// Whether the workload ended the line here; else it goes on in the next one.
    pub complete: bool,
    /// The text.
    pub text: String,
}

pub(super) fn read(path: &Path) -> Vec<LogLine> {
    let text = fs::read_to_string(path)
        .unwrap_or_else(|e| fail(format_args!("Cannot read the log {}: {e}", path.display())));
    text.lines().map(parse).collect()
}

/// What was written to one stream.
pub(super) fn text(log: &[LogLine], stream: &str) -> String {
    let lines = log.iter().filter(|line| line.stream == stream);
    let text: String =
        lines.map(|line| format!("{}{}", line.text, if line.complete { "\n" } else { "" })).collect();
    text.trim_end().to_owned()
}

fn parse(line: &str) -> LogLine {
    let mut words = line.splitn(4, ' ');
    let mut next = || words.next().unwrap_or_else(|| fail(format_args!("Not a line of a log: {line:?}")));
    let (time, stream, tag, text) = (next(), next(), next(), next());
    assert!(matches!(tag, "F" | "P") && matches!(stream, "stdout" | "stderr"), "{line:?}");
    LogLine { time: time.to_owned(), stream: stream.to_owned(), complete: tag == "F", text: text.to_owned() }
}
