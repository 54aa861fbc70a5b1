//! `kata-runtime factory`: VMs that are made in advance. This runtime makes none.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::output;

/// Arguments of `factory`.
#[derive(Debug, Args)]
pub(crate) struct FactoryArgs {
    #[command(subcommand)]
    command: FactoryCommand,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum FactoryCommand {
    /// Not available: fails
    Init,
    /// There is nothing to destroy: succeeds
    Destroy,
    /// Say that there is no factory
    Status,
}

/// Runs the subcommand.
pub(crate) fn run(args: &FactoryArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        FactoryCommand::Init => anyhow::bail!(
            "This release has no factory: every sandbox boots its own VM. Leave `enable_template` out of the \
             configuration; `kata-runtime timeline` tells what a start costs"
        ),
        FactoryCommand::Destroy => output::lines(["There is no factory, and so nothing to destroy"])?,
        FactoryCommand::Status => output::lines(["vm factory not enabled: every sandbox boots its own VM"])?,
    }
    Ok(ExitCode::SUCCESS)
}
