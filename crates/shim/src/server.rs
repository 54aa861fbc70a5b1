//! The server: the process that lives as long as the pod.

use std::collections::HashMap;
use std::env;
use std::fs::File;
use std::future;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::timeout;
use ttrpc::r#async::Server;

use crate::address;
use crate::args::Identity;
use crate::connections::Connections;
use crate::environment::Environment;
use crate::handover::Taker;
use crate::kata::{self, Plan, Source};
use crate::ledger::Ledger;
use crate::logging;
use crate::publisher::{Publisher, Route};
use crate::rpcs::Rpcs;
use crate::service::{Lifecycle, Parts, Service};
use crate::traces;
use crate::{chain, core_scheduling, decorate};

/// The descriptor of the socket that `start` passes.
const BIND_FD: &str = "0";
/// containerd makes the first container as soon as it has the address. One that is killed before that knows of the server
/// when it comes back, and never uses it (1.6 to 2.x).
const UNUSED: Duration = Duration::from_secs(20);
/// After the last container containerd shuts the server down at once, unless it is killed before that.
const USED_UP: Duration = Duration::from_secs(5);
/// The last answer needs a moment to leave, if its reader is slow.
const LAST_ANSWER: Duration = Duration::from_millis(500);
/// Threads for what blocks (waiting for a FIFO's reader, a container's root file system) end soon after.
const IDLE_THREAD: Duration = Duration::from_secs(1);

/// The server cannot run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    /// Not started by `start`.
    #[error(
        "The listening socket must be descriptor {BIND_FD}, not {0}; only the start action starts a server"
    )]
    BindFd(String),
    /// Taking over the socket.
    #[error("Cannot use the inherited socket")]
    Inherit(#[source] io::Error),
    /// The working directory is gone.
    #[error("The bundle (working directory) cannot be used")]
    Bundle(#[source] io::Error),
    /// Threads, signals.
    #[error("Cannot start the server's threads")]
    Runtime(#[source] io::Error),
    /// ttRPC.
    #[error("Cannot serve the task API")]
    Serve(#[source] ttrpc::Error),
}

/// Serves until containerd says that the pod is over, or a signal does.
///
/// # Errors
/// Only before it serves; after that, errors are answers.
pub(crate) fn run(identity: &Identity, environment: &Environment) -> Result<(), ServerError> {
    let listener = inherit(environment)?;
    // Fails only for the leader of a process group, who is detached enough.
    let _ = rustix::process::setsid();
    let bundle = match &identity.bundle {
        Some(bundle) => bundle.clone(),
        None => env::current_dir().map_err(ServerError::Bundle)?,
    };
    permit_open_files();
    let source = Source::of(identity, environment);
    let plan = Plan::read(&source, &bundle);
    let log = logging::start(&bundle, &identity.id, kata::log_manner(identity, &plan));
    let source = source.logging_by(log);
    // The pod does without, as under other runtimes where there is none.
    if environment.core_scheduling
        && let Err(error) = core_scheduling::begin()
    {
        tracing::warn!(error = chain::text(&error), "SCHED_CORE has no effect");
    }
    let runtime = Builder::new_multi_thread()
        .worker_threads(environment.worker_threads())
        .thread_name("shim")
        .thread_keep_alive(IDLE_THREAD)
        .enable_all()
        .build()
        .map_err(ServerError::Runtime)?;
    let route =
        Route::choose(environment.ttrpc_address.as_deref(), &identity.publish_binary, &identity.address);
    let begin = Begin { plan, source, environment };
    let result = runtime.block_on(serve(listener, identity, route, begin));
    // A thread that waits for a FIFO's reader would wait on.
    runtime.shutdown_background();
    result
}

/// Each file of a volume that a workload watches is one that the shim has open, and service managers give 1024 by default.
fn permit_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // It is then as before: some thousand watches fewer.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Takes the socket out of standard input, and leaves nothing there.
fn inherit(environment: &Environment) -> Result<UnixListener, ServerError> {
    match environment.bind_fd.as_deref() {
        Some(BIND_FD) => {}
        other => return Err(ServerError::BindFd(other.unwrap_or_default().to_owned())),
    }
    let socket = io::stdin().as_fd().try_clone_to_owned().map_err(ServerError::Inherit)?;
    let nothing = File::open("/dev/null").map_err(ServerError::Inherit)?;
    rustix::stdio::dup2_stdin(&nothing).map_err(|error| ServerError::Inherit(error.into()))?;
    Ok(UnixListener::from(socket))
}

/// What the sandbox is launched from.
struct Begin<'e> {
    plan: Result<Plan, kata::PlanError>,
    source: Source,
    environment: &'e Environment,
}

async fn serve(
    listener: UnixListener,
    identity: &Identity,
    route: Route,
    begin: Begin<'_>,
) -> Result<(), ServerError> {
    let mut taker = Taker::from_stdout().map_err(ServerError::Inherit)?;
    let mut signals = Signals::new().map_err(ServerError::Runtime)?;
    let publisher = Publisher::start(route, &identity.namespace);
    let ledger = Arc::new(Ledger::new(publisher.clone()));
    let end = Arc::new(Notify::new());
    let Begin { plan, source, environment } = begin;
    let config = plan.as_ref().ok().map(Plan::config);
    let tracer = config.and_then(|config| traces::tracer(config, environment, &identity.id));
    let source = source.traced_by(tracer.clone());
    let rpcs = Arc::new(Rpcs::default());
    let launched = Box::pin(kata::launch(plan, &source, &ledger, &rpcs)).await;
    let launcher = Box::new(kata::KataLauncher::new(source, &ledger, &rpcs));
    let service = Arc::new(Service::from(Parts {
        namespace: identity.namespace.clone(),
        config: identity.config.clone(),
        life: Lifecycle::new(&identity.id, launcher, launched),
        ledger,
        publisher,
        end: end.clone(),
    }));
    tokio::spawn(kata::sweep());
    // The sandbox is on its way meanwhile. A failure here is `start`'s death, which is met again below.
    let listens = taker.step().await.is_ok();
    let socket = listener.local_addr().ok().and_then(|address| address.as_pathname().map(Path::to_owned));
    let connections = Connections::new();
    let decorated = decorate::services(&service, &rpcs, tracer.as_ref());
    let served = if listens { answer(listener, decorated, &connections).await } else { Ok(Server::new()) };
    let told = tokio::select! {
        () = end.notified() => true,
        () = signals.any() => false,
        () = abandoned(taker, &service) => false,
        // Nobody can call.
        () = future::ready(()), if served.is_err() => false,
    };
    if !told {
        tracing::info!("ending without being told to");
        service.end_all().await;
    }
    remove(socket);
    // What is still asked now is answered by the end of the connection.
    let served = match served {
        Ok(mut server) => {
            let left = async {
                let _ = server.shutdown().await;
                connections.closed().await;
            };
            let _ = timeout(LAST_ANSWER, left).await;
            Ok(())
        }
        Err(error) => Err(error),
    };
    if let Some(tracer) = tracer {
        tracer.finish(traces::LAST_SPANS).await;
    }
    tracing::info!("ended");
    served
}

/// Answers the task API and the Sandbox API on `listener` from now on.
async fn answer(
    listener: UnixListener,
    services: HashMap<String, ttrpc::r#async::Service>,
    connections: &Connections,
) -> Result<Server, ServerError> {
    let listener = connections.of(listener).map_err(ServerError::Inherit)?;
    let mut server = Server::new().add_listener(listener).register_service(services);
    server.start().await.map_err(ServerError::Serve)?;
    tracing::info!(pid = std::process::id(), version = crate::info::VERSION, "serving");
    Ok(server)
}

/// The signals that ask for an orderly end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Returns when nobody needs this server: `start` has died before its answer, or containerd has not made use of it.
async fn abandoned(mut taker: Taker, service: &Service) {
    if let Err(error) = taker.step().await {
        tracing::warn!(error = &error as &dyn std::error::Error, "abandoned");
        return;
    }
    service.unused(UNUSED, USED_UP).await;
    tracing::warn!("abandoned: it has no container, and containerd neither makes one nor shuts it down");
}

fn remove(socket: Option<PathBuf>) {
    if let Some(path) = socket
        && let Err(error) = address::remove(&path)
    {
        tracing::warn!(error = &error as &dyn std::error::Error, "the socket is left");
    }
}
