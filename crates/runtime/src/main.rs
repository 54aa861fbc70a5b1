//! `kata-runtime`: looks at the host, the configuration and the sandboxes of Kata Containers.
//!
//! One file for each subcommand. `check`, `env` and `config` need no root.

mod check;
mod cli;
mod collect_data;
mod completion;
mod config_command;
mod console;
mod cp;
mod direct_volume;
mod env;
mod exec;
mod factory;
mod global;
mod host;
mod input;
mod inspect;
mod iptables;
mod kata_ctl;
mod list;
mod log_level;
mod logging;
mod logs;
mod management;
mod metrics;
mod network;
mod output;
mod policy;
mod programs;
mod sandboxes;
mod table;
mod timeline;
mod tree;
mod version;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let words = kata_ctl::translated(std::env::args_os().collect());
    let cli = Cli::parse_from(direct_volume::spelled(words));
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
        Some(Command::Exec(args)) => exec::run(args, &cli.global),
        Some(Command::Cp(args)) => cp::run(args, &cli.global),
        Some(Command::Metrics(args)) => metrics::run(args, &cli.global),
        Some(Command::Timeline(args)) => timeline::run(args, &cli.global),
        Some(Command::List(args)) => list::run(args, &cli.global),
        Some(Command::Inspect(args)) => inspect::run(args, &cli.global),
        Some(Command::Logs(args)) => logs::run(args, &cli.global),
        Some(Command::LogLevel(args)) => log_level::run(args, &cli.global),
        Some(Command::Policy(args)) => policy::run(args, &cli.global),
        Some(Command::Factory(args)) => factory::run(args),
        Some(Command::CollectData(args)) => collect_data::run(args, &cli.global),
        Some(Command::Completion(args)) => completion::run(args),
        Some(Command::Man) => completion::man(),
        Some(Command::Version(args)) => version::run(args),
    }
}
