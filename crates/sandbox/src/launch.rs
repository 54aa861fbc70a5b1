//! The beginning of a sandbox: its directory, its log, its owning task, and at once its VM.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kata_config::Config;
use kata_intent::{Intent, Intents};
use kata_trace::Tracer;
use oci_spec::runtime::Spec;
use tokio::sync::{mpsc, watch};

use crate::agent::Deadlines;
use crate::cleanup::{blocking, cleanup, state_dir};
use crate::driver::{Driver, Message};
use crate::error::{Result, SandboxError as Error};
use crate::event::EventReceiver;
use crate::host::Host;
use crate::intent_log::{IntentLog, OpenError};
use crate::jobs::{Boot, Queue, Site};
use crate::local::LocalHost;
use crate::pod::Pod;
use crate::sandbox::Sandbox;
use crate::sizing::Sizing;
use crate::spans::Traced;
use crate::timeline::Recorder;
use crate::{SandboxId, gone};

/// Where sandboxes have their state unless the caller says otherwise.
pub const STATE_ROOT: &str = "/run/kata";

/// Where tools look for the sandboxes of [`STATE_ROOT`], a link for each in the second.
const LINK_PARENTS: [&str; 2] = ["/run/vc", "/run/vc/sbs"];

/// How often a parent is made anew that another sandbox's end removes at the same time.
const PARENT_ATTEMPTS: usize = 10;

/// The guest's console log, in the state directory.
pub const CONSOLE_FILE: &str = "console.log";
/// What is older.
pub const CONSOLE_FILE_OLD: &str = "console.log.old";
/// The shim's log there, where the host has no journal, and what is older.
pub const SHIM_LOG_FILE: &str = "shim.log";
/// What is older.
pub const SHIM_LOG_FILE_OLD: &str = "shim.log.old";
/// The socket in a sandbox's state directory by which it is managed (upstream's `shim-monitor.sock`).
pub const MANAGEMENT_SOCKET: &str = "shim-monitor.sock";
/// The largest body of a request that is taken there, in bytes.
pub const MANAGEMENT_BODY: usize = 1 << 20;
/// What a connection there is upgraded to for a console in the guest.
pub const CONSOLE_PROTOCOL: &str = "kata-console";

/// Messages that may wait in a sandbox's queue; more wait with their senders.
const QUEUE: usize = 128;

/// How a sandbox's first container comes, by which the VM is made for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstContainer {
    /// At some time, or nothing of it is needed in the guest.
    Later,
    /// The request for it is on its way: what of its root file system is on disks is in the VM from the start.
    AtOnce,
    /// In the same way, and there will be no other: what it does not need is not there.
    Alone,
}

/// What a sandbox is made of.
#[derive(Debug)]
pub struct LaunchSpec {
    /// Its name.
    pub id: SandboxId,
    /// The directory of the first container's `config.json`.
    pub bundle: PathBuf,
    /// The effective configuration.
    pub config: Config,
    /// The first container's `config.json`.
    pub spec: Spec,
    /// How that container comes.
    pub first: FirstContainer,
    /// How large its VM is.
    pub sizing: Sizing,
    /// What its containers have in common beyond what their specifications say; none where the manager sees to it.
    pub pod: Option<Pod>,
    /// Where sandboxes have their state, usually [`STATE_ROOT`]; the links for tools are made only for that.
    pub state_root: PathBuf,
    /// Who asks (`containerd`), for logs.
    pub manager: String,
    /// Where this process listens, if it does: told by [`sweep`](crate::sweep) should it die.
    pub socket: Option<PathBuf>,
    /// Who traces it, if anybody does.
    pub tracer: Option<Tracer>,
}

/// Launches a sandbox: its VM and daemons are being started when this returns, and whether they come up is told by
/// the first [`Sandbox::create`] and by [`Event::VmDied`](crate::Event::VmDied). Remains of a dead sandbox of the
/// same name are removed before.
///
/// # Errors
/// [`Error::InUse`]; the state directory cannot be made. Nothing is left then.
pub async fn launch(spec: LaunchSpec) -> Result<(Sandbox, EventReceiver)> {
    cleanup(&spec.state_root, &spec.id).await?;
    let (id, root, socket) = (spec.id.clone(), spec.state_root.clone(), spec.socket.clone());
    let (dir, log) = blocking(move || prepare(&root, &id, socket)).await?;
    let log = Arc::new(log);
    let prepared = link(&spec.state_root, &dir, &spec.id, &log).and_then(|()| match &spec.pod {
        Some(pod) => pod.write(&dir, &*log).map_err(|source| Error::State { path: dir.clone(), source }),
        None => Ok(()),
    });
    let recorder = Recorder::new(spec.id.as_str(), &dir, traced(&spec));
    let agent = &spec.config.agent;
    let deadlines = Deadlines {
        dial: agent.dial_timeout,
        request: agent.request_timeout,
        create: agent.create_container_timeout,
    };
    let size = spec.sizing.plan().boot.size;
    tracing::info!(sandbox = %spec.id, manager = spec.manager, bundle = %spec.bundle.display(), %size, "Launching");
    let console = dir.join(CONSOLE_FILE);
    let id = spec.id.clone();
    let host = Arc::new(LocalHost::new(spec, dir, log));
    if let Err(error) = prepared {
        host.undo().await?;
        return Err(error);
    }
    Ok(assemble(&id, host, recorder, deadlines, &console))
}

/// Who traces the sandbox, and what.
fn traced(spec: &LaunchSpec) -> Option<Traced> {
    let tracer = spec.tracer.clone()?;
    Some(Traced { tracer, agent_too: spec.config.agent.enable_tracing })
}

/// Sets the owning task on a sandbox, and brings up its VM.
pub(crate) fn assemble(
    id: &SandboxId,
    host: Arc<dyn Host>,
    recorder: Recorder,
    deadlines: Deadlines,
    console: &Path,
) -> (Sandbox, EventReceiver) {
    let (announcer, gone) = gone::channel();
    let (queue, messages) = mpsc::channel::<Message>(QUEUE);
    let (events, receiver) = mpsc::unbounded_channel();
    let site = Site {
        id: id.clone(),
        host,
        boot: watch::Sender::new(Boot::Pending),
        gone,
        started: Arc::default(),
        recorder: recorder.clone(),
        deadlines,
        console: console.into(),
        requests: Arc::default(),
    };
    let requests = Arc::clone(&site.requests);
    let weak = Queue(queue.downgrade());
    tokio::spawn(Driver::new(site.clone(), announcer, events, weak.clone()).run(messages));
    tokio::spawn(site.bring_up(weak));
    (Sandbox::new(queue, recorder, requests), EventReceiver(receiver))
}

/// Makes the state directory with an empty log in it.
fn prepare(root: &Path, id: &SandboxId, socket: Option<PathBuf>) -> Result<(PathBuf, IntentLog)> {
    let state = |path: &Path, source| Error::State { path: path.to_owned(), source };
    let dir = make_below(root, |root| {
        // Links on the way there are followed once, here; none are when it is cleaned up.
        let dir = state_dir(&root.canonicalize()?, id);
        DirBuilder::new().mode(0o700).create(&dir)?;
        Ok(dir)
    });
    let dir = match dir {
        Ok(dir) => dir,
        // It was not there a moment ago: somebody launches the same.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(Error::InUse { id: id.to_string() });
        }
        Err(source) => return Err(state(root, source)),
    };
    match IntentLog::open(&dir) {
        Ok(log) => match log.own(socket) {
            Ok(()) => Ok((dir, log)),
            Err(source) => Err(state(&dir, source)),
        },
        Err(OpenError::Locked) => Err(Error::InUse { id: id.to_string() }),
        Err(OpenError::Io(source)) => Err(state(&dir, source)),
    }
}

/// Makes something in a directory that comes with the first sandbox and goes with the last: it may go at any time.
fn make_below<T>(parent: &Path, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
    let mut attempts = 1..=PARENT_ATTEMPTS;
    loop {
        std::fs::create_dir_all(parent)?;
        match make(parent) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && attempts.next().is_some() => {}
            made => return made,
        }
    }
}

/// Makes the link for tools, replacing a dead one.
fn link(root: &Path, dir: &Path, id: &SandboxId, log: &IntentLog) -> Result<()> {
    if root != Path::new(STATE_ROOT) {
        return Ok(());
    }
    let announce = || {
        for parent in LINK_PARENTS {
            log.will(Intent::Dir { path: parent.into() })?;
        }
        log.will(Intent::Link { path: Path::new(LINK_PARENTS[1]).join(id.as_str()) })
    };
    let made = announce().and_then(|_| {
        make_below(Path::new(LINK_PARENTS[1]), |links| {
            let path = links.join(id.as_str());
            match symlink(dir, &path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    std::fs::remove_file(&path)?;
                    symlink(dir, &path)
                }
                made => made,
            }
        })
    });
    made.map_err(|source| Error::State { path: LINK_PARENTS[1].into(), source })
}
