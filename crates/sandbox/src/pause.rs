//! A pod's pause container: implementations of the CRI make one per pod, to hold its namespaces and to stand for it. The
//! guest needs neither its process nor its root file system: the agent keeps the namespaces, and the VM is what the pod
//! stands and falls with. So it is only told of: it has its phases, its hooks and its end, but nothing in the guest.
//!
//! What the pod as a whole asks for stands in its specification, and goes to the guest with the sandbox: namespaces with
//! their ids and clocks, kernel settings, and shared memory, which stays as long as the pod.

use std::time::Duration;

use kata_protocol::agent::Storage;
use kata_protocol::{oci, oci_convert};
use oci_spec::runtime::Spec;
use protobuf::MessageField;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::command::{CreateContainer, Exit, Key, PidInfo, Reply};
use crate::driver::Driver;
use crate::error::{Result, SandboxError as Error};
use crate::hooks::Hooks;
use crate::host::Sources;
use crate::jobs::{First, Happening, Queue, Reach, SIGKILL, Site};
use crate::state::{Phase, Verb};
use crate::stats::Stats;

/// The signals on which pause ends by itself.
const HEEDED: [u32; 2] = [2, 15];

/// How long a pause container outlives its VM at most. CRI-O removes no container because it has ended.
const OUTLIVES: Duration = Duration::from_secs(2);

/// What the pod as a whole asks the guest for.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// What its containers share.
    pub(crate) spec: Option<oci::Spec>,
    /// Memory that they share.
    pub(crate) memory: Vec<Storage>,
}

impl Site {
    /// Starts the sandbox with what its pause container says of the pod. Its files are not looked at.
    pub(crate) async fn create_pause(
        self,
        request: CreateContainer,
        hooks: &Hooks,
        queue: &Queue,
    ) -> Result<()> {
        let CreateContainer { id, bundle, rootfs, spec, .. } = request;
        if let Some(part) = oci_convert::unsupported(&spec) {
            return Err(Error::Specification { id: id.to_string(), part });
        }
        let hostname = spec.hostname().clone();
        let shared = shared_by_pod(&spec);
        let made = Box::pin(async {
            let machine = self.devices().await?;
            self.run_first_hooks(&id, hooks, &machine).await?;
            let network = self.network(&machine).await?;
            let memory = self.host.pod_memory(&id, Sources { bundle, rootfs, spec }).await?;
            let pod = Some(Shared { spec: Some(shared), memory });
            let reach = self.reach().await?;
            let first = First { hostname, network: &network, container: &mut None, pod };
            self.start_sandbox_once(&reach, first, queue).await
        })
        .await;
        if made.is_err() {
            self.give_up(&id).await;
        }
        made
    }

    /// What else is due when it starts. A hook that fails ends it.
    pub(crate) async fn start_pause(
        self,
        key: &Key,
        reach: &Reach,
        hooks: &Hooks,
        queue: &Queue,
    ) -> Result<()> {
        self.update_network(reach).await?;
        let started = hooks.after_start(reach.machine.vmm.pid()).await;
        if started.is_err() {
            queue.report(Happening::Exited { key: key.clone(), exit: Exit::now(Exit::KILLED) }).await;
        }
        started.map_err(|source| Error::hook(&key.container, source))
    }
}

impl Driver {
    /// The VM has died, and with it all that ran in it; the pause container ends when the others are removed. On its end
    /// containerd removes it at once and has this server ended; a container whose end it is still taking note of then
    /// counts as running, for good where nobody asks twice ("container is still running, to stop first").
    pub(crate) fn end_pause_last(&mut self) {
        let (pause, others): (Vec<_>, Vec<_>) =
            self.containers.living().into_iter().partition(|(key, _)| self.is_pause(key));
        for (key, known) in others {
            self.finish(&key, Exit::now(Exit::KILLED), known);
        }
        if pause.is_empty() || !self.has_others() {
            return self.end_processes();
        }
        let (sender, removed) = oneshot::channel();
        self.others = Some(sender);
        self.spawn(async move |_, queue| {
            // Either way: removed, or nobody does.
            let _ = timeout(OUTLIVES, removed).await;
            queue.report(Happening::Outlived).await;
        });
    }

    /// Whether there is any container but the pause container.
    pub(crate) fn has_others(&self) -> bool {
        self.containers.0.values().any(|container| !container.is_pause)
    }

    /// Whether this is the first process of a pause container.
    pub(crate) fn is_pause(&self, key: &Key) -> bool {
        key.exec.is_none() && self.containers.is_pause(&key.container)
    }

    /// It ends as pause does under runc, where it is process 1: other signals do not reach it.
    pub(crate) fn kill_pause(&mut self, key: &Key, signal: u32, reply: Reply<()>) {
        let result = self.containers.allowing(key, Verb::Kill).map(|process| process.phase);
        if let Ok(phase) = result
            && let Some(status) = status_after(signal, phase)
        {
            self.on_exit(key, Exit::now(status));
        }
        reply.send(result.map(drop)).ok();
    }

    /// Nothing of it runs, but containerd is told that it stands still.
    pub(crate) fn freeze_pause(&mut self, key: &Key, (verb, phase): (Verb, Phase), reply: Reply<()>) {
        let process = self.containers.allowing(key, verb);
        reply.send(process.map(|process| process.phase = phase)).ok();
    }

    /// It has no process in the guest, but is told as one, the VMM: a containerd 1.7 that is restarted takes a shim whose container
    /// has none for a leak, and gives the pod up.
    pub(crate) fn pids_of_pause(&mut self, key: &Key, reply: Reply<Vec<PidInfo>>) {
        let pid = self.pid();
        let told = self.containers.allowing(key, Verb::Pids).map(|_| vec![PidInfo { pid, exec: None }]);
        reply.send(told).ok();
    }

    /// It uses nothing of the guest.
    pub(crate) fn stats_of_pause(&mut self, key: &Key, reply: Reply<Stats>) {
        reply.send(self.containers.allowing(key, Verb::Stats).map(|_| Stats::default())).ok();
    }

    /// There is nothing to be limited.
    pub(crate) fn update_pause(&mut self, key: &Key, reply: Reply<()>) {
        let allowed = self.containers.allowing(key, Verb::Update).map(drop);
        reply.send(allowed.and_then(|()| Err(no_processes(Verb::Update, key)))).ok();
    }
}

/// What cannot be asked of it.
pub(crate) fn no_processes(verb: Verb, key: &Key) -> Error {
    Error::Pause { verb, id: key.container.to_string() }
}

/// Its exit status after a signal; `None`: it goes on.
fn status_after(signal: u32, phase: Phase) -> Option<u32> {
    match signal {
        SIGKILL => Some(Exit::KILLED),
        signal if !HEEDED.contains(&signal) => None,
        // Not pause yet, but what becomes it.
        _ if phase == Phase::Created => Some(128 + signal),
        _ => Some(0),
    }
}

/// Of a pause container's specification, what its pod's containers share.
fn shared_by_pod(spec: &Spec) -> oci::Spec {
    let oci::Spec { Version, Domainname, Linux, .. } = oci_convert::spec_to_grpc(spec);
    let oci::Linux { Namespaces, UIDMappings, GIDMappings, TimeOffsets, Sysctl, .. } =
        Linux.unwrap_or_default();
    let linux =
        oci::Linux { Namespaces, UIDMappings, GIDMappings, TimeOffsets, Sysctl, ..Default::default() };
    oci::Spec { Version, Domainname, Linux: MessageField::some(linux), ..Default::default() }
}
