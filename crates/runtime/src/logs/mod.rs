//! `kata-runtime logs`: guest kernel, agent and shim of one sandbox, in one order.
//!
//! Of a sandbox whose directory is still there its files are read; the shim's lines come from the journal where the host has
//! one, and so outlive the sandbox.

mod console;
mod files;
mod follow;
mod journal;
mod line;

use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use crate::global::Global;
use crate::{output, sandboxes};

pub(crate) use files::Files;
pub(crate) use line::Line;

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The sandbox's id, or a beginning of it that no other has; of one that has ended, the whole id
    sandbox: String,

    /// Go on until the sandbox ends
    #[arg(long, short)]
    follow: bool,

    /// Print only so many lines of what is there
    #[arg(long, short = 'n', value_name = "COUNT")]
    lines: Option<usize>,

    /// Print one JSON object a line: time, source, text
    #[arg(long)]
    json: bool,
}

/// Nothing is known of such a sandbox.
#[derive(Debug, thiserror::Error)]
#[error(
    "There is no log of `{id}`; the shim's lines of a sandbox that has ended are in containerd's log, too"
)]
struct Nothing {
    id: String,
    source: sandboxes::FindError,
}

/// Runs the subcommand.
pub(crate) fn run(args: &LogsArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let (id, dir) = match sandboxes::full_id(&global.root, &args.sandbox) {
        Ok(id) => (id.clone(), global.root.join(id)),
        Err(source) => {
            let id = args.sandbox.clone();
            let kept = journal::read(&id);
            if kept.is_empty() {
                return Err(Nothing { id, source }.into());
            }
            print(&last(sorted(kept), args.lines), args.json)?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    // Watched before it is read: nothing falls between.
    let changes = if args.follow { Some(follow::Changes::of(&dir)?) } else { None };
    let mut files = Files::of(&dir);
    print(&last(all(&id, &mut files), args.lines), args.json)?;
    if let Some(changes) = changes {
        follow::run(&id, &mut files, &changes, args.json)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// All lines of a sandbox that has a directory, for those who collect them.
pub(crate) fn of(id: &str, dir: &Path) -> Vec<Line> {
    all(id, &mut Files::of(dir))
}

fn all(id: &str, files: &mut Files) -> Vec<Line> {
    let mut lines = files.new_lines();
    if !files.has_shim_log() {
        lines.extend(journal::read(id));
    }
    sorted(lines)
}

/// By time; a line without one stays behind that before it.
fn sorted(mut lines: Vec<Line>) -> Vec<Line> {
    lines.sort_by_key(|line| line.time);
    lines
}

fn last(mut lines: Vec<Line>, count: Option<usize>) -> Vec<Line> {
    let surplus = count.map_or(0, |count| lines.len().saturating_sub(count));
    lines.split_off(surplus)
}

fn print(lines: &[Line], json: bool) -> std::io::Result<()> {
    output::lines(lines.iter().map(|line| if json { line.json() } else { line.to_string() }))
}
