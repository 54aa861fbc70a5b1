//! Log files: read, checked, sorted by time, written in other formats. `kata-log-parser` is this library's command line,
//! and other programs of this project can have it as a subcommand ([`LogParserArgs`], [`run`]).
//!
//! A line is split by `fields.rs` (logfmt, JSON), becomes a record (`record.rs`) and is written by `format.rs`.

mod fields;
mod files;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod logfmt;
mod record;
mod run;
#[cfg(test)]
mod tests;
mod time;
mod xml;

pub use run::{LogParserArgs, RunError, chain, run};
