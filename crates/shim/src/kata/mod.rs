//! The sandbox behind the service: reads what it shall be, launches it, and translates.

mod sandbox;
mod stats;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kata_config::{Config, LoadRequest, LogLevel};
use kata_sandbox::{IdError, LaunchSpec};
use oci_spec::runtime::Spec;
use tokio::runtime::Builder;
use tracing::level_filters::LevelFilter;

use self::sandbox::Kata;
use crate::address;
use crate::args::Identity;
use crate::backend::{Failure, Kind};
use crate::environment::Environment;
use crate::ledger::Ledger;
use crate::service::Launched;

/// Where sandboxes keep their state.
pub(crate) const STATE_ROOT: &str = "/run/kata";

/// No sandbox can be started from this bundle.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
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
    /// The id is none.
    #[error("The container's id cannot name a sandbox")]
    Id(#[from] IdError),
    /// The clean-up did not get through.
    #[error("Something of the sandbox is left")]
    Left(#[source] kata_sandbox::Error),
    /// The async runtime that the clean-up needs.
    #[error("Cannot start the clean-up")]
    Runtime(#[source] io::Error),
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
    pub(crate) fn read(
        identity: &Identity,
        environment: &Environment,
        bundle: &Path,
    ) -> Result<Self, PlanError> {
        let path = bundle.join("config.json");
        let spec = Spec::load(&path).map_err(|source| PlanError::Spec { path, source })?;
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
pub(crate) fn log_level(identity: &Identity, plan: &Result<Plan, PlanError>) -> LevelFilter {
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

/// Launches the sandbox: from here on its VM boots, while containerd prepares its first request.
pub(crate) async fn launch(
    plan: Result<Plan, PlanError>,
    id: &str,
    socket: Option<&Path>,
    ledger: &Arc<Ledger>,
) -> Launched {
    let refused = |error: &(dyn std::error::Error + 'static)| Failure::of(Kind::FailedPrecondition, error);
    let Plan { bundle, spec, config } = plan.map_err(|error| refused(&error))?;
    let launch = LaunchSpec {
        id: id.parse().map_err(|error: IdError| refused(&error))?,
        bundle,
        config,
        spec,
        state_root: PathBuf::from(STATE_ROOT),
        manager: "containerd".to_owned(),
        socket: socket.map(Path::to_owned),
    };
    let (sandbox, events) = kata_sandbox::launch(launch).await.map_err(|error| refused(&error))?;
    Ok(Arc::new(Kata::new(sandbox, events, ledger.clone())))
}

/// Cleans up after sandboxes that died together with their `start`: containerd calls `delete` for none of them.
pub(crate) async fn sweep() {
    for socket in kata_sandbox::sweep(Path::new(STATE_ROOT)).await {
        // Somebody may have begun anew under the same name.
        if !address::alive(&socket)
            && let Err(error) = address::remove(&socket)
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "the socket of a dead sandbox is left");
        }
    }
}

/// Removes what is left of the sandbox `id`; nothing may be.
///
/// # Errors
/// What could not be removed.
pub(crate) fn cleanup(state_root: &Path, id: &str) -> Result<(), PlanError> {
    let id = id.parse()?;
    let runtime = Builder::new_current_thread().enable_all().build().map_err(PlanError::Runtime)?;
    runtime.block_on(kata_sandbox::cleanup(state_root, &id)).map_err(PlanError::Left)
}
