//! Layers put over each other, and turned into a [`Config`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::derive;
use crate::error::Problem;
use crate::layer::Layer;
use crate::model::{Agent, Config, Hypervisor, Runtime};
use crate::options::{self, Refusal, Row, Table};
use crate::origin::{Origin, Setting, Sources};

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

    /// Applies every setting, then derives what depends on several of them or on the host.
    pub(crate) fn build(&self, path: PathBuf, host_cpus: u32) -> Result<Config, Vec<Problem>> {
        let mut config = Config {
            hypervisor: Hypervisor::default(),
            agent: Agent::default(),
            runtime: Runtime::default(),
            sources: Sources::default(),
            path,
        };
        let mut problems = Vec::new();
        for row in options::rows() {
            let setting = self.get(row);
            if let Err(refusal) = (row.apply)(&mut config, &setting.value) {
                problems.push(problem(row, setting, refusal));
            }
            config.sources.0.insert(row.full_name(), setting.clone());
        }
        problems.extend(derive::complete(&mut config, self, host_cpus));
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }
}

fn problem(row: &Row, setting: &Setting, refusal: Refusal) -> Problem {
    let text = match refusal {
        Refusal::Invalid(reason) => format!("`{}` {reason}", row.key),
        Refusal::NotYet(what) => {
            format!("`{}` asks for what is known but not supported yet: {what}", row.key)
        }
    };
    Problem { place: setting.origin.clone(), text }
}
