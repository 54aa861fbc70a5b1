//! `kata-runtime network`: the interfaces and routes of a running sandbox.

mod interfaces;
mod routes;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::global::Global;

/// Arguments of `network`.
#[derive(Debug, Args)]
pub(crate) struct NetworkArgs {
    #[command(subcommand)]
    command: NetworkCommand,
}

#[derive(Debug, Subcommand)]
enum NetworkCommand {
    /// Print the guest's interfaces, and what of the pod's network namespace each is connected to
    List(Listed),
    /// Connect an interface of the pod's network namespace, or change one that is connected
    ///
    /// Name, MTU and addresses that are given are the guest's; what is left out is as in the namespace. Interfaces that
    /// come into the namespace are connected by themselves.
    Add(interfaces::AddArgs),
    /// Disconnect an interface; it stays so until it is added again, or made anew in the namespace
    Remove(interfaces::RemoveArgs),
    /// Print or set the guest's routes
    Routes(routes::RoutesArgs),
}

/// A sandbox, and how it is listed.
#[derive(Debug, Args)]
struct Listed {
    /// The sandbox's id, or a beginning of it that no other has
    sandbox: String,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub(crate) fn run(args: &NetworkArgs, global: &Global) -> anyhow::Result<ExitCode> {
    match &args.command {
        NetworkCommand::List(args) => interfaces::list(args, global)?,
        NetworkCommand::Add(args) => interfaces::add(args, global)?,
        NetworkCommand::Remove(args) => interfaces::remove(args, global)?,
        NetworkCommand::Routes(args) => routes::run(args, global)?,
    }
    Ok(ExitCode::SUCCESS)
}
