//! The table of options: one [`Row`] for each key that is honoured.
//!
//! Adding a key is adding a row here, a field in the model and a paragraph in `configuration.toml.in`; a test holds
//! the three together. Keys of upstream that are not honoured yet stand in the private module `known`.

mod agent;
mod block;
mod extra_args;
mod hypervisor;
mod kind;
pub(crate) mod known;
mod memory;
mod runtime;

use std::fmt;

use crate::model::Config;
use crate::value::{Fixed, Value};

pub use hypervisor::MIN_MEMORY_MIB;
pub use kind::Kind;

/// A table of the configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// `[hypervisor.qemu]`
    Hypervisor,
    /// `[hypervisor.qemu.factory]`, or `[factory]` in upstream's Go dialect.
    Factory,
    /// `[agent.kata]`
    Agent,
    /// `[agent.kata.mem_agent]`
    MemAgent,
    /// `[runtime]`
    Runtime,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Hypervisor, Self::Factory, Self::Agent, Self::MemAgent, Self::Runtime];

    /// The header without brackets.
    #[must_use]
    pub fn header(self) -> &'static str {
        match self {
            Self::Hypervisor => "hypervisor.qemu",
            Self::Factory => "hypervisor.qemu.factory",
            Self::Agent => "agent.kata",
            Self::MemAgent => "agent.kata.mem_agent",
            Self::Runtime => "runtime",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]", self.header())
    }
}

/// Why a value of the right kind cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It makes no sense; continues a sentence that begins with the key.
    Invalid(String),
    /// Upstream gives it a meaning that does not exist here yet; what to write instead.
    NotYet(String),
}

/// The result of applying one value.
pub type Applied = Result<(), Refusal>;

/// Another spelling of a key, from upstream's other dialect.
#[derive(Debug, Clone, Copy)]
pub struct Alias {
    /// The table it stands in.
    pub table: Table,
    /// Its name there.
    pub key: &'static str,
    /// What a number given there is multiplied by.
    pub factor: i64,
}

/// How a sandbox may set a key by annotation.
#[derive(Debug, Clone, Copy)]
pub struct Annotation {
    /// Namespace and name after `io.katacontainers.config.`, such as `hypervisor.kernel`.
    pub name: &'static str,
    /// The key (in the same table) with globs that the value must match.
    pub checked_by: Option<&'static str>,
    /// What becomes of the file's value.
    pub meets: Meets,
}

/// What an annotation's value does to that of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meets {
    /// It takes its place.
    Replaces,
    /// It is added to it.
    Appends,
    /// Both are limits of sizes ([`crate::SizeLimits`]), and its own must not be higher.
    Lowers,
}

/// One option: everything that is known about a key.
#[derive(Debug)]
pub struct Row {
    /// The table it stands in.
    pub table: Table,
    /// Its name.
    pub key: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// The value if nobody gives one.
    pub default: Fixed,
    /// One sentence on what it does.
    pub doc: &'static str,
    /// The spelling in upstream's other dialect.
    pub alias: Option<Alias>,
    /// Whether and how an annotation may set it.
    pub annotation: Option<Annotation>,
    /// Whether upstream does not have this key.
    pub ours: bool,
    pub(crate) apply: fn(&mut Config, &Value) -> Applied,
}

impl Row {
    /// `table.key`, the name used in messages and in `Sources`.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.table.header(), self.key)
    }

    const fn new(table: Table, key: &'static str, kind: Kind, default: Fixed) -> Self {
        let apply = |_: &mut Config, _: &Value| Ok(());
        Self { table, key, kind, default, doc: "", alias: None, annotation: None, ours: false, apply }
    }

    const fn does(mut self, doc: &'static str, apply: fn(&mut Config, &Value) -> Applied) -> Self {
        self.doc = doc;
        self.apply = apply;
        self
    }

    const fn alias(mut self, table: Table, key: &'static str, factor: i64) -> Self {
        self.alias = Some(Alias { table, key, factor });
        self
    }

    const fn annotation(self, name: &'static str) -> Self {
        self.annotated(Annotation { name, checked_by: None, meets: Meets::Replaces })
    }

    const fn annotated(mut self, annotation: Annotation) -> Self {
        self.annotation = Some(annotation);
        self
    }

    const fn checked_annotation(self, name: &'static str, globs: &'static str) -> Self {
        self.annotated(Annotation { name, checked_by: Some(globs), meets: Meets::Replaces })
    }

    const fn appending_annotation(self, name: &'static str) -> Self {
        self.annotated(Annotation { name, checked_by: None, meets: Meets::Appends })
    }

    const fn lowering_annotation(self, name: &'static str) -> Self {
        self.annotated(Annotation { name, checked_by: None, meets: Meets::Lowers })
    }

    const fn ours(mut self) -> Self {
        self.ours = true;
        self
    }
}

/// All rows, table by table, in the order of the shipped file.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    hypervisor::ROWS.iter().chain(block::ROWS).chain(memory::ROWS).chain(agent::ROWS).chain(runtime::ROWS)
}

/// The row of a key, by its own name.
#[must_use]
pub fn find(table: Table, key: &str) -> Option<&'static Row> {
    rows().find(|row| row.table == table && row.key == key)
}

/// The row that a key of the other dialect stands for, and what its number is multiplied by.
#[must_use]
pub fn find_alias(table: Table, key: &str) -> Option<(&'static Row, i64)> {
    rows().find_map(|row| {
        let alias = row.alias?;
        (alias.table == table && alias.key == key).then_some((row, alias.factor))
    })
}

/// Stores a value; the last word of most rows.
fn set<T>(slot: &mut T, value: T) -> Applied {
    *slot = value;
    Ok(())
}

#[cfg(test)]
mod tests;
