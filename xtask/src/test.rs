//! `cargo xtask test`: everything set up, then every test of the workspace: units, the agent without a VM, and whole
//! systems through a real containerd; then each fuzz target for a few seconds, unless tests were chosen by name.
//!
//! The whole-system tests find their parts through the environment:
//!
//! * `KATA_TEST_STAGE`: the prefix into which everything is installed;
//! * `KATA_TEST_CACHE`: a directory for what tests want to keep between runs, such as images;
//! * `KATA_TEST_PROBE`: the static program that tells what a container sees.

use std::process::Command;

use anyhow::{Result, bail};

use crate::binaries;
use crate::fuzz;
use crate::images;
use crate::process;
use crate::progress::Progress;
use crate::setup;
use crate::workspace::Workspace;

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Handed to the test runner: names to choose tests by, or its options
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    runner: Vec<String>,
}

/// Sets everything up and runs the tests; the runner's own words come last.
pub(crate) fn run(args: &Args) -> Result<()> {
    let progress = Progress::new();
    if !rustix::process::geteuid().is_root() {
        bail!("containerd and its containers need root: run `cargo xtask test` as root");
    }
    let workspace = Workspace::find()?;
    let prefix = setup::stage(&workspace, &progress)?;
    let probe = binaries::probe(&workspace, &progress)?;
    images::busybox(&workspace)?;
    images::pause(&workspace)?;
    images::debian(&workspace, &progress)?;
    images::network(&workspace, &progress)?;
    images::tools(&workspace, &progress)?;

    let mut runner = runner(&workspace, &progress);
    runner.args(&args.runner);
    runner.env("KATA_TEST_STAGE", prefix.root()).env("KATA_TEST_CACHE", &workspace.cache);
    runner.env("KATA_TEST_PROBE", probe);
    let tested = process::shown_to_user(&mut runner);
    let fuzzed = if args.runner.is_empty() { fuzz::smoke(&workspace, &progress) } else { Ok(()) };
    match (tested, fuzzed) {
        (Err(tests), Err(fuzz)) => Err(tests.context(fuzz)),
        (tested, fuzzed) => tested.and(fuzzed),
    }
}

/// nextest if it is there: it runs each test in a process of its own and shows failures better.
fn runner(workspace: &Workspace, progress: &Progress) -> Command {
    let mut cargo = workspace.cargo();
    if process::on_path("cargo-nextest") {
        cargo.args(["nextest", "run", "--workspace", "--exclude", "kata-fuzz", "--no-fail-fast"]);
    } else {
        progress.line("tests", "cargo-nextest is not here, using cargo test");
        cargo.args(["test", "--workspace", "--exclude", "kata-fuzz", "--all-targets", "--no-fail-fast"]);
    }
    cargo
}
