//! `kata-runtime network routes`

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use hyper::Method;
use kata_sandbox::Route;

use super::Listed;
use crate::global::Global;
use crate::management::Sandbox;
use crate::{input, output};

const PATH: &str = "/network/routes";

/// Arguments of `network routes`.
#[derive(Debug, Args)]
pub(super) struct RoutesArgs {
    #[command(subcommand)]
    command: RoutesCommand,
}

#[derive(Debug, Subcommand)]
enum RoutesCommand {
    /// Print the guest's routes, as `ip route` does
    List(Listed),
    /// Make the guest's routes these, whatever the pod's network namespace has, until `reset`
    Set(SetArgs),
    /// Make the guest's routes those of the pod's network namespace again
    Reset {
        /// The sandbox's id, or a beginning of it that no other has
        sandbox: String,
    },
}

#[derive(Debug, Args)]
struct SetArgs {
    /// The sandbox's id, or a beginning of it that no other has
    sandbox: String,

    /// All routes, each one word as `ip route` takes it: "default via 10.1.0.1 dev eth0"
    #[arg(required_unless_present = "file", value_name = "ROUTE")]
    routes: Vec<Route>,

    /// A JSON list of routes in the form of the agent's protocol, as `list --json` prints it; `-` is standard input
    #[arg(long, conflicts_with = "routes")]
    file: Option<PathBuf>,
}

/// Runs the subcommand.
pub(super) fn run(args: &RoutesArgs, global: &Global) -> anyhow::Result<()> {
    match &args.command {
        RoutesCommand::List(args) => list(args, global),
        RoutesCommand::Set(args) => {
            let body = match &args.file {
                Some(file) => input::read(file)?,
                None => serde_json::to_vec(&args.routes)?,
            };
            Sandbox::find(&global.root, &args.sandbox)?.ask(Method::PUT, PATH, body).map(drop)
        }
        RoutesCommand::Reset { sandbox } => {
            Sandbox::find(&global.root, sandbox)?.ask(Method::DELETE, PATH, Vec::new()).map(drop)
        }
    }
}

fn list(args: &Listed, global: &Global) -> anyhow::Result<()> {
    let answer = Sandbox::find(&global.root, &args.sandbox)?.ask(Method::GET, PATH, Vec::new())?;
    let routes: Vec<Route> = serde_json::from_slice(&answer).context("The shim's answer is no list")?;
    if args.json {
        return output::json(&routes);
    }
    Ok(output::lines(&routes)?)
}
