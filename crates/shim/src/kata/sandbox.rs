//! A `kata-sandbox` as the service's backend, and its events as containerd's.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use containerd_shim_protos::api::Mount;
use kata_sandbox::sizing::Size;
use kata_sandbox::{
    ContainerId, CreateContainer, ErrorKind, Event, EventReceiver, ExecId, ExecSpec, Exit, IdError,
    ProcessStatus, Sandbox,
};
use kata_storage::RootfsMount;
use oci_spec::runtime::{LinuxResources, Process};
use tokio::sync::watch;
use tokio::time::timeout;

use super::{cost, stats};
use crate::backend::{Backend, Failure, GuestProcess, Kind, Metrics, NewContainer, State, Status, Stdio};
use crate::events::Ended;
use crate::ledger::{Key, Ledger};
use crate::management::{Feed, Happening};

/// How long a container's end waits for the ends of its other processes, which die with it.
const STRAGGLERS: Duration = Duration::from_secs(5);

/// After the sandbox's end, its last events take this long at most to be told.
const LAST_EVENTS: Duration = Duration::from_secs(1);

/// What a sandbox is launched as.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    /// The guest's name, if it has one of its own.
    pub(super) hostname: Option<String>,
    /// How large it is at its start.
    pub(super) size: Size,
}

/// Implements the seam.
pub(super) struct Kata {
    shape: Shape,
    /// The VMM's process, once the sandbox was booted by itself.
    pid: AtomicU32,
    /// Why the VM is gone.
    died: watch::Receiver<Option<String>>,
    /// Absent after [`Backend::shutdown`]: the sandbox's events end when its last handle is dropped.
    sandbox: Mutex<Option<Sandbox>>,
    /// True after the last event of the sandbox was told.
    over: watch::Receiver<bool>,
    /// Who else listens.
    feed: Arc<Feed>,
}

impl Kata {
    /// Of a launched sandbox, whose events go through the ledger, and to the feed, from now on.
    pub(super) fn new(
        sandbox: Sandbox,
        events: EventReceiver,
        shape: Shape,
        (ledger, feed): (Arc<Ledger>, Arc<Feed>),
    ) -> Self {
        let (told, over) = watch::channel(false);
        let (death, died) = watch::channel(None);
        tokio::spawn(follow(events, ledger, over.clone(), News { told, death, feed: feed.clone() }));
        Self { shape, pid: AtomicU32::new(0), died, sandbox: Mutex::new(Some(sandbox)), over, feed }
    }

    fn handle(&self) -> Result<Sandbox, Failure> {
        self.slot().clone().ok_or_else(|| failure(&kata_sandbox::Error::Closed))
    }

    fn slot(&self) -> MutexGuard<'_, Option<Sandbox>> {
        self.sandbox.lock().expect("a panic ends the process, so nobody left the lock poisoned")
    }
}

/// An error of the sandbox, or of an id, as containerd shall see it.
pub(super) fn failure(error: &kata_sandbox::Error) -> Failure {
    let kind = match error.kind() {
        ErrorKind::NotFound => Kind::NotFound,
        ErrorKind::AlreadyExists => Kind::AlreadyExists,
        ErrorKind::FailedPrecondition => Kind::FailedPrecondition,
        ErrorKind::InvalidArgument => Kind::InvalidArgument,
        ErrorKind::DeadlineExceeded => Kind::DeadlineExceeded,
        ErrorKind::Unimplemented => Kind::Unimplemented,
        ErrorKind::Unavailable => Kind::Unavailable,
        ErrorKind::Unknown => Kind::Unknown,
    };
    if let kata_sandbox::Error::Finished { .. } = error {
        // The words of containerd's own shim: clients that are older than its error codes look for them.
        return Failure::new(kind, "process already finished");
    }
    Failure::of(kind, error)
}

fn container(id: &str) -> Result<ContainerId, Failure> {
    id.parse().map_err(|error: IdError| Failure::of(Kind::InvalidArgument, &error))
}

fn ids(key: &Key) -> Result<(ContainerId, Option<ExecId>), Failure> {
    let exec = match key.exec.as_str() {
        "" => None,
        exec => Some(exec.parse().map_err(|error: IdError| Failure::of(Kind::InvalidArgument, &error))?),
    };
    Ok((container(&key.container)?, exec))
}

fn mount(mount: Mount) -> RootfsMount {
    RootfsMount {
        fs_type: mount.type_,
        source: mount.source.into(),
        target: mount.target.into(),
        options: mount.options,
    }
}

fn stdio(stdio: Stdio) -> kata_sandbox::Stdio {
    let Stdio { terminal, stdin, stdout, stderr } = stdio;
    kata_sandbox::Stdio { terminal, stdin, stdout, stderr }
}

/// The ledger knows the process id.
fn ended(exit: Exit, pid: u32) -> Ended {
    Ended { pid, status: exit.status, at: exit.at }
}

#[async_trait]
impl Backend for Kata {
    async fn boot(&self) -> Result<u32, Failure> {
        let booted = self.handle()?.boot(self.shape.hostname.clone()).await;
        let pid = booted.map_err(|error| failure(&error))?;
        self.pid.store(pid, Ordering::Relaxed);
        Ok(pid)
    }

    async fn died(&self) -> Option<String> {
        let mut died = self.died.clone();
        let reason = died.wait_for(Option::is_some).await.ok()?;
        reason.clone()
    }

    fn about(&self) -> HashMap<String, String> {
        let timeline = self.handle().map(|sandbox| sandbox.timeline()).ok();
        let known = timeline.into_iter().flat_map(|timeline| {
            let accelerator = timeline.accelerator.map(|accelerator| ("accelerator", accelerator));
            let reason = timeline.accelerator_reason.map(|reason| ("accelerator_reason", reason));
            let agent = timeline.agent_version.map(|version| ("agent_version", version));
            [timeline.vmm.map(|vmm| ("vmm", vmm)), accelerator, reason, agent].into_iter().flatten()
        });
        let Size { vcpus, memory_mib } = self.shape.size;
        let shape = [("memory_mib", memory_mib.to_string()), ("vcpus", vcpus.to_string())];
        let all = known.chain(shape).chain([("runtime_version", crate::info::VERSION.to_owned())]);
        all.map(|(name, value)| (name.to_owned(), value)).collect()
    }

    async fn cost(&self) -> Result<Metrics, Failure> {
        let pid = self.pid.load(Ordering::Relaxed);
        let cost = cost::of(pid);
        Ok(stats::metrics(&cost.map_err(|error| Failure::of(Kind::Unavailable, &error))?))
    }

    async fn stop(&self) -> Result<(), Failure> {
        match self.handle() {
            Ok(sandbox) => sandbox.shutdown().await.map_err(|error| failure(&error)),
            Err(_) => Ok(()),
        }
    }

    async fn create(&self, new: NewContainer) -> Result<u32, Failure> {
        let NewContainer { id, bundle, rootfs, spec, stdio: streams, is_pause } = new;
        let rootfs = rootfs.into_iter().map(mount).collect();
        let (id, stdio) = (container(&id)?, stdio(streams));
        let request = CreateContainer { id, bundle, rootfs, spec, stdio, is_pause };
        Ok(self.handle()?.create(request).await.map_err(|error| failure(&error))?.pid)
    }

    async fn exec(&self, key: &Key, process: Process, streams: Stdio) -> Result<(), Failure> {
        let id = key.exec.parse().map_err(|error: IdError| Failure::of(Kind::InvalidArgument, &error))?;
        let request = ExecSpec { id, process, stdio: stdio(streams) };
        self.handle()?.exec(&container(&key.container)?, request).await.map_err(|error| failure(&error))
    }

    async fn start(&self, key: &Key) -> Result<u32, Failure> {
        let started = match ids(key)? {
            (container, None) => self.handle()?.start(&container).await,
            (container, Some(exec)) => self.handle()?.start_exec(&container, &exec).await,
        };
        let pid = started.map_err(|error| failure(&error))?;
        if key.exec.is_empty() {
            self.feed.tell(&Happening::ContainerStarted { container: &key.container, pid });
        }
        Ok(pid)
    }

    async fn state(&self, key: &Key) -> Result<State, Failure> {
        let (container, exec) = ids(key)?;
        let state = self.handle()?.state(&container, exec.as_ref()).await.map_err(|error| failure(&error))?;
        let status = match state.status {
            ProcessStatus::Created => Status::Created,
            ProcessStatus::Running => Status::Running,
            ProcessStatus::Paused => Status::Paused,
            ProcessStatus::Stopped => Status::Stopped,
        };
        Ok(State { status, pid: state.pid, ended: state.exit.map(|exit| ended(exit, state.pid)) })
    }

    async fn kill(&self, key: &Key, signal: u32, all: bool) -> Result<(), Failure> {
        let (container, exec) = ids(key)?;
        self.handle()?.kill(&container, exec.as_ref(), signal, all).await.map_err(|error| failure(&error))
    }

    async fn delete(&self, key: &Key) -> Result<Ended, Failure> {
        let (container, exec) = ids(key)?;
        let exit = self.handle()?.delete(&container, exec.as_ref()).await.map_err(|error| failure(&error))?;
        Ok(ended(exit, 0))
    }

    async fn wait(&self, key: &Key) -> Result<Ended, Failure> {
        let (container, exec) = ids(key)?;
        let exit = self.handle()?.wait(&container, exec.as_ref()).await.map_err(|error| failure(&error))?;
        Ok(ended(exit, 0))
    }

    async fn pause(&self, id: &str) -> Result<(), Failure> {
        self.handle()?.pause(&container(id)?).await.map_err(|error| failure(&error))
    }

    async fn resume(&self, id: &str) -> Result<(), Failure> {
        self.handle()?.resume(&container(id)?).await.map_err(|error| failure(&error))
    }

    async fn pids(&self, id: &str) -> Result<Vec<GuestProcess>, Failure> {
        let pids = self.handle()?.pids(&container(id)?).await.map_err(|error| failure(&error))?;
        let process =
            |info: kata_sandbox::PidInfo| GuestProcess { pid: info.pid, exec: info.exec.unwrap_or_default() };
        Ok(pids.into_iter().map(process).collect())
    }

    async fn stats(&self, id: &str) -> Result<Metrics, Failure> {
        let stats = self.handle()?.stats(&container(id)?).await.map_err(|error| failure(&error))?;
        Ok(stats::metrics(&stats))
    }

    async fn update(&self, id: &str, resources: LinuxResources) -> Result<(), Failure> {
        let updated = self.handle()?.update(&container(id)?, resources).await;
        updated.map_err(|error| failure(&error))
    }

    async fn resize(&self, key: &Key, width: u32, height: u32) -> Result<(), Failure> {
        let (container, exec) = ids(key)?;
        let resized = self.handle()?.resize_pty(&container, exec.as_ref(), width, height).await;
        resized.map_err(|error| failure(&error))
    }

    async fn shutdown(&self) -> Result<(), Failure> {
        let Ok(sandbox) = self.handle() else { return Ok(()) };
        let ended = sandbox.shutdown().await.map_err(|error| failure(&error));
        drop(sandbox);
        self.slot().take();
        let _ = timeout(LAST_EVENTS, self.over.clone().wait_for(|over| *over)).await;
        ended
    }
}

/// Whom else the sandbox's events concern.
struct News {
    /// The last event was told.
    told: watch::Sender<bool>,
    /// The VM is gone.
    death: watch::Sender<Option<String>>,
    /// Who listens at the management socket.
    feed: Arc<Feed>,
}

impl News {
    fn tell(&self, event: &Event) {
        self.feed.tell(&match event {
            Event::Exited { container, exec, exit, .. } => Happening::ContainerExited {
                container: container.as_str(),
                exec: exec.as_ref().map_or("", ExecId::as_str),
                exit_status: exit.status,
            },
            Event::OutOfMemory { container } => Happening::Oom { container: container.as_str() },
            Event::VmDied { reason } => Happening::VmDied { reason },
            _ => return,
        });
    }
}

/// Tells containerd, through the ledger, what happens in the sandbox.
async fn follow(mut events: EventReceiver, ledger: Arc<Ledger>, over: watch::Receiver<bool>, news: News) {
    while let Some(event) = events.recv().await {
        news.tell(&event);
        match event {
            Event::Exited { container, exec, pid, exit } => {
                let key = Key::new(container.as_str(), exec.as_ref().map_or("", ExecId::as_str));
                tracing::info!(
                    container = key.container,
                    exec = key.exec,
                    status = exit.status,
                    "process ended"
                );
                if ledger.ended(&key, ended(exit, pid)) {
                    tokio::spawn(release(ledger.clone(), key.container, over.clone()));
                }
            }
            Event::OutOfMemory { container } if ledger.out_of_memory(container.as_str()) => {
                tracing::warn!(container = container.as_str(), "a process was killed for want of memory");
            }
            Event::VmDied { reason } => {
                tracing::error!(reason = %reason, "the VM died");
                news.death.send_replace(Some(reason.to_string()));
            }
            _ => {}
        }
    }
    news.told.send_replace(true);
}

/// Tells a container's end even if that of one of its processes is never reported.
async fn release(ledger: Arc<Ledger>, container: String, mut over: watch::Receiver<bool>) {
    let _ = timeout(STRAGGLERS, over.wait_for(|over| *over)).await;
    ledger.release(&container);
}
