//! Writing to standard output. Nothing is coloured, so `NO_COLOR` is respected as it is.

use std::fmt::Display;
use std::io::{self, Write};

use serde::Serialize;

/// Prints lines. A reader that has gone away is an error, which [`is_broken_pipe`] tells from others.
pub(crate) fn lines<T: Display>(all: impl IntoIterator<Item = T>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    for line in all {
        writeln!(stdout, "{line}")?;
    }
    stdout.flush()
}

/// Prints a value as indented JSON.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(lines([serde_json::to_string_pretty(value)?])?)
}

/// Whether the reader of our output went away (`kata-runtime … | head`).
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|io| io.kind() == io::ErrorKind::BrokenPipe)
    })
}
