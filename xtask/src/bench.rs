//! `cargo xtask bench`.

use anyhow::{Result, bail};

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Runs the command.
pub(crate) fn run(_args: &Args) -> Result<()> {
    bail!("Not there yet")
}
