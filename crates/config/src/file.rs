//! Reads one TOML file into a [`Layer`], with the line of every value.

use std::fs;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use crate::error::ConfigError as Error;
use crate::layer::Layer;
use crate::nearest::nearest;
use crate::options::Table;
use crate::options::known::OTHER_HYPERVISORS;
use crate::origin::Origin;
use crate::value::Value;

/// Whether a file is the base or one of its drop-ins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Base,
    DropIn,
}

/// Reads a file. Problems in it are in the layer; only the reading itself can fail.
pub(crate) fn read(path: &Path, role: Role, chosen_by: &str) -> Result<Layer, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::Unreadable {
        path: path.to_owned(),
        chosen_by: chosen_by.to_owned(),
        source,
    })?;
    Ok(parse(&text, path, role))
}

/// Takes a file's text apart.
pub(crate) fn parse(text: &str, path: &Path, role: Role) -> Layer {
    let mut reader = Reader { text, path, role, layer: Layer::default() };
    match DeTable::parse(text) {
        Ok(document) => reader.document(document.get_ref()),
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            let reason = error.message().lines().collect::<Vec<_>>().join(", ");
            let place = reader.origin(at);
            reader.layer.problem(place, format!("Not valid TOML: {reason}"));
        }
    }
    reader.layer
}

struct Reader<'a> {
    text: &'a str,
    path: &'a Path,
    role: Role,
    layer: Layer,
}

impl Reader<'_> {
    fn origin(&self, offset: usize) -> Origin {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        match self.role {
            Role::Base => Origin::File { path: self.path.to_owned(), line },
            Role::DropIn => Origin::DropIn { path: self.path.to_owned(), line },
        }
    }

    fn document(&mut self, document: &DeTable<'_>) {
        for (name, value) in document {
            let at = name.span().start;
            let DeValue::Table(table) = value.get_ref() else {
                self.refuse(
                    at,
                    &format!("The key `{name}` stands outside every table; move it below its header"),
                );
                continue;
            };
            match name.get_ref().as_ref() {
                "hypervisor" => self.children(table, "hypervisor", "qemu", Table::Hypervisor),
                "agent" => self.children(table, "agent", "kata", Table::Agent),
                "runtime" => self.entries(table, Table::Runtime),
                "factory" => self.entries(table, Table::Factory),
                other => {
                    let near = nearest(other, ["hypervisor", "agent", "runtime", "factory"].into_iter());
                    let hint =
                        near.map_or_else(|| "remove it".to_owned(), |near| format!("did you mean [{near}]?"));
                    self.refuse(at, &format!("Unknown table [{other}]; {hint}"));
                }
            }
        }
    }

    /// `[hypervisor.X]` and `[agent.X]`: one X is ours.
    fn children(&mut self, parent: &DeTable<'_>, name: &str, ours: &str, table: Table) {
        for (child, value) in parent {
            let at = child.span().start;
            let word = child.get_ref().as_ref();
            match value.get_ref() {
                DeValue::Table(entries) if word == ours => self.entries(entries, table),
                DeValue::Table(_) if name == "hypervisor" && OTHER_HYPERVISORS.contains(&word) => {
                    let text = format!(
                        "The hypervisor `{word}` is known but not supported yet; remove [hypervisor.{word}] and use [hypervisor.qemu]"
                    );
                    self.refuse(at, &text);
                }
                DeValue::Table(_) => {
                    self.refuse(at, &format!("Unknown table [{name}.{word}]; did you mean [{name}.{ours}]?"));
                }
                _ => self.refuse(
                    at,
                    &format!("The key `{word}` stands directly in [{name}]; move it to [{name}.{ours}]"),
                ),
            }
        }
    }

    fn entries(&mut self, entries: &DeTable<'_>, table: Table) {
        for (key, value) in entries {
            let word = key.get_ref().as_ref();
            let below = match (table, word, value.get_ref()) {
                (Table::Hypervisor, "factory", DeValue::Table(inside)) => Some((inside, Table::Factory)),
                (Table::Agent, "mem_agent", DeValue::Table(inside)) => Some((inside, Table::MemAgent)),
                _ => None,
            };
            if let Some((inside, table)) = below {
                self.entries(inside, table);
                continue;
            }
            let origin = self.origin(key.span().start);
            match plain(value.get_ref()) {
                Ok(plain) => self.layer.give(table, word, plain, origin),
                Err(kind) => self.layer.problem(origin, odd_kind(table, word, kind)),
            }
        }
    }

    fn refuse(&mut self, offset: usize, text: &str) {
        let origin = self.origin(offset);
        self.layer.problem(origin, text);
    }
}

/// The text for a value that no key takes: a date, a table, a list of anything but strings.
fn odd_kind(table: Table, key: &str, kind: &str) -> String {
    use crate::options::{find, find_alias, known};
    let row = find(table, key).or_else(|| find_alias(table, key).map(|(row, _)| row));
    match row {
        Some(row) => format!("`{key}` must be {}, not {kind}", row.kind.describe()),
        None if known::find(table, key).is_some() => {
            format!("`{key}` is known but not supported yet; remove it")
        }
        None => format!("Unknown key `{key}` in {table} ({kind}); remove it"),
    }
}

/// Our kinds of values; the error names the kind that is none of them.
fn plain(value: &DeValue<'_>) -> Result<Value, &'static str> {
    match value {
        DeValue::Boolean(flag) => Ok(Value::Bool(*flag)),
        DeValue::String(text) => Ok(Value::Text(text.to_string())),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(Value::Int)
            .map_err(|_| "an integer outside 64 bits"),
        DeValue::Float(number) => match number.as_str().parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::Float(number)),
            _ => Err("an infinite number"),
        },
        DeValue::Array(items) => items
            .iter()
            .map(|item| item.get_ref().as_str().map(str::to_owned))
            .collect::<Option<Vec<String>>>()
            .map(Value::List)
            .ok_or("a list with other things in it"),
        DeValue::Datetime(_) => Err("a date"),
        DeValue::Table(_) => Err("a table"),
    }
}
