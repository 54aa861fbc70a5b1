//! The end of the guest's console log, for errors that it explains.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// How much is read from the end of the log.
const TAIL_BYTES: u64 = 4096;

/// How many lines an error shows.
const TAIL_LINES: usize = 8;

/// The last lines of the console, introduced by a sentence; empty if there are none.
pub(crate) fn tail(log: &Path) -> String {
    let Ok(bytes) = read_tail(log) else { return String::new() };
    let text = printable(&String::from_utf8_lossy(&bytes));
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        return "; the guest's console is empty".to_owned();
    }
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    format!("; the guest's console ends with: {}", last.join(" | "))
}

fn read_tail(log: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(log)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The guest's words end up on a terminal and in logs: without control sequences.
pub(crate) fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_sequence(&mut chars),
            '\n' => clean.push(c),
            '\t' => clean.push(' '),
            c if c.is_control() => {}
            c => clean.push(c),
        }
    }
    clean
}

/// `ESC [ … letter`, or `ESC` and one character.
fn skip_sequence(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    if chars.next() == Some('[') {
        for c in chars.by_ref() {
            if ('@'..='~').contains(&c) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{printable, tail};

    #[test]
    fn the_last_lines_are_shown_without_control_sequences() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("console.log");
        assert_eq!(tail(&log), "");
        std::fs::write(&log, "").unwrap();
        assert!(tail(&log).contains("is empty"));
        let mut text: String = (0..2000).map(|n| format!("line {n}\r\n")).collect();
        text.push_str("\u{1b}[31mKernel panic\u{1b}[0m - not syncing\r\n\r\n");
        std::fs::write(&log, text).unwrap();
        let tail = tail(&log);
        assert!(tail.ends_with("line 1998 | line 1999 | Kernel panic - not syncing"), "{tail}");
        assert!(!tail.contains("line 1990 "), "{tail}");
    }

    proptest! {
        #[test]
        fn nothing_but_line_feeds_controls_the_terminal(text in any::<String>()) {
            prop_assert!(printable(&text).chars().all(|c| c == '\n' || !c.is_control()));
        }
    }
}
