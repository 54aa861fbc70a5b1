//! `configuration.toml`, its drop-ins and a pod's annotations, read into one typed [`Config`].
//!
//! Nothing is accepted and then ignored: every key is a row of the table in [`options`], or one of upstream's keys
//! that are not honoured yet ([`load`] refuses those unless the value says what happens today anyway), or an error.
//! Every effective value knows where it came from ([`Sources`]).

mod annotations;
mod block_devices;
mod build;
mod derive;
mod error;
mod file;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod glob;
mod import;
mod kernel_params;
mod layer;
mod locate;
mod memory;
mod model;
mod nearest;
mod numa;
pub mod options;
mod origin;
mod request;
mod settings;
mod size_limits;
mod template;
mod value;

use std::path::PathBuf;

pub use block_devices::{BlockAio, BlockDevices, BlockDriver, SectorSize};
pub use error::{ConfigError as Error, Problem};
pub use import::{Import, import};
pub use kernel_params::{KernelParam, KernelParams};
pub use memory::{GuestMemory, HugePages};
pub use model::{
    Accelerator, Agent, Config, EmptyDirMode, Hypervisor, LogFormat, LogLevel, NetworkModel, Runtime,
    SandboxBindMount, SandboxSizing, SharedFs, Tracing,
};
pub use numa::GuestNuma;
pub use options::MIN_MEMORY_MIB;
pub use origin::{Origin, Setting, Sources};
pub use request::{DEFAULT_PATHS, LoadRequest};
pub use size_limits::SizeLimits;
pub use template::{Placement, TEMPLATE, render_template};
pub use value::{Fixed, Value};

use derive::HostSize;
use file::Role;
use layer::Layer;
use settings::Settings;

/// Finds, reads, merges and checks the configuration.
///
/// Later wins: defaults, base file, `config.d/*.toml` in alphabetical order, annotations.
///
/// # Errors
/// No file, an unreadable file, or a list of everything that is wrong in the files and annotations.
pub fn load(request: &LoadRequest) -> Result<Config, Error> {
    let base = locate::base(request)?;
    let mut layers = vec![file::read(&base.path, Role::Base, &base.chosen_by)?];
    for path in locate::drop_ins(&base.path)? {
        layers.push(file::read(&path, Role::DropIn, "being a drop-in")?);
    }
    merge(base.path, layers, request)
}

/// The files' layers and the annotations over each other.
fn merge(base: PathBuf, layers: Vec<Layer>, request: &LoadRequest) -> Result<Config, Error> {
    let mut settings = Settings::defaults();
    let mut problems = Vec::new();
    for mut layer in layers {
        problems.append(&mut layer.problems);
        settings.overlay(layer);
    }
    let mut layer = annotations::read(&request.annotations, &settings);
    problems.append(&mut layer.problems);
    settings.overlay(layer);
    let host = HostSize { cpus: request.host_cpus, memory_mib: request.host_memory_mib };
    let built = build::build(&settings, base, host);
    match built {
        Ok(config) if problems.is_empty() => return Ok(config),
        Ok(_) => {}
        Err(more) => problems.extend(more),
    }
    problems.sort();
    Err(Error::Invalid(problems))
}

impl Config {
    /// What results if no file says anything, on a host with `host_cpus` CPUs and 16 GiB of memory.
    #[must_use]
    pub fn built_in(host_cpus: u32) -> Self {
        let path = PathBuf::from("(built in)");
        let host = HostSize { cpus: host_cpus, memory_mib: 16_384 };
        build::build(&Settings::defaults(), path, host).expect("a test builds the defaults")
    }
}

#[cfg(test)]
mod tests;
