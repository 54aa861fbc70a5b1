//! `cargo xtask check`.

use anyhow::{Result, bail};

/// Options of `cargo xtask check`.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Runs the command.
pub(crate) fn run(_args: &Args) -> Result<()> {
    bail!("Not there yet")
}
