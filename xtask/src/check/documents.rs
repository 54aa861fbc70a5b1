//! Tests that a document names are there.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::source::Source;

/// Tables whose last column names tests.
const DOCUMENTS: [&str; 1] = ["docs/oci.md"];

/// Every test that a document names and no source has.
pub(crate) fn check(root: &Path, sources: &[Source]) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    for document in DOCUMENTS {
        let text =
            fs::read_to_string(root.join(document)).with_context(|| format!("Cannot read {document}"))?;
        for (line, name) in tests_named_in(&text) {
            if !sources.iter().any(|source| has_test(&source.text, name)) {
                missing.push(format!("{document}:{line} names the test {name}, which is not there"));
            }
        }
    }
    Ok(missing)
}

/// Line and name of each test in the last column of a table.
pub(crate) fn tests_named_in(text: &str) -> Vec<(usize, &str)> {
    let mut named = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let Some(column) = line.strip_prefix('|').and_then(|row| row.trim_end().strip_suffix('|')) else {
            continue;
        };
        let column = column.rsplit('|').next().unwrap_or_default();
        named.extend(column.split('`').skip(1).step_by(2).map(|name| (index + 1, name)));
    }
    named
}

/// Whether there is a test of this name: a function, or the word that a macro makes one of.
pub(crate) fn has_test(source: &str, name: &str) -> bool {
    let words = |line: &str| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name);
    source.lines().any(|line| {
        let line = line.trim_start();
        let begins = ["fn ", "async fn ", "agent_test!("].iter().any(|start| line.starts_with(start));
        // A macro's call may begin on the line before.
        words(line) && (begins || line == format!("{name},"))
    })
}
