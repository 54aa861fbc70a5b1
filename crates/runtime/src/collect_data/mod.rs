//! `kata-runtime collect-data`: one archive for a bug report.
//!
//! What cannot be read is left out: this is for hosts on which something is broken. All that goes in comes through
//! `redact.rs`.

mod gather;
mod redact;

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use crate::global::Global;
use crate::output;

/// Arguments of `collect-data`.
#[derive(Debug, Args)]
pub(crate) struct CollectDataArgs {
    /// The archive; must not exist
    #[arg(long, short, value_name = "FILE", default_value = "kata-containers-data.tar")]
    output: PathBuf,

    /// Only this sandbox, by its id or a beginning of it; all without it
    #[arg(long, value_name = "ID")]
    sandbox: Option<String>,

    /// Print what is in it as a JSON list
    #[arg(long)]
    json: bool,
}

/// A file of the archive.
#[derive(Debug, Serialize)]
pub(crate) struct Entry {
    name: String,
    bytes: usize,
    #[serde(skip)]
    text: String,
}

impl Entry {
    /// Without its secrets.
    fn of(name: impl Into<String>, text: &str) -> Self {
        let text = redact::text(text);
        Self { name: name.into(), bytes: text.len(), text }
    }

    /// The same of JSON.
    fn of_json(name: impl Into<String>, mut value: serde_json::Value) -> Self {
        redact::json(&mut value);
        let text = format!("{value:#}\n");
        Self { name: name.into(), bytes: text.len(), text }
    }
}

/// Runs the subcommand.
pub(crate) fn run(args: &CollectDataArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let shown = args.output.display();
    let unwritable = || format!("Cannot write {shown}; name a file that does not exist with --output");
    // Before anything is gathered; and nobody else may read it.
    let mut options = OpenOptions::new();
    let file =
        options.write(true).create_new(true).mode(0o600).open(&args.output).with_context(unwritable)?;
    let entries = gather::all(global, args.sandbox.as_deref()).and_then(|entries| {
        pack(file, &entries).with_context(unwritable)?;
        Ok(entries)
    });
    let entries = entries.inspect_err(|_| drop(std::fs::remove_file(&args.output)))?;
    if args.json {
        output::json(&entries)?;
    } else {
        output::lines(entries.iter().map(|entry| format!("{:>9}  {}", entry.bytes, entry.name)))?;
        output::lines([format!("Written to {shown}. Look through it before you send it.")])?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One directory in a tar archive, with a list of what is in it.
fn pack(file: impl Write, entries: &[Entry]) -> std::io::Result<()> {
    let mut archive = tar::Builder::new(file);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let list: String = entries.iter().map(|entry| format!("{} {}\n", entry.bytes, entry.name)).collect();
    let contents = Entry { name: "CONTENTS".to_owned(), bytes: list.len(), text: list };
    for entry in [&contents].into_iter().chain(entries) {
        let mut header = tar::Header::new_gnu();
        header.set_size(entry.bytes as u64);
        header.set_mode(0o600);
        header.set_mtime(now);
        let path = format!("kata-containers-data/{}", entry.name);
        archive.append_data(&mut header, path, entry.text.as_bytes())?;
    }
    archive.into_inner()?.flush()
}
