//! Settings, turned into a [`Config`].

use std::path::PathBuf;

use crate::derive::{self, HostSize};
use crate::error::Problem;
use crate::model::{Agent, Config, Hypervisor, Runtime};
use crate::options::{self, Refusal, Row};
use crate::origin::{Setting, Sources};
use crate::settings::Settings;

/// Applies every setting, then derives what depends on several of them or on the host.
pub(crate) fn build(settings: &Settings, path: PathBuf, host: HostSize) -> Result<Config, Vec<Problem>> {
    let mut config = Config {
        hypervisor: Hypervisor::default(),
        agent: Agent::default(),
        runtime: Runtime::default(),
        sources: Sources::default(),
        path,
    };
    let mut problems = Vec::new();
    for row in options::rows() {
        let setting = settings.get(row);
        if let Err(refusal) = (row.apply)(&mut config, &setting.value) {
            problems.push(problem(row, setting, refusal));
        }
        config.sources.0.insert(row.full_name(), setting.clone());
    }
    problems.extend(derive::complete(&mut config, settings, host));
    if problems.is_empty() { Ok(config) } else { Err(problems) }
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
