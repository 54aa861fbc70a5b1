//! The log file of `--log`.

use std::fs::OpenOptions;
use std::sync::Mutex;

use anyhow::Context;

use crate::global::{Global, LogFormat};

/// Sends log lines to the file of `--log`; without it there are none.
pub(crate) fn start(global: &Global) -> anyhow::Result<()> {
    let Some(path) = &global.log else { return Ok(()) };
    let file =
        OpenOptions::new().create(true).append(true).open(path).with_context(|| {
            format!("Cannot open the log file {}; name another with --log", path.display())
        })?;
    let level: tracing::Level = global.log_level.parse().context("No log level")?;
    let lines =
        tracing_subscriber::fmt().with_max_level(level).with_ansi(false).with_writer(Mutex::new(file));
    match global.log_format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
    Ok(())
}
