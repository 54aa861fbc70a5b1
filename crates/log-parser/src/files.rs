//! Files of lines.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use crate::record::{Problem, Record};

/// What is in a file.
#[derive(Debug, Default)]
pub(crate) struct FileLog {
    /// How messages call it.
    pub(crate) name: String,
    /// In its order; when each happened, of those without a time that of the one before.
    pub(crate) records: Vec<(i128, Record)>,
    /// Lines that are not in order.
    pub(crate) problems: Vec<(u64, Problem)>,
}

/// Reads a file; `-` is standard input.
pub(crate) fn read(path: &Path, may_lack: bool) -> io::Result<FileLog> {
    if path == Path::new("-") {
        return lines(io::stdin().lock(), "stdin", may_lack);
    }
    lines(BufReader::new(File::open(path)?), &path.to_string_lossy(), may_lack)
}

/// Reads lines; empty ones do not count.
pub(crate) fn lines(mut source: impl BufRead, name: &str, may_lack: bool) -> io::Result<FileLog> {
    let mut log = FileLog { name: name.to_owned(), ..FileLog::default() };
    let (mut line, mut number, mut last) = (Vec::new(), 0, i128::MIN);
    while source.read_until(b'\n', &mut line)? > 0 {
        number += 1;
        let text = line.trim_ascii_end();
        if !text.is_empty() {
            match Record::read(text, may_lack) {
                Err(problem) => log.problems.push((number, problem)),
                Ok((record, at)) => {
                    last = at.unwrap_or(last);
                    log.records.push((last, Record { file: name.to_owned(), line: number, ..record }));
                }
            }
        }
        line.clear();
    }
    Ok(log)
}
