//! The sandbox behind the service: reads what it shall be, launches it, and translates.

mod cost;
mod managed;
mod sandbox;
mod stats;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kata_config::{Config, LoadRequest, LogLevel};
use kata_sandbox::{IdError, LaunchSpec};
use oci_spec::runtime::Spec;
use tokio::runtime::Builder;
use tracing::level_filters::LevelFilter;

use self::managed::Live;
use self::sandbox::{Kata, Shape};
use crate::address;
use crate::args::Identity;
use crate::backend::{Failure, Kind, Launcher, NewSandbox};
use crate::environment::Environment;
use crate::ledger::Ledger;
use crate::management;
use crate::pod;
use crate::service::{Launched, empty_spec};

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

/// Where a sandbox's configuration comes from, and its name: what is the same for all that this server may launch.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    id: String,
    /// The configuration file that runtime options named.
    explicit: Option<PathBuf>,
    conf_file: Option<PathBuf>,
    /// Where this server will listen.
    socket: Option<PathBuf>,
}

impl Source {
    /// As `start` has told this server.
    pub(crate) fn of(identity: &Identity, environment: &Environment) -> Self {
        Self {
            id: identity.id.clone(),
            explicit: identity.config.clone(),
            conf_file: environment.conf_file.clone(),
            socket: environment.socket.clone(),
        }
    }
}

/// Everything known before the sandbox is launched.
pub(crate) struct Plan {
    bundle: PathBuf,
    /// `None`: the bundle is no container's, and `CreateSandbox` will say what the sandbox is.
    spec: Option<Spec>,
    config: Config,
}

impl Plan {
    /// Reads the bundle and the configuration. A bundle without a `config.json`, or with one that has no process or no
    /// root file system, is that of a sandbox without a container.
    ///
    /// # Errors
    /// Whatever is wrong with either.
    pub(crate) fn read(source: &Source, bundle: &Path) -> Result<Self, PlanError> {
        let path = bundle.join("config.json");
        if !path.exists() {
            let config = load(source, &empty_spec())?;
            return Ok(Self { bundle: bundle.to_owned(), spec: None, config });
        }
        let spec = Spec::load(&path).map_err(|source| PlanError::Spec { path, source })?;
        let config = load(source, &spec)?;
        let spec = Some(spec).filter(|spec| spec.process().is_some() && spec.root().is_some());
        Ok(Self { bundle: bundle.to_owned(), spec, config })
    }
}

/// The configuration, as the sandbox's annotations have it.
fn load(source: &Source, spec: &Spec) -> Result<Config, kata_config::Error> {
    let annotations = spec.annotations().iter().flatten();
    kata_config::load(&LoadRequest {
        explicit: source.explicit.clone(),
        annotations: annotations.map(|(key, value)| (key.clone(), value.clone())).collect(),
        env_conf_file: source.conf_file.clone(),
        ..LoadRequest::default()
    })
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

/// Launches the sandbox of the bundle: from here on its VM boots, while containerd prepares its first request. `None`: it
/// awaits `CreateSandbox`.
pub(crate) async fn launch(
    plan: Result<Plan, PlanError>,
    source: &Source,
    ledger: &Arc<Ledger>,
) -> Option<Launched> {
    match plan {
        Ok(Plan { spec: None, .. }) => None,
        Ok(Plan { bundle, spec: Some(spec), config }) => {
            // Of a pause container nothing is needed in the guest.
            let container_follows = !pod::is_pause(&spec);
            let new = NewSandbox { bundle, spec, pod: None, container_follows };
            Some(launch_one(new, config, source, ledger).await)
        }
        Err(error) => Some(Err(refused(&error))),
    }
}

fn refused(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::of(Kind::FailedPrecondition, error)
}

async fn launch_one(new: NewSandbox, config: Config, source: &Source, ledger: &Arc<Ledger>) -> Launched {
    let NewSandbox { bundle, spec, pod, container_follows } = new;
    let shape = Shape {
        hostname: spec.hostname().clone(),
        memory_mib: config.hypervisor.default_memory_mib,
        vcpus: config.hypervisor.default_vcpus,
    };
    let state_root = PathBuf::from(STATE_ROOT);
    let state_dir = state_root.join(&source.id);
    let launch = LaunchSpec {
        id: source.id.parse().map_err(|error: IdError| refused(&error))?,
        bundle,
        config,
        spec,
        container_follows,
        pod,
        state_root,
        manager: "containerd".to_owned(),
        socket: source.socket.clone(),
    };
    // What is launched is too much to be carried about in each future above.
    let launched = Box::pin(kata_sandbox::launch(launch)).await;
    let (sandbox, events) = launched.map_err(|error| refused(&error))?;
    // Before anybody can ask the sandbox to remove that directory.
    management::start(&state_dir, Arc::new(Live(sandbox.downgrade())));
    Ok(Arc::new(Kata::new(sandbox, events, shape, ledger.clone())))
}

/// Launches what `CreateSandbox` asks for.
pub(crate) struct KataLauncher {
    source: Source,
    ledger: Arc<Ledger>,
}

impl KataLauncher {
    /// For one server.
    pub(crate) fn new(source: Source, ledger: &Arc<Ledger>) -> Self {
        Self { source, ledger: ledger.clone() }
    }
}

#[async_trait]
impl Launcher for KataLauncher {
    async fn launch(&self, sandbox: NewSandbox) -> Launched {
        let config = load(&self.source, &sandbox.spec).map_err(|error| refused(&PlanError::from(error)))?;
        launch_one(sandbox, config, &self.source, &self.ledger).await
    }
}

/// A server listens on its socket long before it is so old.
const UNUSED_SOCKET: Duration = Duration::from_secs(60);

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
    address::sweep(Path::new(address::SOCKET_DIR), UNUSED_SOCKET);
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
