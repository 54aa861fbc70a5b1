//! `kata-agent-ctl`: sends single requests to an agent, for those who develop or debug one.
//!
//! Nothing here knows the requests by name: their table, fields and types come from the protocol's own descriptors.

mod address;
mod apis;
mod arguments;
mod auto;
mod cli;
mod command;
mod duration;
mod examples;
mod explain;
mod interactive;
mod management;
mod message;
mod script;
mod session;
mod vm;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, FromArgMatches};

use crate::address::ServerAddress;
use crate::cli::{Cli, Command, ConnectArgs};
use crate::command::Parser;
use crate::session::{CallError, Session};
use crate::vm::Vm;

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    tracing_subscriber::fmt().with_max_level(cli.log_level.filter()).with_writer(io::stderr).init();
    let done = match &cli.command {
        Command::Connect(args) => {
            let order = matches.subcommand_matches("connect").map(script::order).unwrap_or_default();
            connect(args, &order)
        }
        Command::Examples => print(examples::TEXT),
        Command::GenerateCid | Command::GenerateSid => {
            auto::generate().and_then(|id| print(&format!("{id}\n")))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kata-agent-ctl: {error:#}");
            code(&error)
        }
    }
}

/// Reads all commands, then runs them: a wrong one is found before the first is sent.
fn connect(args: &ConnectArgs, order: &[script::Kind]) -> anyhow::Result<()> {
    let address = args.address()?;
    let parser = Parser::new(args.auto()?);
    let steps = script::steps(args, order, &parser)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("Cannot wait for answers")?;
    let work = async |address: ServerAddress| {
        let mut session = Session::new(address, args.timeout, args.ignore_errors);
        if session.run(&steps).await?.is_break() || !args.interactive {
            return Ok(());
        }
        interactive::run(&mut session, &parser).await
    };
    runtime.block_on(async {
        match (&args.vm, address) {
            (Some(hypervisor), _) => Box::pin(in_vm(hypervisor, args.config.clone(), work)).await,
            (None, Some(address)) => work(address).await,
            (None, None) => unreachable!("clap demands one of them"),
        }
    })
}

/// Does the work with the agent of a VM that is there for nothing else.
async fn in_vm(
    hypervisor: &str,
    config: Option<PathBuf>,
    work: impl AsyncFnOnce(ServerAddress) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let vm = Box::pin(Vm::boot(hypervisor, config)).await?;
    let done = vm::unless_interrupted(work(vm.address.clone())).await;
    let ended = vm.end().await;
    done.and(ended)
}

fn print(text: &str) -> anyhow::Result<()> {
    Ok(io::stdout().write_all(text.as_bytes())?)
}

/// As the help of the command line says.
fn code(error: &anyhow::Error) -> ExitCode {
    if error.chain().any(<dyn std::error::Error>::is::<command::UsageError>) {
        return ExitCode::from(2);
    }
    let refused = |cause: &(dyn std::error::Error + 'static)| {
        matches!(cause.downcast_ref::<CallError>(), Some(CallError::Refused { .. }))
    };
    if error.chain().any(refused) { ExitCode::from(3) } else { ExitCode::FAILURE }
}

/// Whether the reader of our output went away (`kata-agent-ctl … | head`).
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|io| io.kind() == io::ErrorKind::BrokenPipe)
    }) && !error.chain().any(<dyn std::error::Error>::is::<CallError>)
}
