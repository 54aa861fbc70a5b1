//! `kata-runtime metrics`: the figures of a running sandbox, as Prometheus text.

use std::process::ExitCode;

use clap::Args;
use hyper::Method;

use crate::global::Global;
use crate::management::{Sandbox, part};
use crate::output;

/// Arguments of `metrics`.
#[derive(Debug, Args)]
pub(crate) struct MetricsArgs {
    /// The sandbox's id, or a beginning of it that no other has
    sandbox: String,

    /// All families, instead of the most important figures
    #[arg(long, conflicts_with = "families")]
    all: bool,

    /// Families whose names begin with these, for example kata_guest,kata_container_memory
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    families: Vec<String>,
}

/// Runs the subcommand.
pub(crate) fn run(args: &MetricsArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let words = if args.all { "all".to_owned() } else { args.families.join(",") };
    let path =
        if words.is_empty() { "/metrics".to_owned() } else { format!("/metrics?families={}", part(&words)) };
    let text = Sandbox::find(&global.root, &args.sandbox)?.ask(Method::GET, &path, Vec::new())?;
    output::lines([String::from_utf8_lossy(&text).trim_end()])?;
    Ok(ExitCode::SUCCESS)
}
