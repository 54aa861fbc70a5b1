//! How long subcommands of `kata-runtime` take that need no VM.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::figure;
use crate::prefix::Prefix;

/// They do all by themselves.
pub(crate) const OWN: &[&[&str]] =
    &[&["version"], &["list"], &["config", "explain"], &["factory", "status"], &["completion", "bash"]];

/// They start QEMU and virtiofsd, to ask for their versions.
pub(crate) const ASKING: &[&[&str]] = &[&["check"], &["env"], &["config", "validate"]];

/// The median of the slowest one, in milliseconds of wall time.
pub(crate) fn slowest(prefix: &Prefix, commands: &[&[&str]], runs: usize) -> Result<f64> {
    let medians = commands.iter().map(|words| {
        let times = (0..runs.max(1)).map(|_| once(prefix, words)).collect::<Result<Vec<_>>>()?;
        Ok(figure::median(times))
    });
    let medians: Vec<f64> = medians.collect::<Result<_>>()?;
    Ok(medians.into_iter().fold(0.0, f64::max))
}

fn once(prefix: &Prefix, words: &[&str]) -> Result<f64> {
    let mut command = Command::new(prefix.bin().join("kata-runtime"));
    command.args(words).env("KATA_CONF_FILE", prefix.configuration());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let began = Instant::now();
    let status = command.status().context("Cannot run kata-runtime")?;
    let taken = began.elapsed();
    if !status.success() {
        bail!("kata-runtime {} fails ({status})", words.join(" "));
    }
    Ok(taken.as_secs_f64() * 1000.0)
}
