//! `kata-runtime timeline`: where the start of a sandbox spent its time.

use std::process::ExitCode;

use clap::Args;

use crate::cli::Global;

/// Arguments of `timeline`.
#[derive(Debug, Args)]
pub(crate) struct TimelineArgs {
    /// The sandbox's id, or a beginning of it that no other has
    id: String,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub(crate) fn run(_args: &TimelineArgs, _global: &Global) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not yet")
}
