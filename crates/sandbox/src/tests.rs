//! The whole sandbox against a fake VMM and a fake agent: no rights, no VM, no mounts.

mod cgroup;
mod death;
mod fake_agent;
mod fake_host;
mod inspection;
mod life;
mod metrics;
mod network;
mod pause;
mod pinning;
mod resize;
mod resize_sequences;
mod start;
mod streams;
mod swap;
mod volumes;
mod watches;

use std::time::Duration;

use fake_agent::FakeAgent;
use fake_host::{FakeHost, Flaw};
use tokio::time::timeout;

use crate::agent::Deadlines;
use crate::command::{CreateContainer, ExecSpec, Stdio};
use crate::event::{Event, EventReceiver};
use crate::launch::assemble;
use crate::sandbox::Sandbox;
use crate::timeline::Recorder;
use crate::{ContainerId, ExecId};

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// A launched sandbox and what is behind it.
struct Scene {
    sandbox: Sandbox,
    events: EventReceiver,
    host: std::sync::Arc<FakeHost>,
    agent: std::sync::Arc<FakeAgent>,
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(flaws: &[Flaw]) -> Self {
        // Only what the flaw keeps from being answered is given up soon.
        let until = |flaw| if flaws.contains(&flaw) { Duration::from_millis(500) } else { PATIENCE };
        let (dial, request, create) = (until(Flaw::Silent), until(Flaw::Deaf), until(Flaw::Hanging));
        Self::with_deadlines(flaws, Deadlines { dial, request, create })
    }

    fn with_deadlines(flaws: &[Flaw], deadlines: Deadlines) -> Self {
        Self::made(flaws, deadlines, None)
    }

    fn in_namespace(netns: std::path::PathBuf) -> Self {
        let deadlines = Deadlines { dial: PATIENCE, request: PATIENCE, create: PATIENCE };
        Self::made(&[], deadlines, Some(netns))
    }

    fn made(flaws: &[Flaw], deadlines: Deadlines, netns: Option<std::path::PathBuf>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let console = dir.path().join("console.log");
        std::fs::write(&console, "Linux version\nKernel panic - not syncing\n").unwrap();
        let (host, agent) = FakeHost::new(flaws, dir.path());
        *host.netns.lock().unwrap() = netns;
        let recorder = Recorder::new("s", dir.path(), None);
        let (sandbox, events) = assemble(&"s".parse().unwrap(), host.clone(), recorder, deadlines, &console);
        Self { sandbox, events, host, agent, dir }
    }

    /// A sandbox with the container `c`, running.
    async fn running() -> Self {
        let scene = Self::new();
        scene.sandbox.create(container("c")).await.unwrap();
        scene.sandbox.start(&cid("c")).await.unwrap();
        scene
    }

    async fn event(&mut self) -> Event {
        timeout(PATIENCE, self.events.recv()).await.expect("an event in time").expect("an event")
    }

    async fn no_event(&mut self) {
        let event = timeout(Duration::from_millis(100), self.events.recv()).await;
        assert!(event.is_err(), "{event:?}");
    }

    /// The next event, which must be an end; its status.
    async fn exit_of(&mut self, container: &str, exec: Option<&str>) -> u32 {
        match self.event().await {
            Event::Exited { container: c, exec: e, exit, pid } => {
                assert_eq!((c.as_str(), e.as_ref().map(ExecId::as_str)), (container, exec));
                assert_eq!(pid, fake_host::PID);
                exit.status
            }
            other => panic!("{other:?}"),
        }
    }
}

fn cid(id: &str) -> ContainerId {
    id.parse().unwrap()
}

fn eid(id: &str) -> ExecId {
    id.parse().unwrap()
}

fn container(id: &str) -> CreateContainer {
    with_stdio(id, Stdio::default())
}

fn with_stdio(id: &str, stdio: Stdio) -> CreateContainer {
    CreateContainer {
        id: cid(id),
        bundle: "/bundle".into(),
        rootfs: Vec::new(),
        spec: oci_spec::runtime::Spec::default(),
        stdio,
        is_pause: false,
    }
}

fn exec(id: &str, stdio: Stdio) -> ExecSpec {
    ExecSpec { id: eid(id), process: oci_spec::runtime::Process::default(), stdio }
}
