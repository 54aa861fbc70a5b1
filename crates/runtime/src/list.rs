//! `kata-runtime list`: the containers of all sandboxes of this host.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use clap::Args;
use kata_sandbox::clock::rfc3339;
use kata_sandbox::{Announced, Inspection, SandboxStatus};
use serde::Serialize;

use crate::global::Global;
use crate::management::{self, CallError};
use crate::table::{self, Align};
use crate::{output, sandboxes};

/// What stands in a column that has nothing to say.
const NOTHING: &str = "-";

/// Arguments of `list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Print a JSON list
    #[arg(long)]
    json: bool,

    /// Print ids only
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Row {
    id: String,
    pid: i64,
    status: String,
    bundle: String,
    created: String,
    owner: String,
    sandbox: String,
}

/// Runs the subcommand.
pub(crate) fn run(args: &ListArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let rows = rows(&global.root)?;
    if args.json {
        output::json(&rows)?;
    } else if args.quiet {
        output::lines(rows.iter().map(|row| &row.id))?;
    } else {
        output::lines(shown(rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The same as a value.
pub(crate) fn json(root: &Path) -> anyhow::Result<serde_json::Value> {
    Ok(serde_json::to_value(rows(root)?)?)
}

fn rows(root: &Path) -> anyhow::Result<Vec<Row>> {
    let ids = sandboxes::all(root)?;
    let answers = management::inspect_all(root, &ids)?;
    let mut rows = Vec::new();
    for (id, answer) in ids.into_iter().zip(answers) {
        match answer {
            Err(error @ CallError::Denied { .. }) => return Err(error.into()),
            // It ended meanwhile.
            Err(_) if !root.join(&id).exists() => {}
            answer => rows.extend(of_sandbox(root, id, answer.ok().as_ref())),
        }
    }
    Ok(rows)
}

/// The lines of one sandbox.
fn of_sandbox(root: &Path, id: String, seen: Option<&Inspection>) -> Vec<Row> {
    let dir = root.join(&id);
    let owner = fs::metadata(&dir).map_or_else(|_| NOTHING.to_owned(), |about| format!("#{}", about.uid()));
    let Some(seen) = seen else {
        let alive = Announced::read(&dir).is_ok_and(|log| log.owner.is_some());
        return vec![alone(id, &dir, if alive { "hung" } else { "dead" }, -1, owner)];
    };
    let pid = if seen.pid == 0 || seen.status == SandboxStatus::Stopped { -1 } else { seen.pid.into() };
    if seen.containers.is_empty() {
        let status = match seen.status {
            SandboxStatus::Starting => "starting",
            SandboxStatus::Running => "running",
            SandboxStatus::Stopped => "stopped",
        };
        return vec![alone(id, &dir, status, pid, owner)];
    }
    let row = |container: &kata_sandbox::ContainerInspection| Row {
        id: container.id.clone(),
        pid: if container.process.exit_status.is_some() { -1 } else { pid },
        status: container.process.status.clone(),
        bundle: container.bundle.display().to_string(),
        created: rfc3339(UNIX_EPOCH + Duration::from_nanos(container.created_ns)),
        owner: owner.clone(),
        sandbox: id.clone(),
    };
    seen.containers.iter().map(row).collect()
}

/// The line of a sandbox without containers. Its directory is as old as it is.
fn alone(id: String, dir: &Path, status: &str, pid: i64, owner: String) -> Row {
    let made = fs::metadata(dir.join(kata_sandbox::INTENTS_FILE)).and_then(|about| about.created());
    let created = made.map_or_else(|_| NOTHING.to_owned(), rfc3339);
    let status = status.to_owned();
    Row { sandbox: id.clone(), id, pid, status, bundle: NOTHING.to_owned(), created, owner }
}

fn shown(rows: Vec<Row>) -> Vec<String> {
    let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let body = rows
        .into_iter()
        .map(|row| [row.id, row.pid.to_string(), row.status, row.bundle, row.created, row.owner]);
    let rows: Vec<_> = [head].into_iter().chain(body).collect();
    let left = Align::Left;
    table::lines([left, Align::Right, left, left, left, left], &rows)
}
