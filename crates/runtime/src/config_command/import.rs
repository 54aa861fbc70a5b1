//! `kata-runtime config import`

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::available_parallelism;

use anyhow::Context;
use clap::Args;

use crate::output;

/// Arguments of `config import`.
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// Upstream's file, of its Go or its Rust runtime
    file: PathBuf,

    /// Where to write the result; must not exist. Without it, it is printed
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Fail, and write nothing, if anything is left out
    #[arg(long, short)]
    strict: bool,
}

/// Runs the subcommand.
pub(super) fn run(args: &ImportArgs) -> anyhow::Result<ExitCode> {
    let cpus = available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1));
    let import = kata_config::import(&args.file, cpus)?;
    for problem in &import.left_out {
        eprintln!("left out: {problem}");
    }
    if args.strict && !import.left_out.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    match &args.output {
        None => output::lines([import.text.trim_end()])?,
        Some(path) => {
            let file = OpenOptions::new().write(true).create_new(true).open(path);
            let written = file.and_then(|mut file| file.write_all(import.text.as_bytes()));
            written.with_context(|| {
                format!("Cannot write {}; name a file that does not exist", path.display())
            })?;
            let shown = path.display();
            eprintln!(
                "{} keys written to {shown}; next: kata-runtime --config {shown} config validate",
                import.taken
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}
