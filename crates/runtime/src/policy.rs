//! `kata-runtime policy`: what the agent of a sandbox may be asked. There is no policy engine in the guest yet, and nothing
//! pretends that there were.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};

use crate::global::Global;
use crate::{input, sandboxes};

/// Arguments of `policy`.
#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Not available yet: fails, and nothing is changed
    Set(SetArgs),
}

#[derive(Debug, Args)]
struct SetArgs {
    /// The sandbox's id, or a beginning of it that no other has
    #[arg(long, value_name = "ID")]
    sandbox_id: String,

    /// The policy, in Rego; `-` is standard input
    file: PathBuf,
}

/// Runs the subcommand. What is wrong with the request is told first: that, too, somebody may want to know.
pub(crate) fn run(args: &PolicyArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let PolicyCommand::Set(set) = &args.command;
    let id = sandboxes::full_id(&global.root, &set.sandbox_id)?;
    let policy = input::read(&set.file)?;
    str::from_utf8(&policy).with_context(|| format!("{} is no text", set.file.display()))?;
    anyhow::bail!(
        "The agent of {id} enforces no policy in this release, so none was set; every request of the host is allowed. \
         Keep who may be root on the host small instead"
    )
}
