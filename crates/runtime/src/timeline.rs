//! `kata-runtime timeline`: where the start of a sandbox spent its time.

use std::io;
use std::process::ExitCode;

use clap::Args;
use kata_sandbox::timeline::{Side, Span, Timeline};

use crate::global::Global;
use crate::output;
use crate::sandboxes;
use crate::table::{self, Align};

/// Arguments of `timeline`.
#[derive(Debug, Args)]
pub(crate) struct TimelineArgs {
    /// The sandbox's id, or a beginning of it that no other has
    id: String,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The file is missing or no timeline.
#[derive(Debug, thiserror::Error)]
#[error(
    "The sandbox {id} has no readable timeline; it is written when the start has come some way, so try again"
)]
struct Unreadable {
    /// The sandbox.
    id: String,
    /// Why not.
    source: io::Error,
}

/// Runs the subcommand.
pub(crate) fn run(args: &TimelineArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let id = sandboxes::full_id(&global.root, &args.id)?;
    let timeline = Timeline::read(&global.root.join(&id));
    let timeline = timeline.map_err(|source| Unreadable { id, source })?;
    if args.json {
        output::json(&timeline)?;
    } else {
        output::lines(shown(&timeline))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is known of the VM, then the phases by their beginning, then the total.
fn shown(timeline: &Timeline) -> Vec<String> {
    let mut lines = vec![format!("Sandbox      {}", timeline.sandbox)];
    let known = [
        ("VMM", timeline.vmm.clone()),
        ("Accelerator", accelerator(timeline)),
        ("Agent", timeline.agent_version.clone()),
    ];
    lines.extend(known.into_iter().filter_map(|(name, value)| Some(format!("{name:<13}{}", value?))));
    lines.push(String::new());
    lines.extend(phases(&timeline.spans));
    lines
}

fn accelerator(timeline: &Timeline) -> Option<String> {
    let name = timeline.accelerator.clone()?;
    Some(match &timeline.accelerator_reason {
        Some(reason) => format!("{name} ({reason})"),
        None => name,
    })
}

/// A table in milliseconds. Phases overlap, so the total is the end of the last, not a sum.
fn phases(spans: &[Span]) -> Vec<String> {
    let mut spans: Vec<&Span> = spans.iter().collect();
    spans.sort_by_key(|span| (span.start_us, span.end_us));
    let head = ["PHASE", "WHERE", "START", "DURATION"].map(str::to_owned);
    let body = spans.iter().map(|span| {
        let place = match span.side {
            Side::Host => "host",
            Side::Guest => "guest",
        };
        let duration = span.end_us.saturating_sub(span.start_us);
        [span.name.clone(), place.to_owned(), millis(span.start_us), millis(duration)]
    });
    let total = spans.iter().map(|span| span.end_us).max().unwrap_or(0);
    let foot = ["total".to_owned(), String::new(), String::new(), millis(total)];
    let rows: Vec<_> = [head].into_iter().chain(body).chain([foot]).collect();
    table::lines([Align::Left, Align::Left, Align::Right, Align::Right], &rows)
}

/// Microseconds as milliseconds with one decimal.
fn millis(micros: u64) -> String {
    let tenths = micros.saturating_add(50) / 100;
    format!("{}.{} ms", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::millis;

    #[test]
    fn milliseconds_are_rounded() {
        assert_eq!(millis(0), "0.0 ms");
        assert_eq!(millis(1_249), "1.2 ms");
        assert_eq!(millis(1_250), "1.3 ms");
        assert_eq!(millis(1_234_567), "1234.6 ms");
    }
}
