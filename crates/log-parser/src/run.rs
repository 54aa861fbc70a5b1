//! The command: read, check, sort, write.

use std::error::Error;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::files::{self, FileLog};
use crate::format::{self, OutputFormat, WriteError};
use crate::record::{Log, Record};

/// The command's options.
#[derive(Debug, Args)]
pub struct LogParserArgs {
    /// Log files; `-`, or none, is standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Check the files and write nothing; a line that is not in order is an error
    #[arg(long, visible_alias = "check")]
    check_only: bool,

    /// A line that is not in order is an error; else it is named and left out
    #[arg(long)]
    strict: bool,

    /// A file without lines is an error
    #[arg(long)]
    error_if_file_empty: bool,

    /// No line in any file is an error
    #[arg(long)]
    error_if_no_records: bool,

    /// Take lines without a time, a level or a message
    #[arg(long)]
    ignore_missing_fields: bool,

    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Text, value_name = "FORMAT")]
    output_format: OutputFormat,

    /// File for the output, in place of standard output
    #[arg(long, value_name = "FILE")]
    output_file: Option<PathBuf>,

    /// Print the forms of the output and end
    #[arg(long)]
    list_output_formats: bool,

    /// Do not name the lines that are left out
    #[arg(short, long)]
    quiet: bool,
}

/// Why the command fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A file cannot be read.
    #[error("Cannot read {file}")]
    Read {
        /// Its name.
        file: String,
        /// Why not.
        source: io::Error,
    },
    /// Lines are not in order.
    #[error("{wrong} of {all} lines are not in order")]
    Wrong {
        /// How many.
        wrong: usize,
        /// Of how many.
        all: usize,
    },
    /// A file is empty.
    #[error("{0} has no lines")]
    Empty(String),
    /// All files are empty.
    #[error("There is no line to parse in any file")]
    NoRecords,
    /// The output cannot be written.
    #[error("Cannot write to {place}")]
    Write {
        /// Where to.
        place: String,
        /// Why not.
        source: Box<dyn Error + Send + Sync>,
    },
}

/// Does what the options say. Lines that are not in order are named on standard error.
///
/// # Errors
/// Whatever [`RunError`] says.
pub fn run(args: &LogParserArgs) -> Result<(), RunError> {
    if args.list_output_formats {
        return output(args, |out| {
            let formats = OutputFormat::value_variants().iter().filter_map(ValueEnum::to_possible_value);
            Ok(formats.into_iter().try_for_each(|format| writeln!(out, "{}", format.get_name()))?)
        });
    }
    let logs = read(args)?;
    let wrong: usize = logs.iter().map(|log| log.problems.len()).sum();
    let good: usize = logs.iter().map(|log| log.records.len()).sum();
    let is_strict = args.strict || args.check_only;
    if is_strict || !args.quiet {
        name_problems(&logs);
    }
    if is_strict && wrong > 0 {
        return Err(RunError::Wrong { wrong, all: wrong + good });
    }
    if let Some(empty) = logs.iter().find(|log| args.error_if_file_empty && log.records.is_empty()) {
        return Err(RunError::Empty(empty.name.clone()));
    }
    if args.error_if_no_records && good == 0 {
        return Err(RunError::NoRecords);
    }
    if args.check_only {
        return Ok(());
    }
    let log = sorted(logs);
    output(args, |out| format::write(&log, args.output_format, out))
}

fn read(args: &LogParserArgs) -> Result<Vec<FileLog>, RunError> {
    let stdin = [PathBuf::from("-")];
    let files = if args.files.is_empty() { &stdin[..] } else { &args.files };
    let read = |path: &PathBuf| {
        files::read(path, args.ignore_missing_fields)
            .map_err(|source| RunError::Read { file: path.display().to_string(), source })
    };
    files.iter().map(read).collect()
}

fn name_problems(logs: &[FileLog]) {
    let mut stderr = io::stderr().lock();
    for log in logs {
        for (line, problem) in &log.problems {
            // Whoever does not read standard error does not want to know.
            let _ = writeln!(stderr, "{}:{line}: {problem}", log.name);
        }
    }
}

/// All records by time; those of the same time in the order of the files and lines.
pub(crate) fn sorted(logs: Vec<FileLog>) -> Log {
    let mut records: Vec<(i128, Record)> = logs.into_iter().flat_map(|log| log.records).collect();
    records.sort_by_key(|(at, _)| *at);
    let mut last = None;
    let numbered = (1..).zip(records).map(|(count, (at, record))| {
        let before = last.replace(at).filter(|before| *before != i128::MIN);
        let time_delta = before.map_or(0, |before| u64::try_from(at - before).unwrap_or(u64::MAX));
        Record { count, time_delta, ..record }
    });
    Log { entries: numbered.collect() }
}

fn output(
    args: &LogParserArgs,
    write: impl FnOnce(&mut dyn Write) -> Result<(), WriteError>,
) -> Result<(), RunError> {
    let Some(path) = &args.output_file else {
        return match write(&mut BufWriter::new(io::stdout().lock())) {
            Err(error) if is_broken_pipe(&error) => Ok(()),
            done => done.map_err(|source| failed("standard output".to_owned(), source)),
        };
    };
    let place = || path.display().to_string();
    let file = File::create(path).map_err(|source| failed(place(), source.into()))?;
    write(&mut BufWriter::new(file)).map_err(|source| failed(place(), source))
}

fn failed(place: String, source: WriteError) -> RunError {
    RunError::Write { place, source: Box::new(source) }
}

/// Whether the reader of our output went away (`kata-log-parser … | head`).
fn is_broken_pipe(error: &WriteError) -> bool {
    let kind = match error {
        WriteError::Io(error) => Some(error.kind()),
        WriteError::Json(error) => error.io_error_kind(),
        WriteError::Csv(error) => match error.kind() {
            csv::ErrorKind::Io(error) => Some(error.kind()),
            _ => None,
        },
        WriteError::Ron(_) | WriteError::Toml(_) | WriteError::Yaml(_) => None,
    };
    kind == Some(io::ErrorKind::BrokenPipe)
}

/// An error and its causes, as a person should see it.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
