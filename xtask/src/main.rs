//! `cargo xtask`: everything a developer does with this repository, one subcommand per file.
//!
//! Each command prepares by itself what it needs (packages, host binaries, guest kernel, guest image) and
//! keeps it in a cache, so that the second run goes straight to the point.

mod apt;
mod bench;
mod binaries;
mod check;
mod containerd;
mod demo;
mod fuzz;
mod guest;
mod images;
mod install;
mod interrupt;
mod lab;
mod oci_image;
mod packages;
mod prefix;
mod process;
mod progress;
mod setup;
mod test;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Builds, shows, tests and measures this container runtime.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run real containers in their own VMs through a private containerd
    Demo(demo::Args),
    /// Set everything up and run all tests
    Test(test::Args),
    /// Run the fuzz targets
    Fuzz(fuzz::Args),
    /// Measure start time, throughput and memory against their bars
    Bench(bench::Args),
    /// Run something in an emulated host that has KVM, vhost and cgroup v2
    Lab(lab::Args),
    /// Check format, lints, docs, licences, crate arrows and size bars
    Check(check::Args),
    /// Build the guest kernel and the guest image
    Guest(guest::Args),
    /// Build and put the runtime into a prefix
    Install(install::InstallArgs),
    /// Remove what `install` put into a prefix
    Uninstall(install::UninstallArgs),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The chain in one go, and no backtrace: what went wrong is seldom in this program.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    interrupt::install()?;
    match command {
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Lab(args) => lab::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Guest(args) => guest::run(&args),
        Command::Install(args) => install::install(&args),
        Command::Uninstall(args) => install::uninstall(&args),
    }
}
