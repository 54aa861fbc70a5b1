//! A pod's `io.katacontainers.config.*` annotations as a [`Layer`].

use std::collections::BTreeMap;
use std::path::{Component, Path};

use crate::glob;
use crate::layer::{Given, Layer};
use crate::locate::PATH_ANNOTATIONS;
use crate::nearest::nearest;
use crate::options::{self, Kind, Meets, Row, Table, known};
use crate::origin::{Origin, Setting};
use crate::settings::Settings;
use crate::size_limits::SizeLimits;
use crate::value::Value;

const PREFIX: &str = "io.katacontainers.config.";

/// Reads the annotations; what is permitted is decided by the settings of the files.
pub(crate) fn read(annotations: &BTreeMap<String, String>, files: &Settings) -> Layer {
    let mut layer = Layer::default();
    for (name, text) in annotations {
        let Some(short) = name.strip_prefix(PREFIX) else { continue };
        if PATH_ANNOTATIONS.contains(&name.as_str()) {
            continue;
        }
        let origin = Origin::Annotation { name: name.clone() };
        let row = options::rows().find(|row| row.annotation.is_some_and(|a| a.name == short));
        match row {
            Some(row) => match value(row, short, text, files) {
                Ok(value) => layer.given.push(Given { row, value, origin }),
                Err(reason) => layer.problem(origin, reason),
            },
            None => refuse(&mut layer, short, text, origin),
        }
    }
    layer
}

fn value(row: &Row, short: &str, text: &str, files: &Settings) -> Result<Value, String> {
    permitted(short, files)?;
    let value = row.kind.parse(text).map_err(|reason| format!("The value {reason}"))?;
    let rule = row.annotation.expect("the row was found by its annotation");
    if matches!(row.kind, Kind::Path | Kind::OptionalPath) {
        plain_path(text)?;
    }
    if let Some(globs) = rule.checked_by {
        listed(text, globs, row.table, files)?;
    }
    let before = &files.get(row).value;
    match rule.meets {
        Meets::Replaces => Ok(value),
        Meets::Appends => Ok(Value::Text(format!("{} {text}", before.text()).trim().to_owned())),
        Meets::Lowers => SizeLimits::parse(before.list())
            // What is wrong with the file's is told there.
            .map_or(Ok(value.clone()), |limits| limits.lowered(value.list()).map(Value::List))
            .map_err(|reason| format!("The value {reason}")),
    }
}

/// Hypervisor annotations must be listed by the administrator.
fn permitted(short: &str, files: &Settings) -> Result<(), String> {
    let Some(name) = short.strip_prefix("hypervisor.") else { return Ok(()) };
    let Setting { value, origin } = files.named(Table::Hypervisor, "enable_annotations");
    if value.list().iter().any(|item| glob::matches(&item.replace(".*", "*"), name)) {
        return Ok(());
    }
    Err(format!(
        "Not permitted; the administrator can add \"{name}\" to `enable_annotations` in {} ({origin})",
        Table::Hypervisor
    ))
}

/// A detour through `..` would get round the globs.
fn plain_path(text: &str) -> Result<(), String> {
    let detour =
        Path::new(text).components().any(|part| matches!(part, Component::ParentDir | Component::CurDir));
    if detour { Err(format!("The value must be a path without `.` and `..`, not {text:?}")) } else { Ok(()) }
}

fn listed(text: &str, globs: &'static str, table: Table, files: &Settings) -> Result<(), String> {
    let Setting { value, origin } = files.named(table, globs);
    if value.list().iter().any(|pattern| glob::matches(pattern, text)) {
        return Ok(());
    }
    Err(format!(
        "The path {text:?} is not permitted; the administrator can add it to `{globs}` in {table} ({origin})"
    ))
}

/// Not honoured: fine if it says what happens anyway, else an error that tells known from unknown.
fn refuse(layer: &mut Layer, short: &str, text: &str, origin: Origin) {
    if known::annotations().any(|name| name == short) {
        let today = table_and_key(short).and_then(|(table, key)| known::find(table, key)).flatten();
        let value = today.and_then(|today| parse_like(&today.into(), text));
        let value = value.unwrap_or_else(|| Value::Text(text.to_owned()));
        let key = short.split_once('.').map_or(short, |(_, key)| key);
        return layer.not_yet(key, today, &value, origin);
    }
    let names: Vec<String> = known::annotations().collect();
    let hint = match nearest(short, names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {PREFIX}{near}?"),
        None => "remove it".to_owned(),
    };
    layer.problem(origin, format!("Unknown annotation; {hint}"));
}

fn table_and_key(short: &str) -> Option<(Table, &str)> {
    let (space, key) = short.split_once('.')?;
    match space {
        "hypervisor" => Some((Table::Hypervisor, key)),
        "agent" => Some((Table::Agent, key)),
        "runtime" => Some((Table::Runtime, key)),
        _ => None,
    }
}

fn parse_like(model: &Value, text: &str) -> Option<Value> {
    let any = match model {
        Value::Bool(_) => Kind::Bool,
        Value::Int(_) | Value::Float(_) => Kind::Number { min: f64::MIN, max: f64::MAX },
        Value::Text(_) => Kind::Text,
        Value::List(_) => Kind::List,
    };
    any.parse(text).ok()
}
