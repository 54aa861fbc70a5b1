//! The handle on a sandbox: sends requests to its owning task and waits for the answers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kata_transport::Stream;
use oci_spec::runtime::LinuxResources;
use tokio::sync::{mpsc, oneshot};

use crate::agent::Requests;
use crate::command::{
    Command, CreateContainer, Created, ExecSpec, Exit, GuestMetrics, Key, Parts, PidInfo, ProcessState, Reply,
};
use crate::direct::VolumeStats;
use crate::driver::Message;
use crate::error::{Result, SandboxError as Error};
use crate::inspection::Inspection;
use crate::network::Change;
use crate::network::json::{Interface, Route};
use crate::stats::Stats;
use crate::timeline::{Recorder, Timeline};
use crate::{ContainerId, ExecId};

/// A handle on a sandbox. Cheap to clone; all clones mean the same sandbox. When the last one is dropped the VM is
/// killed, but what was made on the host stays: call [`Sandbox::shutdown`] first.
///
/// Every request fails with [`Error::Gone`] and the reason when there is no VM (any more), except those that
/// look at or remove what was in it.
#[derive(Debug, Clone)]
pub struct Sandbox {
    queue: mpsc::Sender<Message>,
    recorder: Recorder,
    requests: Arc<Requests>,
}

/// A handle that does not keep the sandbox alive.
#[derive(Debug, Clone)]
pub struct WeakSandbox {
    queue: mpsc::WeakSender<Message>,
    recorder: Recorder,
    requests: Arc<Requests>,
}

impl WeakSandbox {
    /// A handle to ask things of, as long as somebody else has one, too.
    #[must_use]
    pub fn upgrade(&self) -> Option<Sandbox> {
        let requests = Arc::clone(&self.requests);
        Some(Sandbox { queue: self.queue.upgrade()?, recorder: self.recorder.clone(), requests })
    }

    /// How long the requests to the agent took so far; also of a sandbox that nobody has any more.
    #[must_use]
    pub fn requests(&self) -> &Requests {
        &self.requests
    }
}

impl Sandbox {
    pub(crate) fn new(queue: mpsc::Sender<Message>, recorder: Recorder, requests: Arc<Requests>) -> Self {
        Self { queue, recorder, requests }
    }

    /// Waits until the guest is up and configured, without any container; for managers that start sandboxes by
    /// themselves. Returns the process on the host that stands for the sandbox: its VM. `hostname` is the guest's name;
    /// without one it has the host's.
    ///
    /// # Errors
    /// The VM or the agent failed, with the reason. What is left of it is undone by [`Sandbox::shutdown`].
    pub async fn boot(&self, hostname: Option<String>) -> Result<u32> {
        self.ask(|reply| Command::Boot { hostname, reply }).await
    }

    /// Makes a container, whose first process waits to be started. The first one waits for the VM to come up.
    ///
    /// # Errors
    /// The name is taken; its files cannot be prepared; the VM or the agent failed, with the reason. If the
    /// sandbox never ran, all of it is undone before the error is told.
    pub async fn create(&self, request: CreateContainer) -> Result<Created> {
        self.ask(|reply| Command::Create { request: Box::new(request), reply }).await
    }

    /// Starts a container's first process. Returns the process on the host that stands for it.
    ///
    /// # Errors
    /// It is not in the state for it; the agent failed.
    pub async fn start(&self, container: &ContainerId) -> Result<u32> {
        let key = Key::new(container, None);
        self.ask(|reply| Command::Start { key, reply }).await
    }

    /// Adds a process to a container; it runs when it is started.
    ///
    /// # Errors
    /// The name is taken; the container is not in the state for it.
    pub async fn exec(&self, container: &ContainerId, request: ExecSpec) -> Result<()> {
        let (container, request) = (container.clone(), Box::new(request));
        self.ask(|reply| Command::Exec { container, request, reply }).await
    }

    /// Starts an added process. Returns the process on the host that stands for it.
    ///
    /// # Errors
    /// It or its container is not in the state for it; the agent failed, for example because there is no such program.
    pub async fn start_exec(&self, container: &ContainerId, exec: &ExecId) -> Result<u32> {
        let key = Key::new(container, Some(exec));
        self.ask(|reply| Command::Start { key, reply }).await
    }

    /// Looks at a process; `exec` of `None` is the container's first.
    ///
    /// # Errors
    /// There is none of that name.
    pub async fn state(&self, container: &ContainerId, exec: Option<&ExecId>) -> Result<ProcessState> {
        let key = Key::new(container, exec);
        self.ask(|reply| Command::State { key, reply }).await
    }

    /// Sends a signal (its Linux number) to a process, or with `all` to every process of the container.
    ///
    /// # Errors
    /// [`Error::Finished`] if it has ended; the agent failed.
    pub async fn kill(
        &self,
        container: &ContainerId,
        exec: Option<&ExecId>,
        signal: u32,
        all: bool,
    ) -> Result<()> {
        let key = Key::new(container, exec);
        self.ask(|reply| Command::Kill { key, signal, all, reply }).await
    }

    /// Forgets a process that has ended or was never started; the first one takes its container along.
    ///
    /// # Errors
    /// It runs; its files cannot be removed.
    pub async fn delete(&self, container: &ContainerId, exec: Option<&ExecId>) -> Result<Exit> {
        let key = Key::new(container, exec);
        self.ask(|reply| Command::Delete { key, reply }).await
    }

    /// Waits for a process's end.
    ///
    /// # Errors
    /// There is none of that name (any more).
    pub async fn wait(&self, container: &ContainerId, exec: Option<&ExecId>) -> Result<Exit> {
        let key = Key::new(container, exec);
        self.ask(|reply| Command::Wait { key, reply }).await
    }

    /// Freezes all processes of a container.
    ///
    /// # Errors
    /// It does not run; the agent failed.
    pub async fn pause(&self, container: &ContainerId) -> Result<()> {
        let container = container.clone();
        self.ask(|reply| Command::Pause { container, reply }).await
    }

    /// Thaws a container.
    ///
    /// # Errors
    /// It is not frozen; the agent failed.
    pub async fn resume(&self, container: &ContainerId) -> Result<()> {
        let container = container.clone();
        self.ask(|reply| Command::Resume { container, reply }).await
    }

    /// A container's processes.
    ///
    /// # Errors
    /// It does not run; the agent failed.
    pub async fn pids(&self, container: &ContainerId) -> Result<Vec<PidInfo>> {
        let container = container.clone();
        self.ask(|reply| Command::Pids { container, reply }).await
    }

    /// A container's consumption.
    ///
    /// # Errors
    /// It does not run; the agent failed.
    pub async fn stats(&self, container: &ContainerId) -> Result<Stats> {
        let container = container.clone();
        self.ask(|reply| Command::Stats { container, reply }).await
    }

    /// Changes a container's limits; what is not given stays.
    ///
    /// # Errors
    /// It has ended; the guest's kernel or the agent refused, and nothing has changed.
    pub async fn update(&self, container: &ContainerId, resources: LinuxResources) -> Result<()> {
        let (container, resources) = (container.clone(), Box::new(resources));
        self.ask(|reply| Command::Update { container, resources, reply }).await
    }

    /// Tells a process's terminal its size in characters.
    ///
    /// # Errors
    /// It does not run; it has no terminal; the agent failed.
    pub async fn resize_pty(
        &self,
        container: &ContainerId,
        exec: Option<&ExecId>,
        width: u32,
        height: u32,
    ) -> Result<()> {
        let key = Key::new(container, exec);
        self.ask(|reply| Command::Resize { key, width, height, reply }).await
    }

    /// Ends a process's input after what can be read of it now. An input that ends by itself needs no call.
    ///
    /// # Errors
    /// There is no such process.
    pub async fn close_io(&self, container: &ContainerId, exec: Option<&ExecId>) -> Result<()> {
        let key = Key::new(container, exec);
        self.ask(|reply| Command::CloseIo { key, reply }).await
    }

    /// A handle that does not keep the sandbox alive.
    #[must_use]
    pub fn downgrade(&self) -> WeakSandbox {
        let requests = Arc::clone(&self.requests);
        WeakSandbox { queue: self.queue.downgrade(), recorder: self.recorder.clone(), requests }
    }

    /// Where the agent in the guest is reached, as upstream's tools write it: `vsock://CID:1024`, or on a host without
    /// vhost-vsock `hvsock://PATH:1024`, a socket of this process that is there from now on.
    ///
    /// # Errors
    /// The socket cannot be made; the guest is not up.
    pub async fn agent_address(&self) -> Result<String> {
        self.ask(|reply| Command::AgentAddress { reply }).await
    }

    /// Where the agent is reached as soon as it answers, in the same way. Nothing is asked of it: that is left to who wants
    /// the address.
    ///
    /// # Errors
    /// The socket cannot be made; the guest does not come up.
    pub async fn unconfigured_agent(&self) -> Result<String> {
        self.ask(|reply| Command::UnconfiguredAgent { reply }).await
    }

    /// A stream to a console in the guest, to be spoken as [`kata_protocol::console`] says. The configuration must have
    /// opened the debug console, else nobody answers.
    ///
    /// # Errors
    /// [`Error::Unsupported`]: the agent is not ours; the guest is not up.
    pub async fn console(&self) -> Result<Stream> {
        self.ask(|reply| Command::Console { reply }).await
    }

    /// How much the agent logs to the guest's console: `error`, `warn`, `info`, `debug` or `trace`. `Some` changes it.
    ///
    /// # Errors
    /// There is no such level; [`Error::Unsupported`]: the agent is not ours; the guest is not up.
    pub async fn guest_log_level(&self, level: Option<String>) -> Result<String> {
        self.ask(|reply| Command::GuestLogLevel { level, reply }).await
    }

    /// What the host knows of the sandbox and its containers; answered in every state.
    ///
    /// # Errors
    /// [`Error::Closed`] only.
    pub async fn inspect(&self) -> Result<Inspection> {
        self.ask(|reply| Command::Inspect { reply }).await
    }

    /// The guest's interfaces, and which of the pod's namespace each is connected to.
    ///
    /// # Errors
    /// The guest is not up; the agent failed. So for all requests below.
    pub async fn interfaces(&self) -> Result<Vec<Interface>> {
        self.ask(|reply| Command::Interfaces { reply }).await
    }

    /// Attaches an interface of the pod's namespace, found by its `device` (or hardware address, or name), or changes one
    /// that is attached. Name, MTU and addresses that are given are the guest's; what is not given is as in the namespace.
    ///
    /// # Errors
    /// There is no such interface; something of it cannot be had; the VM or the agent failed. Then nothing has changed.
    pub async fn add_interface(&self, interface: Interface) -> Result<()> {
        let change = Box::new(Change::Add(interface));
        self.ask(|reply| Command::ChangeNetwork { change, reply }).await
    }

    /// Takes an interface out of the VM, by its name in the guest, or in the namespace, where it stays as it was before. It
    /// stays out until it is added again or made anew.
    ///
    /// # Errors
    /// There is no such interface; the VM or the agent failed. Then nothing has changed.
    pub async fn remove_interface(&self, name: &str) -> Result<()> {
        let change = Box::new(Change::Remove(name.to_owned()));
        self.ask(|reply| Command::ChangeNetwork { change, reply }).await
    }

    /// The guest's routes.
    ///
    /// # Errors
    /// See [`interfaces`](Self::interfaces).
    pub async fn routes(&self) -> Result<Vec<Route>> {
        self.ask(|reply| Command::Routes { reply }).await
    }

    /// Makes the guest's routes these, whatever the namespace has; with `None` those of the namespace again.
    ///
    /// # Errors
    /// The guest's kernel refuses one. Then nothing has changed.
    pub async fn set_routes(&self, routes: Option<Vec<Route>>) -> Result<()> {
        let change = Box::new(Change::Routes(routes));
        self.ask(|reply| Command::ChangeNetwork { change, reply }).await
    }

    /// The guest's packet filter, as iptables-save(8) writes it.
    ///
    /// # Errors
    /// The guest's image lacks the programs, or they failed.
    pub async fn packet_filter(&self, v6: bool) -> Result<Vec<u8>> {
        self.ask(|reply| Command::PacketFilter { v6, reply }).await
    }

    /// Sets the guest's packet filter to such a text; what iptables-restore(8) says of it.
    ///
    /// # Errors
    /// As of [`packet_filter`](Self::packet_filter).
    pub async fn set_packet_filter(&self, v6: bool, rules: Vec<u8>) -> Result<Vec<u8>> {
        self.ask(|reply| Command::SetPacketFilter { v6, rules, reply }).await
    }

    /// How full a direct-assigned volume is; `volume` is its path on the host.
    ///
    /// # Errors
    /// The sandbox has no such volume; the guest is not up; the agent failed.
    pub async fn volume_stats(&self, volume: &Path) -> Result<VolumeStats> {
        let volume = volume.to_owned();
        self.ask(|reply| Command::VolumeStats { volume, reply }).await
    }

    /// Lets a direct-assigned volume grow to `bytes`, its disk and its file system; the device on the host has grown before.
    /// Can be repeated.
    ///
    /// # Errors
    /// The sandbox has no such volume; it would shrink; the VMM or the agent failed.
    pub async fn resize_volume(&self, volume: &Path, bytes: u64) -> Result<()> {
        let volume = volume.to_owned();
        self.ask(|reply| Command::ResizeVolume { volume, bytes, reply }).await
    }

    /// What the sandbox is made of now, as far as it can be measured.
    ///
    /// # Errors
    /// [`Error::Closed`]
    pub async fn parts(&self) -> Result<Parts> {
        self.ask(|reply| Command::Parts { reply }).await
    }

    /// The figures of agent and guest: the families that these words of `kata_metrics::Selection` select. They are waited for as
    /// long as `patience` allows.
    ///
    /// # Errors
    /// See [`interfaces`](Self::interfaces).
    pub async fn guest_metrics(&self, families: Vec<String>, patience: Duration) -> Result<GuestMetrics> {
        self.ask(|reply| Command::GuestMetrics { families, patience, reply }).await
    }

    /// Ends the VM, whatever runs in it, and removes everything that the sandbox made on the host. Can be repeated.
    ///
    /// # Errors
    /// [`Error::Left`] if something could not be removed.
    pub async fn shutdown(&self) -> Result<()> {
        self.ask(|reply| Command::Shutdown { reply }).await
    }

    /// Where the time has gone so far.
    #[must_use]
    pub fn timeline(&self) -> Timeline {
        self.recorder.snapshot()
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let message = Message::Command(command(reply), kata_trace::current());
        self.queue.send(message).await.map_err(|_| Error::Closed)?;
        answer.await.unwrap_or(Err(Error::Closed))
    }
}
