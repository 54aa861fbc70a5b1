//! The programs that run on the host, and the agent for the guest.

use std::path::PathBuf;
use std::process::Command;

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
    /// `kata-monitor`.
    pub(crate) monitor: PathBuf,
    /// `kata-agent-ctl`.
    pub(crate) agent_ctl: PathBuf,
    /// `kata-log-parser`.
    pub(crate) log_parser: PathBuf,
    /// `kata-trace-forwarder`.
    pub(crate) trace_forwarder: PathBuf,
    /// `virtiofsd`.
    pub(crate) virtiofsd: PathBuf,
    /// `kata-agent`, static.
    pub(crate) agent: PathBuf,
    /// `kata-image-pull`, static.
    pub(crate) image_pull: PathBuf,
}

/// Builds what is not up to date.
pub(crate) fn ensure(workspace: &Workspace, progress: &Progress) -> Result<Binaries> {
    let virtiofsd = virtiofsd(workspace, progress)?;
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--locked", "-p", "containerd-shim-kata-v2", "-p", "kata-runtime"]);
    cargo.args(["-p", "kata-monitor"]);
    cargo.args(["-p", "kata-agent-ctl", "-p", "kata-log-parser", "-p", "kata-trace-forwarder"]);
    build(workspace, progress, "host binaries", &mut cargo)?;
    let release = workspace.target.join("release");
    Ok(Binaries {
        shim: release.join("containerd-shim-kata-v2"),
        runtime: release.join("kata-runtime"),
        monitor: release.join("kata-monitor"),
        agent_ctl: release.join("kata-agent-ctl"),
        log_parser: release.join("kata-log-parser"),
        trace_forwarder: release.join("kata-trace-forwarder"),
        virtiofsd,
        agent: agent(workspace, progress)?,
        image_pull: image_pull(workspace, progress)?,
    })
}

/// Builds the agent, static; returns its path.
pub(crate) fn agent(workspace: &Workspace, progress: &Progress) -> Result<PathBuf> {
    static_program(workspace, progress, ("agent", "kata-agent"))
}

/// Builds the program that pulls images in the guest, static; returns its path.
pub(crate) fn image_pull(workspace: &Workspace, progress: &Progress) -> Result<PathBuf> {
    static_program(workspace, progress, ("image-pull", "kata-image-pull"))
}

/// Builds the program that tells what a container sees, static; returns its path.
pub(crate) fn probe(workspace: &Workspace, progress: &Progress) -> Result<PathBuf> {
    static_program(workspace, progress, ("probe", "kata-probe"))
}

fn static_program(
    workspace: &Workspace,
    progress: &Progress,
    (what, package): (&str, &str),
) -> Result<PathBuf> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--profile", "agent", "--locked", "-p", package, "--target", GUEST_TARGET]);
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-C target-feature=+crt-static");
    build(workspace, progress, what, &mut cargo)?;
    Ok(workspace.target.join(GUEST_TARGET).join("agent").join(package))
}

fn build(workspace: &Workspace, progress: &Progress, what: &str, cargo: &mut Command) -> Result<()> {
    let log = workspace.log(&what.replace(' ', "-"))?;
    progress.line(what, format_args!("building what has changed (log: {})", log.display()));
    progress
        .watch(what, &log, || process::logged(cargo, &log))
        .with_context(|| format!("Cannot build: {what}"))
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
    progress.watch("virtiofsd", &log, || process::logged(&mut cargo, &log))?;
    Ok(binary)
}
