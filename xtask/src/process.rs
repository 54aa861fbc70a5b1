//! Running other programs: their output for us, into a log, or straight to the terminal.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::interrupt;

const TAIL_LINES: usize = 40;

/// Runs a short program and returns what it wrote; its complaints are in the error.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    interrupt::check()?;
    let result = output_to_clean_up(command);
    interrupt::check()?;
    result
}

/// As [`output`], also after an interruption: for what undoes something.
pub(crate) fn output_to_clean_up(command: &mut Command) -> Result<Vec<u8>> {
    let result = command.stdin(Stdio::null()).output().with_context(|| cannot_run(command))?;
    if !result.status.success() {
        let complaint = String::from_utf8_lossy(&result.stderr);
        bail!("{} failed ({}):\n{}", shown(command), result.status, complaint.trim_end());
    }
    Ok(result.stdout)
}

/// As [`output`], as text without the last line's end.
pub(crate) fn text(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&output(command)?).trim_end().to_owned())
}

/// Runs a talkative program with all its output appended to `log`, whose end is in the error.
pub(crate) fn logged(command: &mut Command, log: &Path) -> Result<()> {
    interrupt::check()?;
    let file = File::options().append(true).create(true).open(log);
    let file = file.with_context(|| format!("Cannot write the log {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let status = command.status().with_context(|| cannot_run(command))?;
    interrupt::check()?;
    if !status.success() {
        bail!("{} failed ({status}); the end of {}:\n{}", shown(command), log.display(), tail(log)?);
    }
    Ok(())
}

/// Runs a program that talks to the person itself.
pub(crate) fn shown_to_user(command: &mut Command) -> Result<()> {
    interrupt::check()?;
    let status = command.status().with_context(|| cannot_run(command))?;
    interrupt::check()?;
    if !status.success() {
        bail!("{} failed ({status})", shown(command));
    }
    Ok(())
}

/// Whether the program can be found on the `PATH`.
pub(crate) fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// The command line as one would type it, without its environment.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn cannot_run(command: &Command) -> String {
    format!("Cannot run {}", command.get_program().to_string_lossy())
}

fn tail(log: &Path) -> Result<String> {
    let bytes = fs::read(log)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
}
