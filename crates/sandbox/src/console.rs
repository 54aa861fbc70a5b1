//! The end of the guest's console log, for errors that it explains.

use std::path::Path;

use crate::kept_log::last_bytes;
use crate::launch::CONSOLE_FILE_OLD;

/// How much is read from the end of the log.
const TAIL_BYTES: u64 = 16 * 1024;

/// How many lines an error shows.
const TAIL_LINES: usize = 8;

/// How many lines it shows of a kernel's account of its own death.
const ACCOUNT_LINES: usize = 32;

/// What the first line of such an account has in it (x86, Linux's `die` and `panic`).
const DEATH: [&str; 5] = ["BUG:", "[#1]", "general protection fault", "kernel BUG at", "Kernel panic"];

/// What lines of registers have in them, which tell nothing without the kernel's memory.
const REGISTERS: [&str; 9] = ["RAX:", "RDX:", "RBP:", "R10:", "R13:", "FS: ", "CS: ", "CR2:", "Code:"];

/// The last lines of the console, or those in which its kernel tells why it dies, introduced by a sentence; empty if there
/// are none.
pub(crate) fn tail(log: &Path) -> String {
    let older = log.with_file_name(CONSOLE_FILE_OLD);
    let Ok(Some(bytes)) = last_bytes(log, &older, TAIL_BYTES) else { return String::new() };
    let text = printable(&String::from_utf8_lossy(&bytes));
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        return "; the guest's console is empty".to_owned();
    }
    if let Some(begin) = lines.iter().position(|line| has_any(line, &DEATH)) {
        let account = lines[begin..].iter().filter(|line| !has_any(line, &REGISTERS));
        let account: Vec<&str> = account.take(ACCOUNT_LINES).copied().collect();
        return format!("; the guest's kernel says: {}", account.join(" | "));
    }
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    format!("; the guest's console ends with: {}", last.join(" | "))
}

fn has_any(line: &str, words: &[&str]) -> bool {
    words.iter().any(|word| line.contains(word))
}

/// The guest's words end up on a terminal and in logs: without control sequences.
#[must_use]
pub fn printable(text: &str) -> String {
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
        text.push_str("\u{1b}[31mlast\u{1b}[0m words\r\n\r\n");
        std::fs::write(&log, text).unwrap();
        let tail = tail(&log);
        assert!(tail.ends_with("line 1998 | line 1999 | last words"), "{tail}");
        assert!(!tail.contains("line 1990 "), "{tail}");
    }

    /// Regression: only the registers at its end were shown.
    #[test]
    fn a_kernels_account_of_its_death_is_shown_from_its_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("console.log");
        let before = "line\n".repeat(100);
        let trace: String = (0..10).map(|n| format!("[ 1.39] ? function_{n}+0x1/0x2\n")).collect();
        let text = format!(
            "{before}[ 1.39] Oops: general protection fault: 0000 [#1]\n[ 1.39] CPU: 0 PID: 1 Comm: kata-agent\n\
             [ 1.39] RIP: 0010:something+0x5/0x10\n[ 1.39] Code: 90 90\n[ 1.39] RAX: 0 RBX: 1\n{trace}\
             [ 1.39] R10: 0 R11: 1\n[ 1.40] Kernel panic - not syncing: Fatal exception\n"
        );
        std::fs::write(&log, text).unwrap();
        let tail = tail(&log);
        assert!(tail.starts_with("; the guest's kernel says: [ 1.39] Oops: general protection"), "{tail}");
        assert!(tail.contains("RIP: 0010:something") && tail.contains("function_9"), "{tail}");
        assert!(!tail.contains("RAX") && tail.ends_with("Fatal exception"), "{tail}");
    }

    proptest! {
        #[test]
        fn nothing_but_line_feeds_controls_the_terminal(text in any::<String>()) {
            prop_assert!(printable(&text).chars().all(|c| c == '\n' || !c.is_control()));
        }
    }
}
