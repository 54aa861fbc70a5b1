//! `kata-runtime config explain`

use std::process::ExitCode;

use clap::Args;
use kata_config::options::{Row, rows};
use kata_config::{Config, Origin, Setting, Value};
use serde::Serialize;

use crate::global::Global;
use crate::output;
use crate::table::{self, Align};

/// Arguments of `config explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// Print a JSON list
    #[arg(long)]
    json: bool,

    /// Print what each key does, too
    #[arg(long, short)]
    verbose: bool,
}

/// One key, for JSON.
#[derive(Debug, Serialize)]
struct Explained<'a> {
    key: String,
    value: &'a Value,
    origin: &'a Origin,
    default: Value,
    does: &'static str,
}

impl<'a> From<(&'static Row, &'a Setting)> for Explained<'a> {
    fn from((row, Setting { value, origin }): (&'static Row, &'a Setting)) -> Self {
        Self { key: row.full_name(), value, origin, default: row.default.into(), does: row.doc }
    }
}

/// Runs the subcommand.
pub(crate) fn run(args: &ExplainArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    if args.json {
        let all: Vec<_> = explained(&config).map(Explained::from).collect();
        output::json(&all)?;
    } else if args.verbose {
        output::lines(explained(&config).flat_map(|(row, setting)| paragraph(row, setting)))?;
    } else {
        output::lines(in_columns(&config))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The rows in the order of the shipped file, with their settings.
fn explained(config: &Config) -> impl Iterator<Item = (&'static Row, &Setting)> {
    rows().filter_map(|row| Some((row, config.sources.get(&row.full_name())?)))
}

fn in_columns(config: &Config) -> Vec<String> {
    let head = ["KEY", "VALUE", "ORIGIN"].map(str::to_owned);
    let body = explained(config)
        .map(|(row, setting)| [row.full_name(), setting.value.to_string(), setting.origin.to_string()]);
    let rows: Vec<_> = [head].into_iter().chain(body).collect();
    table::lines([Align::Left; 3], &rows)
}

fn paragraph(row: &Row, setting: &Setting) -> [String; 4] {
    [
        format!("{} = {}", row.full_name(), setting.value),
        format!("    {}", row.doc),
        format!("    From: {}", setting.origin),
        String::new(),
    ]
}
