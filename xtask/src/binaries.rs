//! The programs that run on the host, and the agent for the guest.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process;
use crate::progress::Progress;
use crate::workspace::Workspace;

const VIRTIOFSD: &str = "1.14.0";
/// Static binaries need an explicit target: procedural macros for the host cannot be static.
const GUEST_TARGET: &str = "x86_64-unknown-linux-gnu";

/// Built programs.
pub(crate) struct Binaries {
    /// `containerd-shim-kata-v2`.
    pub(crate) shim: PathBuf,
    /// `kata-runtime`.
    pub(crate) runtime: PathBuf,
    /// `virtiofsd`.
    pub(crate) virtiofsd: PathBuf,
    /// `kata-agent`, static.
    pub(crate) agent: PathBuf,
}

/// Builds what is not up to date.
pub(crate) fn ensure(workspace: &Workspace, progress: &Progress) -> Result<Binaries> {
    let virtiofsd = virtiofsd(workspace, progress)?;
    let log = workspace.log("binaries")?;
    progress.line("binaries", format_args!("shim, kata-runtime and agent (log: {})", log.display()));
    progress.watch("binaries", || {
        product(workspace, &log).context("Cannot build the host binaries")?;
        agent(workspace, &log).context("Cannot build the agent")
    })?;
    let release = workspace.target.join("release");
    Ok(Binaries {
        shim: release.join("containerd-shim-kata-v2"),
        runtime: release.join("kata-runtime"),
        virtiofsd,
        agent: workspace.target.join(GUEST_TARGET).join("agent/kata-agent"),
    })
}

fn product(workspace: &Workspace, log: &Path) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--locked", "-p", "containerd-shim-kata-v2", "-p", "kata-runtime"]);
    process::logged(&mut cargo, log)
}

fn agent(workspace: &Workspace, log: &Path) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--profile", "agent", "--locked", "-p", "kata-agent", "--target", GUEST_TARGET]);
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-C target-feature=+crt-static");
    process::logged(&mut cargo, log)
}

/// virtiofsd is not packaged by Debian 12; it comes from the crates registry, once.
fn virtiofsd(workspace: &Workspace, progress: &Progress) -> Result<PathBuf> {
    let _lock = workspace.lock("virtiofsd", progress)?;
    let root = workspace.cache.join(format!("virtiofsd-{VIRTIOFSD}"));
    let binary = root.join("bin/virtiofsd");
    if binary.is_file() {
        progress.line("virtiofsd", format_args!("{VIRTIOFSD} ready"));
        return Ok(binary);
    }
    let log = workspace.log("virtiofsd")?;
    progress.line("virtiofsd", format_args!("building {VIRTIOFSD}, once (log: {})", log.display()));
    let mut cargo = workspace.cargo();
    cargo.args(["install", "virtiofsd", "--version", VIRTIOFSD, "--locked", "--root"]).arg(&root);
    progress.watch("virtiofsd", || process::logged(&mut cargo, &log))?;
    Ok(binary)
}
