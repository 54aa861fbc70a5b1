//! Layers put over each other.

use std::collections::BTreeMap;

use crate::layer::Layer;
use crate::options::{self, Row, Table};
use crate::origin::{Origin, Setting};

/// One setting for every row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings(BTreeMap<(Table, &'static str), Setting>);

impl Settings {
    /// Every row's default.
    pub(crate) fn defaults() -> Self {
        let default = |row: &'static Row| {
            ((row.table, row.key), Setting { value: row.default.into(), origin: Origin::Default })
        };
        Self(options::rows().map(default).collect())
    }

    /// Puts a layer on top: what it gives wins.
    pub(crate) fn overlay(&mut self, layer: Layer) {
        for given in layer.given {
            self.0.insert(
                (given.row.table, given.row.key),
                Setting { value: given.value, origin: given.origin },
            );
        }
    }

    /// The setting of a row.
    pub(crate) fn get(&self, row: &Row) -> &Setting {
        self.named(row.table, row.key)
    }

    /// The setting of a key that has a row.
    pub(crate) fn named(&self, table: Table, key: &'static str) -> &Setting {
        self.0.get(&(table, key)).expect("defaults() made a setting for every row")
    }
}
