//! `cargo xtask test`: everything set up, then every test of the workspace: units, the agent without a VM, and whole
//! systems through a real containerd; then each fuzz target for a few seconds, unless tests were chosen by name.
//! With `--soak` only the tests that can do more than usual, with all they can do.
//!
//! The whole-system tests find their parts through the environment:
//!
//! * `KATA_TEST_STAGE`: the prefix into which everything is installed;
//! * `KATA_TEST_CACHE`: a directory for what tests want to keep between runs, such as images;
//! * `KATA_TEST_PROBE`: the static program that tells what a container sees;
//! * `KATA_E2E_SOAK`: whether tests do all they can.

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
    /// Only what can be done in large: tens of thousands of files, a hundred disks, thirty pods scraped for minutes; hours under
    /// emulation
    #[arg(long)]
    soak: bool,
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

    let mut runner = runner(&workspace, &progress, args.soak);
    runner.args(&args.runner);
    runner.env("KATA_TEST_STAGE", prefix.root()).env("KATA_TEST_CACHE", &workspace.cache);
    runner.env("KATA_TEST_PROBE", probe);
    let tested = process::shown_to_user(&mut runner);
    let fuzzed =
        if args.runner.is_empty() && !args.soak { fuzz::smoke(&workspace, &progress) } else { Ok(()) };
    match (tested, fuzzed) {
        (Err(tests), Err(fuzz)) => Err(tests.context(fuzz)),
        (tested, fuzzed) => tested.and(fuzzed),
    }
}

/// Programs of tests that do more when asked to.
const SOAKED: [&str; 7] =
    ["block", "cri_forward", "cri_many", "cri_monitor", "many", "pods", "storage_programs"];

/// nextest if it is there: it runs each test in a process of its own and shows failures better.
fn runner(workspace: &Workspace, progress: &Progress, soak: bool) -> Command {
    let mut cargo = workspace.cargo();
    let nextest = process::on_path("cargo-nextest");
    if nextest {
        cargo.args(["nextest", "run"]);
    } else {
        progress.line("tests", "cargo-nextest is not here, using cargo test");
        cargo.arg("test");
    }
    if soak {
        cargo.args(["--package", "kata-e2e"]).args(SOAKED.iter().flat_map(|test| ["--test", test]));
        cargo.args(nextest.then_some("--profile=soak")).env("KATA_E2E_SOAK", "1");
    } else {
        cargo.args(["--workspace", "--exclude", "kata-fuzz"]);
        cargo.args((!nextest).then_some("--all-targets"));
    }
    cargo.arg("--no-fail-fast");
    cargo
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::{Args, SOAKED};

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn options_of_the_runner_are_told_from_our_own() {
        let args = Cli::parse_from(["test", "--soak", "--test-threads", "1"]).args;
        assert!(args.soak);
        assert_eq!(args.runner, ["--test-threads", "1"]);
        assert!(!Cli::parse_from(["test", "name"]).args.soak);
    }

    #[test]
    fn the_programs_that_are_soaked_are_there() {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/e2e/tests");
        for name in SOAKED {
            assert!(tests.join(name).with_extension("rs").is_file(), "{name}");
        }
    }
}
