//! Facts, by name.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, Write};

/// What has been found out.
#[derive(Debug, Default)]
pub(crate) struct Report(BTreeMap<String, String>);

impl Report {
    /// Notes a fact.
    pub(crate) fn tell(&mut self, name: impl Display, value: impl Display) {
        self.0.insert(one_line(name), one_line(value));
    }

    /// Notes a fact that could not be found out for a reason, or could.
    pub(crate) fn tell_result<T: Display>(&mut self, name: impl Display, value: io::Result<T>) {
        match value {
            Ok(value) => self.tell(name, value),
            Err(error) => self.tell(name, reason(&error)),
        }
    }

    /// Writes all facts to standard output.
    pub(crate) fn print(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        self.0.iter().try_for_each(|(name, value)| writeln!(out, "{name}\t{value}"))?;
        out.flush()
    }
}

/// The error by its number: texts may be another library's.
pub(crate) fn reason(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |number| format!("error {number}"))
}

fn one_line(text: impl Display) -> String {
    text.to_string().trim_end().replace('\t', " ").replace('\n', " | ")
}
