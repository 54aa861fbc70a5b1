//! `kata-runtime config`: which values are in effect, where they came from, whether they are good, and what of upstream's
//! can be taken over.

mod explain;
mod import;
mod validate;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::global::Global;

/// Arguments of `config`.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print every value in effect and where it came from
    Explain(explain::ExplainArgs),
    /// Check the configuration and that the files it names are there
    Validate,
    /// Write a configuration of upstream's as one of this runtime, and say what is left out
    ///
    /// What is left out, and why, is told on standard error and stands as comments at the end of the result. That the files it
    /// names can be used is for `config validate` to say. Exit code 0 although something is left out, unless --strict.
    Import(import::ImportArgs),
}

/// Runs the subcommand.
pub(crate) fn run(args: &ConfigArgs, global: &Global) -> anyhow::Result<ExitCode> {
    match &args.command {
        ConfigCommand::Explain(args) => explain::run(args, global),
        ConfigCommand::Validate => validate::run(global),
        ConfigCommand::Import(args) => import::run(args),
    }
}
