//! `kata-log-parser`: the command line of the library of the same name.

use std::process::ExitCode;

use clap::Parser;
use kata_log_parser::LogParserArgs;

/// Reads log files of Kata Containers and of container managers, checks them, sorts their lines by time across files, and
/// writes them in another format.
///
/// A line is `key=value` pairs (logfmt) or one JSON object, with at least a time, a level and a message.
///
/// Exit code 0: done. 1: a file cannot be read, or what was checked is not in order. 2: wrong usage.
#[derive(Debug, Parser)]
#[command(name = "kata-log-parser", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    args: LogParserArgs,
}

fn main() -> ExitCode {
    match kata_log_parser::run(&Cli::parse().args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kata-log-parser: {}", kata_log_parser::chain(&error));
            ExitCode::FAILURE
        }
    }
}
