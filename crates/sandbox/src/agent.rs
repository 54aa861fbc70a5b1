//! The client of the agent in the guest: `kata.v1.Sandbox` where the agent has it, else upstream's requests
//! one by one. Every request has a deadline, and ends at once with the reason when the sandbox ends.

mod answers;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod measured;
mod network;
mod seccomp;
mod upstream;
mod volumes;
mod watches;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kata_protocol::agent as grpc;
use kata_protocol::agent_ttrpc::AgentServiceClient;
use kata_protocol::kata;
use kata_protocol::kata_ttrpc::SandboxClient;
use kata_protocol::oci_convert;
use kata_transport::Stream;
use oci_spec::runtime::LinuxResources;
use protobuf::MessageField;
use tokio::sync::watch;
use tokio::time::timeout;
use ttrpc::r#async::Client;
use ttrpc::r#async::transport::Socket;
use ttrpc::context::{self, Context};

use crate::command::{Key, PidInfo};
use crate::console;
use crate::error::{Result, SandboxError as Error};
use crate::gone::Gone;
use crate::stats::Stats;

/// How much longer the agent may try than we wait, so that our own deadline speaks first.
const AGENT_EXTRA: Duration = Duration::from_secs(1);

/// When a request fails because its connection broke, how long the news of the VM's end may take.
const NEWS_PATIENCE: Duration = Duration::from_secs(1);

/// How long requests may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    /// From starting the VM until its agent announces itself.
    pub(crate) dial: Duration,
    /// An ordinary request.
    pub(crate) request: Duration,
    /// A request that makes a container.
    pub(crate) create: Duration,
}

/// The agent of one sandbox. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Agent {
    kata: SandboxClient,
    grpc: AgentServiceClient,
    /// It has no `kata.v1`.
    foreign: Arc<AtomicBool>,
    /// Whether it has announced itself.
    up: watch::Receiver<bool>,
    deadlines: Deadlines,
    gone: Gone,
    console: Arc<Path>,
}

/// A sandbox was started.
#[derive(Debug, Default)]
pub(crate) struct Started {
    /// The guest's phases, for the timeline.
    pub(crate) phases: Vec<kata::Phase>,
    /// The agent's version, if it said so.
    pub(crate) version: Option<String>,
}

impl Agent {
    /// Speaks over a stream to the agent's port. The guest need not be `up` yet.
    pub(crate) fn new(
        stream: Stream,
        up: watch::Receiver<bool>,
        deadlines: Deadlines,
        gone: Gone,
        console: &Path,
    ) -> Self {
        let client = Client::new(Socket::new(stream));
        Self {
            kata: SandboxClient::new(client.clone()),
            grpc: AgentServiceClient::new(client),
            foreign: Arc::default(),
            up,
            deadlines,
            gone,
            console: console.into(),
        }
    }

    /// Whether the agent is not ours: its streams must be polled.
    pub(crate) fn is_foreign(&self) -> bool {
        self.foreign.load(Ordering::Relaxed)
    }

    /// Configures the guest and makes the first container, in one round trip if the agent can.
    pub(crate) async fn start_sandbox(&self, request: &kata::StartSandboxRequest) -> Result<Started> {
        let deadline = self.deadlines.create;
        let mut own = request.clone();
        if let Some(container) = own.container.as_mut() {
            *container = seccomp::compiled(container)?;
        }
        let rpc = self.kata.start_sandbox(within(self.deadlines.dial.saturating_add(deadline)), &own);
        match self.call_once_up("start the sandbox", deadline, rpc).await {
            Err(error) if answers::is_foreign(&error) => {
                self.foreign.store(true, Ordering::Relaxed);
                self.start_one_by_one(request).await
            }
            Err(error) => Err(error),
            Ok(answer) => Ok(answers::started(answer)),
        }
    }

    /// Makes a further container.
    pub(crate) async fn create(&self, request: &kata::ContainerRequest) -> Result<()> {
        if self.is_foreign() {
            return self.create_upstream(request).await;
        }
        let deadline = self.deadlines.create;
        let request = seccomp::compiled(request)?;
        let rpc = self.kata.create_container(within(deadline), &request);
        self.call("create the container", deadline, rpc).await.map(drop)
    }

    /// Starts a container's first process.
    pub(crate) async fn start(&self, container: &str) -> Result<()> {
        let request =
            grpc::StartContainerRequest { container_id: container.to_owned(), ..Default::default() };
        let deadline = self.deadlines.request;
        let rpc = self.grpc.start_container(within(deadline), &request);
        self.call("start the container", deadline, rpc).await.map(drop)
    }

    /// Adds a process to a container and starts it.
    pub(crate) async fn exec(&self, request: &kata::ExecRequest) -> Result<()> {
        if self.is_foreign() {
            return self.exec_upstream(request).await;
        }
        let deadline = self.deadlines.request;
        let rpc = self.kata.exec(within(deadline), request);
        self.call("start the process", deadline, rpc).await.map(drop)
    }

    /// Waits for the end of a process, as long as the sandbox lives; returns its exit status.
    pub(crate) async fn wait(&self, key: &Key) -> Result<u32> {
        let request = grpc::WaitProcessRequest {
            container_id: key.container.to_string(),
            exec_id: exec_id(key),
            ..Default::default()
        };
        let rpc = self.grpc.wait_process(Context::default(), &request);
        let status = self.answer("wait for the process", rpc).await?.status;
        Ok(u32::from_ne_bytes(status.to_ne_bytes()) & 0xff)
    }

    /// Waits until the kernel has killed a process for want of memory; the id of its container.
    pub(crate) async fn out_of_memory(&self) -> Result<String> {
        let request = grpc::GetOOMEventRequest::default();
        let rpc = self.grpc.get_oom_event(Context::default(), &request);
        Ok(self.answer("tell of a lack of memory", rpc).await?.container_id)
    }

    /// Sends a signal to a process, or to all of its container.
    pub(crate) async fn signal(&self, key: &Key, signal: u32, all: bool) -> Result<()> {
        let request = grpc::SignalProcessRequest {
            container_id: key.container.to_string(),
            exec_id: if all { String::new() } else { exec_id(key) },
            signal,
            ..Default::default()
        };
        let deadline = self.deadlines.request;
        let rpc = self.grpc.signal_process(within(deadline), &request);
        self.call("send the signal", deadline, rpc).await.map(drop)
    }

    /// Removes a container whose processes have ended.
    pub(crate) async fn remove(&self, container: &str) -> Result<()> {
        let deadline = self.deadlines.request;
        let request = grpc::RemoveContainerRequest {
            container_id: container.to_owned(),
            timeout: u32::try_from(deadline.as_secs()).unwrap_or(u32::MAX),
            ..Default::default()
        };
        let rpc = self.grpc.remove_container(within(deadline), &request);
        self.call("remove the container", deadline, rpc).await.map(drop)
    }

    /// Freezes a container.
    pub(crate) async fn pause(&self, container: &str) -> Result<()> {
        let request =
            grpc::PauseContainerRequest { container_id: container.to_owned(), ..Default::default() };
        let deadline = self.deadlines.request;
        let rpc = self.grpc.pause_container(within(deadline), &request);
        self.call("pause the container", deadline, rpc).await.map(drop)
    }

    /// Thaws a container.
    pub(crate) async fn resume(&self, container: &str) -> Result<()> {
        let request =
            grpc::ResumeContainerRequest { container_id: container.to_owned(), ..Default::default() };
        let deadline = self.deadlines.request;
        let rpc = self.grpc.resume_container(within(deadline), &request);
        self.call("resume the container", deadline, rpc).await.map(drop)
    }

    /// Changes a container's limits.
    pub(crate) async fn update(&self, container: &str, resources: &LinuxResources) -> Result<()> {
        let request = grpc::UpdateContainerRequest {
            container_id: container.to_owned(),
            resources: MessageField::some(oci_convert::resources_to_grpc(resources)),
            ..Default::default()
        };
        let deadline = self.deadlines.request;
        let rpc = self.grpc.update_container(within(deadline), &request);
        self.call("update the container", deadline, rpc).await.map(drop)
    }

    /// Tells a process's terminal its size in characters.
    pub(crate) async fn resize(&self, key: &Key, width: u32, height: u32) -> Result<()> {
        let request = grpc::TtyWinResizeRequest {
            container_id: key.container.to_string(),
            exec_id: exec_id(key),
            row: height,
            column: width,
            ..Default::default()
        };
        let deadline = self.deadlines.request;
        let rpc = self.grpc.tty_win_resize(within(deadline), &request);
        self.call("resize the terminal", deadline, rpc).await.map(drop)
    }

    /// A container's processes.
    pub(crate) async fn pids(&self, container: &str) -> Result<Vec<PidInfo>> {
        if self.is_foreign() {
            return Err(Error::Unsupported { action: "list a container's processes" });
        }
        let request = kata::PidsRequest { container_id: container.to_owned(), ..Default::default() };
        let deadline = self.deadlines.request;
        let rpc = self.kata.pids(within(deadline), &request);
        Ok(answers::pids(self.call("list the processes", deadline, rpc).await?))
    }

    /// A container's consumption.
    pub(crate) async fn stats(&self, container: &str) -> Result<Stats> {
        if self.is_foreign() {
            return self.stats_upstream(container).await;
        }
        let request = kata::StatsRequest { container_id: container.to_owned(), ..Default::default() };
        let deadline = self.deadlines.request;
        let rpc = self.kata.stats(within(deadline), &request);
        Ok(measured::stats(self.call("read the statistics", deadline, rpc).await?))
    }

    /// A request with a deadline.
    async fn call<T>(
        &self,
        action: &'static str,
        after: Duration,
        rpc: impl Future<Output = ttrpc::Result<T>>,
    ) -> Result<T> {
        match timeout(after, self.answer(action, rpc)).await {
            Ok(result) => result,
            Err(_) => Err(Error::Deadline { action, after, console: console::tail(&self.console) }),
        }
    }

    /// A request that is sent while the guest still boots: its deadline counts from when the agent is up. Many guests
    /// that boot at once take their time, and how much they may take is another deadline.
    async fn call_once_up<T>(
        &self,
        action: &'static str,
        after: Duration,
        rpc: impl Future<Output = ttrpc::Result<T>>,
    ) -> Result<T> {
        let mut rpc = std::pin::pin!(rpc);
        let mut up = self.up.clone();
        tokio::select! {
            biased;
            answer = self.answer(action, rpc.as_mut()) => return answer,
            // Nobody says so any more if the guest is gone, and that is the answer.
            _ = up.wait_for(|up| *up) => {}
        }
        self.call(action, after, rpc).await
    }

    /// A request's answer, or why there will be none.
    async fn answer<T>(
        &self,
        action: &'static str,
        rpc: impl Future<Output = ttrpc::Result<T>>,
    ) -> Result<T> {
        match self.gone.unless(rpc).await? {
            Ok(answer) => Ok(answer),
            Err(ttrpc::Error::RpcStatus(status)) => Err(answers::refusal(action, &status)),
            // The connection broke, most likely because the VM has ended: its end is the better reason.
            Err(error) => match timeout(NEWS_PATIENCE, self.gone.wait()).await {
                Ok(gone) => Err(gone),
                Err(_) => Err(answers::broken(action, &error)),
            },
        }
    }
}

/// The first process goes by its container's id; an empty id would mean all processes to some requests.
fn exec_id(key: &Key) -> String {
    key.exec.as_ref().map_or_else(|| key.container.to_string(), ToString::to_string)
}

fn within(deadline: Duration) -> Context {
    context::with_duration(deadline.saturating_add(AGENT_EXTRA))
}
