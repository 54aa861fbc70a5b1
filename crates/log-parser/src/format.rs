//! The forms in which a log can be written.

use std::collections::BTreeMap;
use std::io::{self, Write};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::record::{Log, Record};
use crate::{logfmt, xml};

/// A form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// A table with a header; fields without a column are a JSON object in the last one
    Csv,
    /// One object with a list `entries`
    Json,
    /// Rusty Object Notation
    Ron,
    /// The lines again, as logfmt
    Text,
    /// A table for each line
    Toml,
    /// An element for each value
    Xml,
    /// A list `entries`
    Yaml,
}

/// Something could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Csv(#[from] csv::Error),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Ron(#[from] ron::Error),
    #[error(transparent)]
    Toml(#[from] toml::ser::Error),
    #[error(transparent)]
    Yaml(#[from] yaml_serde::Error),
}

/// Writes all.
pub(crate) fn write(log: &Log, format: OutputFormat, out: &mut dyn Write) -> Result<(), WriteError> {
    match format {
        OutputFormat::Csv => csv(log, out)?,
        OutputFormat::Json => {
            serde_json::to_writer_pretty(&mut *out, log)?;
            writeln!(out)?;
        }
        OutputFormat::Ron => {
            let pretty = ron::ser::PrettyConfig::default();
            writeln!(out, "{}", ron::ser::to_string_pretty(log, pretty)?)?;
        }
        OutputFormat::Text => log.entries.iter().try_for_each(|record| writeln!(out, "{}", text(record)))?,
        OutputFormat::Toml => write!(out, "{}", toml::to_string(log)?)?,
        OutputFormat::Xml => xml::write(log, out)?,
        OutputFormat::Yaml => yaml_serde::to_writer(&mut *out, log)?,
    }
    Ok(out.flush()?)
}

/// A record as logfmt. A name that logfmt cannot hold loses what it cannot hold.
pub(crate) fn text(record: &Record) -> String {
    let mut line = String::new();
    let pid = record.pid.map(|pid| pid.to_string());
    let named = [
        ("time", Some(&record.time)),
        ("level", Some(&record.level)),
        ("msg", Some(&record.msg)),
        ("name", record.name.as_ref()),
        ("pid", pid.as_ref()),
        ("source", record.source.as_ref()),
        ("container", record.container.as_ref()),
        ("sandbox", record.sandbox.as_ref()),
    ];
    for (name, value) in named {
        if let Some(value) = value {
            logfmt::push(&mut line, name, value);
        }
    }
    for (name, value) in &record.data {
        let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '=' | '"');
        let name = if name.is_empty() { "_".to_owned() } else { name.replace(odd, "_") };
        logfmt::push(&mut line, &name, value);
    }
    line
}

/// The columns of a table.
const COLUMNS: [&str; 13] = [
    "count",
    "file",
    "line",
    "time",
    "time_delta",
    "level",
    "msg",
    "name",
    "pid",
    "source",
    "container",
    "sandbox",
    "data",
];

/// A record as a row of a table.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    count: u64,
    file: String,
    line: u64,
    time: String,
    time_delta: u64,
    level: String,
    msg: String,
    name: Option<String>,
    pid: Option<u32>,
    source: Option<String>,
    container: Option<String>,
    sandbox: Option<String>,
    data: String,
}

fn csv(log: &Log, out: &mut dyn Write) -> Result<(), WriteError> {
    let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(out);
    writer.write_record(COLUMNS)?;
    for record in &log.entries {
        let Record {
            count,
            file,
            line,
            time,
            time_delta,
            level,
            msg,
            name,
            pid,
            source,
            container,
            sandbox,
            data,
        } = record.clone();
        let data = serde_json::to_string::<BTreeMap<_, _>>(&data)?;
        let row = Row {
            count,
            file,
            line,
            time,
            time_delta,
            level,
            msg,
            name,
            pid,
            source,
            container,
            sandbox,
            data,
        };
        writer.serialize(row)?;
    }
    Ok(writer.flush()?)
}
