//! The life of the agent: from its transport to its end.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kata_protocol::ports;
use kata_transport::Listener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::agent::{Agent, Setup};
use crate::boot;
use crate::cgroup::Hierarchy;
use crate::console::Consoles;
use crate::forward;
use crate::jail::workload::fix_addresses_of_children;
use crate::logging;
use crate::options::{Options, ServerAddress};
use crate::reaper::Reaper;
use crate::rpc;
use crate::spans::Spans;
use crate::stdio::ports::StdioPorts;
use crate::sys;

/// Signal of init systems: the power is about to fail.
const SIGPWR: i32 = libc::SIGPWR;

/// Threads for system calls that may wait, such as mounts; most of the time there are none.
const BLOCKING_THREADS: usize = 4;
const BLOCKING_LINGER: Duration = Duration::from_secs(1);

/// How long the answer to the last request may take to leave the guest.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// The agent cannot work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServiceError {
    /// The guest could not be set up.
    #[error(transparent)]
    Boot(#[from] boot::BootError),
    /// A resource of the agent itself.
    #[error("Cannot {0}")]
    Start(&'static str, #[source] io::Error),
    /// The way to the host.
    #[error(transparent)]
    Transport(#[from] kata_transport::Error),
    /// The server.
    #[error("Cannot serve")]
    Serve(#[from] ttrpc::Error),
}

type Result<T> = std::result::Result<T, ServiceError>;

/// Serves until told to end, and takes all containers down.
pub(crate) fn run(options: Options, log: logging::Control, owns_guest: bool) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(BLOCKING_LINGER)
        .build()
        .map_err(|source| ServiceError::Start("start the event loop", source))?;
    let result = runtime.block_on(serve(options, log, owns_guest));
    // A thread that hangs in a system call must not hold up the end.
    runtime.shutdown_background();
    result
}

struct Endings {
    terminate: Signal,
    interrupt: Signal,
    power: Signal,
}

impl Endings {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            power: signal(SignalKind::from_raw(SIGPWR))?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.power.recv() => {}
        }
    }
}

async fn serve(options: Options, log: logging::Control, owns_guest: bool) -> Result<()> {
    let mut endings = Endings::new().map_err(|source| ServiceError::Start("listen for signals", source))?;
    if let Err(errno) = fix_addresses_of_children() {
        tracing::debug!(%errno, "Processes start slower on an emulated CPU");
    }
    let reaper = start_reaper(owns_guest).map_err(|source| ServiceError::Start("reap processes", source))?;
    let ports = StdioPorts::default();
    let hierarchy = Hierarchy::find(options.cgroup_root.as_deref());
    if hierarchy.as_ref().is_none_or(|found| !found.has("memory")) {
        tracing::warn!("Containers run without limits: the cgroup v2 controllers are not there");
    }
    let console = options.debug_console.then(|| Consoles::new(reaper.clone(), hierarchy.clone()));
    let (pipe_size, hotplug_timeout) = (options.pipe_size, options.hotplug_timeout);
    let owns_network = owns_guest || options.owns_network;
    let ports_of_agent = ports.clone();
    let setup = Setup {
        log,
        owns_guest,
        owns_network,
        pipe_size,
        hotplug_timeout,
        pull: options.pull.clone(),
        hierarchy,
        reaper,
        ports: ports_of_agent,
    };
    let agent = Arc::new(Agent::new(setup));

    let listener = listen(&options.server).await?;
    tokio::spawn(ports.serve(listener.bind(ports::STDIO).await?));
    tokio::spawn(forward::serve(listener.bind(ports::FORWARD).await?));
    if let Some(console) = console {
        if owns_guest {
            boot::mount_terminals()?;
        }
        console.listen(&listener, options.debug_console_port).await?;
    }
    let spans = spans(&listener, &options).await;
    let server = rpc::serve(Arc::clone(&agent), listener.bind(ports::AGENT).await?, spans).await?;
    ring(&listener, options.doorbell_port).await?;
    if owns_guest && let Err(error) = sys::let_workloads_go_first() {
        tracing::debug!(%error, "Output is moved in small pieces");
    }
    tracing::debug!(version = rpc::VERSION, microseconds = crate::clock::since_boot(), "Serving");

    tokio::select! {
        () = endings.next() => agent.clear().await,
        () = agent.power_off_requested(), if owns_guest => last_words(server).await,
    }
    if !owns_guest {
        remove_files(&options.server);
    }
    Ok(())
}

/// Without them all else works.
async fn spans(listener: &Listener, options: &Options) -> Spans {
    if !options.trace {
        return Spans::default();
    }
    match Spans::start(listener, options.trace_port).await {
        Ok(spans) => spans,
        Err(error) => {
            tracing::warn!(
                error = crate::report::chain(&error),
                "No spans: nobody takes them; start kata-trace-forwarder on the host, or let the shim trace"
            );
            Spans::default()
        }
    }
}

fn start_reaper(owns_guest: bool) -> io::Result<Reaper> {
    if !owns_guest {
        nix::sys::prctl::set_child_subreaper(true)?;
    }
    let reaper = Reaper::default();
    tokio::spawn(reaper.clone().run(signal(SignalKind::child())?));
    Ok(reaper)
}

async fn listen(server: &ServerAddress) -> Result<Listener> {
    let port = match server {
        ServerAddress::Unix(path) => return Ok(Listener::unix(path).await?),
        ServerAddress::Vsock => None,
        ServerAddress::Serial(Some(device)) => Some(device.clone()),
        ServerAddress::Serial(None) | ServerAddress::Auto => boot::agent_port()?,
    };
    Ok(match port {
        Some(device) => Listener::serial(&device).await?,
        None => Listener::vsock().await?,
    })
}

/// Tells the host that it can call. Over virtio-serial it has already seen the port being opened.
async fn ring(listener: &Listener, port: Option<u32>) -> Result<()> {
    if let Some(port) = port {
        match listener.connect_host(port).await {
            Ok(_) | Err(kata_transport::Error::Unsupported { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Lets the answer to the last request go out: all connections are ended, which flushes them.
async fn last_words(mut server: ttrpc::asynchronous::Server) {
    // If the host does not read any more, it does not want to know.
    let _ = tokio::time::timeout(LAST_WORDS, server.shutdown()).await;
}

fn remove_files(server: &ServerAddress) {
    let ServerAddress::Unix(path) = server else { return };
    let others = [ports::STDIO, ports::FORWARD, ports::CONSOLE, ports::DEBUG_CONSOLE]
        .map(|port| format!("{}.{port}", path.display()));
    for file in others.into_iter().map(PathBuf::from).chain([path.clone()]) {
        // Not there if it was removed by the one who made its folder.
        let _ = std::fs::remove_file(file);
    }
}
