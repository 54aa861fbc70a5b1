//! The sandbox behind the service: reads what it shall be, launches it, and translates.

mod containers;
mod cost;
mod managed;
mod metrics;
mod sandbox;
mod stats;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use kata_config::{Config, LoadRequest, LogFormat, LogLevel};
use kata_sandbox::sizing::{Rule, Sizing};
use kata_sandbox::{IdError, LaunchSpec};
use kata_trace::Tracer;
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
use crate::logging::{Control, Manner};
use crate::management::{self, Feed};
use crate::pod;
use crate::pod_limits;
use crate::rpcs::Rpcs;
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
    /// This process's log.
    log: Option<Control>,
    /// Who traces, if anybody does.
    tracer: Option<Tracer>,
}

impl Source {
    /// As `start` has told this server.
    pub(crate) fn of(identity: &Identity, environment: &Environment) -> Self {
        Self {
            id: identity.id.clone(),
            explicit: identity.config.clone(),
            conf_file: environment.conf_file.clone(),
            socket: environment.socket.clone(),
            log: None,
            tracer: None,
        }
    }

    /// Once it is known who traces.
    pub(crate) fn traced_by(self, tracer: Option<Tracer>) -> Self {
        Self { tracer, ..self }
    }

    /// Once this process has a log.
    pub(crate) fn logging_by(self, log: Control) -> Self {
        Self { log: Some(log), ..self }
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
    /// The configuration: of a sandbox that is yet to be described, without its annotations.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

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

/// What to log: `-debug` (containerd logs at debug level) and the configuration can both ask for more.
pub(crate) fn log_manner(identity: &Identity, plan: &Result<Plan, PlanError>) -> Manner {
    let configured = plan.as_ref().ok().map(|plan| &plan.config.runtime);
    let format = configured.map_or(LogFormat::default(), |runtime| runtime.log_format);
    let level = level(configured.map(|runtime| runtime.log_level));
    Manner { level: if identity.debug { level.max(LevelFilter::DEBUG) } else { level }, format }
}

fn level(configured: Option<LogLevel>) -> LevelFilter {
    match configured {
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
    rpcs: &Arc<Rpcs>,
) -> Option<Launched> {
    match plan {
        Ok(Plan { spec: None, .. }) => None,
        Ok(Plan { bundle, spec: Some(spec), config }) => {
            let first = pod::first_container(&spec);
            let new = NewSandbox { bundle, spec, pod: None, first };
            Some(launch_one(new, config, source, (ledger, rpcs)).await)
        }
        Err(error) => Some(Err(refused(&error))),
    }
}

fn refused(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::of(Kind::FailedPrecondition, error)
}

async fn launch_one(
    new: NewSandbox,
    config: Config,
    source: &Source,
    (ledger, rpcs): (&Arc<Ledger>, &Arc<Rpcs>),
) -> Launched {
    let NewSandbox { bundle, spec, pod, first } = new;
    let limits = pod_limits::of(&spec).map_err(|error| Failure::of(Kind::InvalidArgument, &error))?;
    let sizing = Sizing::new(Rule::of(&config), limits);
    let shape = Shape { hostname: spec.hostname().clone(), size: sizing.plan().boot.size };
    let state_root = PathBuf::from(STATE_ROOT);
    let state_dir = state_root.join(&source.id);
    let (has_console, quiet) = (config.has_debug_console(), !config.hypervisor.enable_debug);
    let launch = LaunchSpec {
        id: source.id.parse().map_err(|error: IdError| refused(&error))?,
        bundle,
        config,
        spec,
        first,
        sizing,
        pod,
        state_root,
        manager: "containerd".to_owned(),
        socket: source.socket.clone(),
        tracer: source.tracer.clone(),
    };
    // What is launched is too much to be carried about in each future above.
    let launched = Box::pin(kata_sandbox::launch(launch)).await;
    let (sandbox, events) = launched.map_err(|error| refused(&error))?;
    // Before anybody can ask the sandbox to remove that directory.
    if let Some(log) = &source.log {
        log.attach(&state_dir, quiet);
    }
    let feed = Arc::new(Feed::default());
    let live = Live {
        sandbox: sandbox.downgrade(),
        has_console,
        rpcs: Arc::clone(rpcs),
        feed: feed.clone(),
        log: source.log.clone(),
        since: Instant::now(),
    };
    management::start(&state_dir, Arc::new(live));
    Ok(Arc::new(Kata::new(sandbox, events, shape, (ledger.clone(), feed))))
}

/// Launches what `CreateSandbox` asks for.
pub(crate) struct KataLauncher {
    source: Source,
    ledger: Arc<Ledger>,
    rpcs: Arc<Rpcs>,
}

impl KataLauncher {
    /// For one server.
    pub(crate) fn new(source: Source, ledger: &Arc<Ledger>, rpcs: &Arc<Rpcs>) -> Self {
        Self { source, ledger: ledger.clone(), rpcs: rpcs.clone() }
    }
}

#[async_trait]
impl Launcher for KataLauncher {
    async fn launch(&self, sandbox: NewSandbox) -> Launched {
        let config = load(&self.source, &sandbox.spec).map_err(|error| refused(&PlanError::from(error)))?;
        launch_one(sandbox, config, &self.source, (&self.ledger, &self.rpcs)).await
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
