//! The sandbox behind the service: reads what it shall be, launches it, and translates.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kata_config::{Config, LoadRequest, LogLevel};
use oci_spec::runtime::Spec;
use tracing::level_filters::LevelFilter;

use crate::args::Identity;
use crate::backend::{Failure, Kind};
use crate::environment::Environment;
use crate::ledger::Ledger;
use crate::service::Launched;

/// Where sandboxes keep their state.
pub(crate) const STATE_ROOT: &str = "/run/kata";

/// No sandbox can be started from this bundle.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The bundle's specification.
    #[error("Cannot read {} as an OCI runtime specification", path.display())]
    Spec {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: oci_spec::OciSpecError,
    },
    /// The configuration.
    #[error("The configuration is not usable")]
    Config(#[from] kata_config::Error),
}

/// Everything known before the sandbox is launched.
pub(crate) struct Plan {
    bundle: PathBuf,
    spec: Spec,
    config: Config,
}

impl Plan {
    /// Reads the bundle and the configuration.
    ///
    /// # Errors
    /// Whatever is wrong with either.
    pub(crate) fn read(identity: &Identity, environment: &Environment, bundle: &Path) -> Result<Self, Error> {
        let path = bundle.join("config.json");
        let spec = Spec::load(&path).map_err(|source| Error::Spec { path, source })?;
        let annotations = spec.annotations().iter().flatten();
        let request = LoadRequest {
            explicit: identity.config.clone(),
            annotations: annotations.map(|(key, value)| (key.clone(), value.clone())).collect(),
            env_conf_file: environment.conf_file.clone(),
            ..LoadRequest::default()
        };
        Ok(Self { bundle: bundle.to_owned(), spec, config: kata_config::load(&request)? })
    }
}

/// How much to log: `-debug` (containerd logs at debug level) and the configuration can both ask for more.
pub(crate) fn log_level(identity: &Identity, plan: &Result<Plan, Error>) -> LevelFilter {
    let configured = plan.as_ref().ok().map(|plan| &plan.config.runtime);
    if identity.debug || configured.is_some_and(|runtime| runtime.enable_debug) {
        return LevelFilter::DEBUG;
    }
    match configured.map(|runtime| runtime.log_level) {
        Some(LogLevel::Critical | LogLevel::Error) => LevelFilter::ERROR,
        Some(LogLevel::Warn) => LevelFilter::WARN,
        Some(LogLevel::Info) | None => LevelFilter::INFO,
        Some(LogLevel::Debug) => LevelFilter::DEBUG,
        Some(LogLevel::Trace) => LevelFilter::TRACE,
    }
}

/// x
pub(crate) async fn launch(plan: Result<Plan, Error>, _: &Arc<Ledger>) -> Launched {
    let plan = plan.map_err(|error| Failure::of(Kind::FailedPrecondition, &error))?;
    Err(Failure::new(Kind::Unknown, plan.bundle.display().to_string()))
}

/// x
pub(crate) fn cleanup(_: &Path, _: &str) -> Result<(), Error> {
    Ok(())
}
