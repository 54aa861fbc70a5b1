//! `cargo xtask install` and `uninstall`.

use anyhow::{Result, bail};

/// Options of `cargo xtask install`.
#[derive(clap::Args)]
pub(crate) struct InstallArgs {}

/// Options of `cargo xtask uninstall`.
#[derive(clap::Args)]
pub(crate) struct UninstallArgs {}

/// Installs.
pub(crate) fn install(_args: &InstallArgs) -> Result<()> {
    bail!("Not there yet")
}

/// Uninstalls.
pub(crate) fn uninstall(_args: &UninstallArgs) -> Result<()> {
    bail!("Not there yet")
}
