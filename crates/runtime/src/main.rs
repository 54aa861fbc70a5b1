//! `kata-runtime`: looks at the host, the configuration and the sandboxes of Kata Containers.
//!
//! One file for each subcommand. `check`, `env` and `config` need no root.

mod check;
mod cli;
mod config_command;
mod direct_volume;
mod env;
mod global;
mod host;
mod input;
mod iptables;
mod logging;
mod management;
mod network;
mod output;
mod programs;
mod sandboxes;
mod table;
mod timeline;
mod version;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse_from(std::env::args_os().map(direct_volume::spelled));
    match run(&cli) {
        Ok(code) => code,
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kata-runtime: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    logging::start(&cli.global)?;
    if cli.global.show_default_config_paths {
        output::lines(kata_config::DEFAULT_PATHS)?;
        return Ok(ExitCode::SUCCESS);
    }
    match &cli.command {
        None => anyhow::bail!("No command given; see kata-runtime --help"),
        Some(Command::Check(args)) => check::run(args, &cli.global),
        Some(Command::Env(args)) => env::run(args, &cli.global),
        Some(Command::Config(args)) => config_command::run(args, &cli.global),
        Some(Command::Network(args)) => network::run(args, &cli.global),
        Some(Command::Iptables(args)) => iptables::run(args, &cli.global),
        Some(Command::DirectVolume(args)) => direct_volume::run(args, &cli.global),
        Some(Command::Timeline(args)) => timeline::run(args, &cli.global),
        Some(Command::Version) => version::run(),
    }
}
