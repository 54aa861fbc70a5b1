//! The start graph's host half: the VM comes up while containers are prepared (`jobs.rs`), and is watched from
//! its first moment on.

use std::sync::Arc;
use std::time::Duration;

use kata_cgroup::SCOPES_PATIENCE;
use kata_protocol::ports;
use kata_vmm::{ShutdownReason, VmEvent, VmExit};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::agent::{About, Agent};
use crate::console;
use crate::error::chain;
use crate::gone::NEWS_PATIENCE;
use crate::host::{BootError, Daemon, DaemonEnd, Machine, Way};
use crate::jobs::{Boot, Happening, Queue, Reach, Site};
use crate::timeline::{Moment, phase};
use crate::{numa, vcpus};

/// How long starting the processes may take, and systemd before that: a scope that it makes after all has this process in it.
pub(crate) const SPAWN_PATIENCE: Duration = Duration::from_secs(30).saturating_add(SCOPES_PATIENCE);

impl Site {
    /// Starts the VM and stays until its agent has announced itself.
    pub(crate) async fn bring_up(self, queue: Queue) {
        let booted = timeout(SPAWN_PATIENCE, self.host.boot(&self.recorder)).await;
        let (machine, way) = match booted {
            Ok(Ok((machine, way))) => (Arc::new(machine), way),
            Ok(Err(error)) => return self.failed(None, chain(&*error), &queue).await,
            Err(_) => {
                let reason = format!("its processes did not start within {} s", SPAWN_PATIENCE.as_secs());
                return self.failed(None, reason, &queue).await;
            }
        };
        let spawned = Moment::now();
        self.boot.send_replace(Boot::Spawned(Arc::clone(&machine)));
        queue.report(Happening::Spawned(Arc::clone(&machine))).await;
        self.watch_over(&machine, spawned, &queue);
        match self.gone.unless(self.establish(&machine, way)).await {
            Ok(Ok(())) => {
                self.recorder.since(phase::BOOT, spawned);
                self.recorder.save();
            }
            Ok(Err(error)) => {
                // A broken way is most often the VM's own end, and that tells more.
                let told = timeout(NEWS_PATIENCE, self.gone.wait());
                if !error.is::<SilentAgent>() && told.await.is_ok() {
                    self.boot.send_replace(Boot::Failed(Some(machine)));
                    return;
                }
                let reason = format!("{}{}", chain(&*error), console::tail(&self.console));
                self.failed(Some(machine), reason, &queue).await;
            }
            // The VM's end has been announced by who watches it.
            Err(_) => {}
        }
    }

    async fn failed(&self, machine: Option<Arc<Machine>>, reason: String, queue: &Queue) {
        self.boot.send_replace(Boot::Failed(machine.clone()));
        queue.report(Happening::Died { machine, reason: reason.into() }).await;
    }

    /// Opens the way to the agent, and waits for its first sign of life.
    async fn establish(&self, machine: &Arc<Machine>, mut way: Box<dyn Way>) -> Result<(), BootError> {
        let deadline = Instant::now() + self.deadlines.dial;
        let silent = |_| SilentAgent { seconds: self.deadlines.dial.as_secs() };
        let dialer = timeout_at(deadline, way.open()).await.map_err(silent)??;
        let connection = timeout_at(deadline, dialer.connect(ports::AGENT)).await.map_err(silent)??;
        let (up, is_up) = watch::channel(false);
        let (gone, requests) = (self.gone.clone(), Arc::clone(&self.requests));
        let about = About { gone, console: &self.console, requests };
        let agent = Agent::new(connection.stream, is_up, self.deadlines, about);
        let reach = Reach { machine: Arc::clone(machine), agent, dialer };
        self.boot.send_replace(Boot::Reachable(Box::new(reach)));
        timeout_at(deadline, way.announced()).await.map_err(silent)??;
        up.send_replace(true);
        Ok(())
    }

    /// Reports the end of the VM, whichever of its processes goes first.
    fn watch_over(&self, machine: &Arc<Machine>, spawned: Moment, queue: &Queue) {
        if let Some(events) = machine.vmm.take_events() {
            tokio::spawn(self.clone().watch_vm(Arc::clone(machine), events, spawned, queue.clone()));
        }
        if let Some(daemon) = &machine.daemon {
            tokio::spawn(watch_daemon(Arc::clone(daemon), Arc::clone(machine), queue.clone()));
        }
    }

    async fn watch_vm(
        self,
        machine: Arc<Machine>,
        mut events: mpsc::Receiver<VmEvent>,
        spawned: Moment,
        queue: Queue,
    ) {
        let mut before = None;
        while let Some(event) = events.recv().await {
            match event {
                VmEvent::ControlReady => {
                    self.recorder.since(phase::CONTROL, spawned);
                    if machine.cgroup.takes_vcpus() || numa::has_nodes(&machine) {
                        tokio::spawn(vcpus::place(Arc::clone(&machine)));
                    }
                }
                VmEvent::AgentPortOpened | VmEvent::AgentPortClosed => {}
                VmEvent::Shutdown { reason } => before = before.or(Some(describe(&reason))),
                VmEvent::Panicked => before = Some("the guest's kernel panicked".to_owned()),
                VmEvent::Exited(exit) => {
                    let reason = self.death(&machine, before, &exit).await.into();
                    return queue.report(Happening::Died { machine: Some(machine), reason }).await;
                }
            }
        }
        let reason = self.death(&machine, before, &machine.vmm.wait().await).await.into();
        queue.report(Happening::Died { machine: Some(machine), reason }).await;
    }

    /// Why the VM is gone. A VMM whose daemon failed goes because of that.
    async fn death(&self, machine: &Machine, before: Option<String>, exit: &VmExit) -> String {
        if let Some(daemon) = &machine.daemon
            && let Ok(DaemonEnd { how, clean: false }) = timeout(NEWS_PATIENCE, daemon.wait()).await
        {
            return daemon_death(machine, &**daemon, &how);
        }
        let before = before.map(|before| format!("{before}; ")).unwrap_or_default();
        let (lack, parts) = (lack_of_memory(machine), &machine.parts);
        format!("{before}{exit}{lack} ({parts}){}", console::tail(&self.console))
    }
}

async fn watch_daemon(daemon: Arc<dyn Daemon>, machine: Arc<Machine>, queue: Queue) {
    let end = daemon.wait().await;
    // It ends after its VM, too; then the VM's end tells more.
    if end.clean && timeout(NEWS_PATIENCE, machine.vmm.ended()).await.is_ok() {
        return;
    }
    let reason = daemon_death(&machine, &*daemon, &end.how);
    queue.report(Happening::Died { machine: Some(machine), reason: reason.into() }).await;
}

fn daemon_death(machine: &Machine, daemon: &dyn Daemon, how: &str) -> String {
    let (program, lack) = (daemon.program(), lack_of_memory(machine));
    format!("{}, which the VM's files come from, has ended: {how}{lack}", program.display())
}

/// What a lack of memory on the host has to do with an end; empty for nothing.
fn lack_of_memory(machine: &Machine) -> String {
    machine.cgroup.shortage().map(|shortage| format!("; {shortage}")).unwrap_or_default()
}

fn describe(reason: &ShutdownReason) -> String {
    match reason {
        ShutdownReason::GuestShutdown => "the guest powered itself off".to_owned(),
        ShutdownReason::GuestReset => "the guest rebooted, which a panic of its kernel does too".to_owned(),
        ShutdownReason::GuestPanic => "the guest's kernel panicked".to_owned(),
        ShutdownReason::HostQuit => "the VM was shut down".to_owned(),
        ShutdownReason::HostSignal => "the VMM was ended by a signal".to_owned(),
        ShutdownReason::Failure(state) => format!("the VMM could not go on with the guest ({state})"),
        ShutdownReason::Other(words) => format!("the VM stopped ({words})"),
    }
}

/// The guest's agent has not announced itself.
#[derive(Debug, thiserror::Error)]
#[error(
    "The agent in the guest did not announce itself within {seconds} s: check that the initrd is the one of this \
     release, and raise `dial_timeout` if the host is slow"
)]
struct SilentAgent {
    seconds: u64,
}
