//! `kata-runtime config`: which values are in effect, where they came from, and whether they are good.

mod explain;
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
}

/// Runs the subcommand.
pub(crate) fn run(args: &ConfigArgs, global: &Global) -> anyhow::Result<ExitCode> {
    match &args.command {
        ConfigCommand::Explain(args) => explain::run(args, global),
        ConfigCommand::Validate => validate::run(global),
    }
}
