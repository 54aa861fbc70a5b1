//! `kata-runtime log-level`: how much the shim of a running sandbox, or its agent, logs.

use std::process::ExitCode;

use clap::Args;
use hyper::Method;

use crate::global::Global;
use crate::management::Sandbox;
use crate::output;

const SHIM: &str = "/log-level";
const AGENT: &str = "/log-level/agent";

/// Arguments of `log-level`.
#[derive(Debug, Args)]
pub(crate) struct LogLevelArgs {
    /// The sandbox's id, or a beginning of it that no other has
    sandbox: String,

    /// The new level; without it, the present one is printed
    #[arg(value_parser = ["error", "warn", "info", "debug", "trace"])]
    level: Option<String>,

    /// That of the agent in the guest, whose lines are on the guest's console
    #[arg(long)]
    agent: bool,
}

/// Runs the subcommand.
pub(crate) fn run(args: &LogLevelArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let sandbox = Sandbox::find(&global.root, &args.sandbox)?;
    let path = if args.agent { AGENT } else { SHIM };
    match &args.level {
        Some(level) => drop(sandbox.ask(Method::PUT, path, level.clone().into_bytes())?),
        None => {
            let level = sandbox.ask(Method::GET, path, Vec::new())?;
            output::lines([String::from_utf8_lossy(&level)])?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
