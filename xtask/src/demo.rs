//! `cargo xtask demo`.

use anyhow::{Result, bail};

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Runs the command.
pub(crate) fn run(_args: &Args) -> Result<()> {
    bail!("Not there yet")
}
