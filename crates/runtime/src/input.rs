//! Files that a command reads.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use anyhow::Context;

/// What is in the file; `-` is standard input.
pub(crate) fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    if file == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).context("Cannot read standard input")?;
        return Ok(bytes);
    }
    fs::read(file).with_context(|| format!("Cannot read {}", file.display()))
}
