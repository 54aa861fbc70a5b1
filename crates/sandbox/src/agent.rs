//! The client of the agent in the guest: `kata.v1.Sandbox` where the agent has it, else upstream's requests
//! one by one. Every request has a deadline, and ends at once with the reason when the sandbox ends.

mod action;
mod answers;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod measured;
mod metrics;
mod network;
mod seccomp;
mod socket;
mod swap;
mod upstream;
mod volumes;
mod watches;

use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

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
use crate::jobs::SIGKILL;
use crate::stats::Stats;

use action::Action;

pub use action::Requests;

/// How much longer the agent may try than we wait, so that our own deadline speaks first.
const AGENT_EXTRA: Duration = Duration::from_secs(1);

/// When a request fails because its connection broke, how long the news of the VM's end may take.
const NEWS_PATIENCE: Duration = Duration::from_secs(1);

/// How long a container's removal may take, with what it has written to disks.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(600);

/// How long the guest may take to let go of all its disks when its sandbox ends.
const FLUSH_PATIENCE: Duration = Duration::from_secs(20);

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
    requests: Arc<Requests>,
}

/// What an agent's client knows of its sandbox.
pub(crate) struct About<'a> {
    /// The sandbox's end.
    pub(crate) gone: Gone,
    /// The guest's console, for errors.
    pub(crate) console: &'a Path,
    /// Where requests are counted.
    pub(crate) requests: Arc<Requests>,
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
        about: About<'_>,
    ) -> Self {
        let About { gone, console, requests } = about;
        let client = Client::new(Socket::new(stream));
        Self {
            kata: SandboxClient::new(client.clone()),
            grpc: AgentServiceClient::new(client),
            foreign: Arc::default(),
            up,
            deadlines,
            gone,
            console: console.into(),
            requests,
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
        match self.call_once_up(Action::StartSandbox, deadline, rpc).await {
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
        self.call(Action::Create, deadline, rpc).await.map(drop)
    }

    /// Starts a container's first process.
    pub(crate) async fn start(&self, container: &str) -> Result<()> {
        let request =
            grpc::StartContainerRequest { container_id: container.to_owned(), ..Default::default() };
        let deadline = self.deadlines.request;
        let rpc = self.grpc.start_container(within(deadline), &request);
        self.call(Action::Start, deadline, rpc).await.map(drop)
    }

    /// Adds a process to a container and starts it.
    pub(crate) async fn exec(&self, request: &kata::ExecRequest) -> Result<()> {
        if self.is_foreign() {
            return self.exec_upstream(request).await;
        }
        let deadline = self.deadlines.request;
        let rpc = self.kata.exec(within(deadline), request);
        let made = self.call(Action::Exec, deadline, rpc).await.map(drop);
        if let Err(Error::Deadline { .. }) = made {
            tokio::spawn(self.clone().end_late(request.container_id.clone(), request.exec_id.clone()));
        }
        made
    }

    /// Ends what the agent has made between our deadline and its own. What comes later the agent ends itself.
    async fn end_late(self, container_id: String, exec_id: String) {
        if timeout(2 * AGENT_EXTRA, self.gone.wait()).await.is_ok() {
            return;
        }
        let request =
            grpc::SignalProcessRequest { container_id, exec_id, signal: SIGKILL, ..Default::default() };
        let deadline = self.deadlines.request;
        let rpc = self.grpc.signal_process(within(deadline), &request);
        if let Err(error) = self.call(Action::Signal, deadline, rpc).await {
            // Most often there is none.
            tracing::debug!(container = request.container_id, exec = request.exec_id, %error, "Not ended");
        }
    }

    /// Waits for the end of a process, as long as the sandbox lives; returns its exit status.
    pub(crate) async fn wait(&self, key: &Key) -> Result<u32> {
        let request = grpc::WaitProcessRequest {
            container_id: key.container.to_string(),
            exec_id: exec_id(key),
            ..Default::default()
        };
        let rpc = self.grpc.wait_process(Context::default(), &request);
        let status = self.answer(Action::Wait, rpc).await?.status;
        Ok(u32::from_ne_bytes(status.to_ne_bytes()) & 0xff)
    }

    /// Waits until the kernel has killed a process for want of memory; the id of its container.
    pub(crate) async fn out_of_memory(&self) -> Result<String> {
        let request = grpc::GetOOMEventRequest::default();
        let rpc = self.grpc.get_oom_event(Context::default(), &request);
        Ok(self.answer(Action::OutOfMemory, rpc).await?.container_id)
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
        self.call(Action::Signal, deadline, rpc).await.map(drop)
    }

    /// Removes a container whose processes have ended. If it `may_write`, what it has written to disks gets there before, which
    /// may take its time: a guest that answers is waited for.
    pub(crate) async fn remove(&self, container: &str, may_write: bool) -> Result<()> {
        let request =
            grpc::RemoveContainerRequest { container_id: container.to_owned(), ..Default::default() };
        let rpc = self.grpc.remove_container(within(REMOVAL_PATIENCE), &request);
        let _timed = self.requests.begin(Action::Remove);
        let words = Action::Remove.words();
        let mut outcome = pin!(self.outcome(words, rpc));
        let begun = Instant::now();
        loop {
            let result = self.bounded(words, self.deadlines.request, outcome.as_mut()).await;
            let goes_on = may_write
                && matches!(result, Err(Error::Deadline { .. }))
                && begun.elapsed() < REMOVAL_PATIENCE;
            if !goes_on || !self.is_well().await {
                return result.map(drop);
            }
        }
    }

    /// Whether it answers a request for which it has nothing to do.
    async fn is_well(&self) -> bool {
        timeout(NEWS_PATIENCE * 5, self.log_level(None)).await.is_ok_and(|answer| answer.is_ok())
    }

    /// Lets the guest write to its disks what its containers have written, when the sandbox is about to end or just has.
    pub(crate) async fn flush(&self) {
        let request = grpc::DestroySandboxRequest::default();
        let rpc = self.grpc.destroy_sandbox(within(FLUSH_PATIENCE), &request);
        match timeout(FLUSH_PATIENCE, rpc).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "The guest did not let go of its disks"),
            Err(_) => tracing::warn!(
                seconds = FLUSH_PATIENCE.as_secs(),
                "The guest does not let go of its disks; what it has not written yet is lost"
            ),
        }
    }

    /// Freezes a container.
    pub(crate) async fn pause(&self, container: &str) -> Result<()> {
        let request =
            grpc::PauseContainerRequest { container_id: container.to_owned(), ..Default::default() };
        let deadline = self.deadlines.request;
        let rpc = self.grpc.pause_container(within(deadline), &request);
        self.call(Action::Pause, deadline, rpc).await.map(drop)
    }

    /// Thaws a container.
    pub(crate) async fn resume(&self, container: &str) -> Result<()> {
        let request =
            grpc::ResumeContainerRequest { container_id: container.to_owned(), ..Default::default() };
        let deadline = self.deadlines.request;
        let rpc = self.grpc.resume_container(within(deadline), &request);
        self.call(Action::Resume, deadline, rpc).await.map(drop)
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
        self.call(Action::Update, deadline, rpc).await.map(drop)
    }

    /// Sets the guest's time of day, in seconds and nanoseconds since 1970.
    pub(crate) async fn set_clock(&self, seconds: i64, nanoseconds: i64) -> Result<()> {
        let time =
            grpc::SetGuestDateTimeRequest { Sec: seconds, Usec: nanoseconds / 1000, ..Default::default() };
        let deadline = self.deadlines.request;
        let rpc = self.grpc.set_guest_date_time(within(deadline), &time);
        self.call(Action::SetClock, deadline, rpc).await.map(drop)
    }

    /// How much the agent logs; `Some` changes it.
    pub(crate) async fn log_level(&self, level: Option<String>) -> Result<String> {
        if self.is_foreign() {
            return Err(Error::Unsupported { action: "change how much it logs while it runs" });
        }
        let request = kata::LogLevelRequest { level: level.unwrap_or_default(), ..Default::default() };
        let deadline = self.deadlines.request;
        let rpc = self.kata.log_level(within(deadline), &request);
        Ok(self.call(Action::LogLevel, deadline, rpc).await?.level)
    }

    /// Lets the guest use so many CPUs, and waits until it has so much memory (0: however much it has).
    pub(crate) async fn resources(&self, vcpus: u32, memory_mib: u32) -> Result<()> {
        let request = grpc::OnlineCPUMemRequest {
            wait: true,
            online_cpus: vcpus,
            memory_bytes: u64::from(memory_mib) << 20,
            // The kernel takes it by itself, as it comes.
            cpu_only: true,
            ..Default::default()
        };
        let deadline = self.deadlines.request;
        let rpc = self.grpc.online_cpu_mem(within(deadline), &request);
        self.call(Action::Resources, deadline, rpc).await.map(drop)
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
        self.call(Action::Resize, deadline, rpc).await.map(drop)
    }

    /// A container's processes.
    pub(crate) async fn pids(&self, container: &str) -> Result<Vec<PidInfo>> {
        if self.is_foreign() {
            return Err(Error::Unsupported { action: "list a container's processes" });
        }
        let request = kata::PidsRequest { container_id: container.to_owned(), ..Default::default() };
        let deadline = self.deadlines.request;
        let rpc = self.kata.pids(within(deadline), &request);
        Ok(answers::pids(self.call(Action::Pids, deadline, rpc).await?))
    }

    /// A container's consumption.
    pub(crate) async fn stats(&self, container: &str) -> Result<Stats> {
        if self.is_foreign() {
            return self.stats_upstream(container).await;
        }
        let request = kata::StatsRequest { container_id: container.to_owned(), ..Default::default() };
        let deadline = self.deadlines.request;
        let rpc = self.kata.stats(within(deadline), &request);
        Ok(measured::stats(self.call(Action::Stats, deadline, rpc).await?))
    }

    /// A request with a deadline.
    async fn call<T>(
        &self,
        action: Action,
        after: Duration,
        rpc: impl Future<Output = ttrpc::Result<T>>,
    ) -> Result<T> {
        let _timed = self.requests.begin(action);
        let outcome = pin!(self.outcome(action.words(), rpc));
        self.bounded(action.words(), after, outcome).await
    }

    /// A request that is sent while the guest still boots: its deadline counts from when the agent is up. Many guests
    /// that boot at once take their time, and how much they may take is another deadline.
    async fn call_once_up<T>(
        &self,
        action: Action,
        after: Duration,
        rpc: impl Future<Output = ttrpc::Result<T>>,
    ) -> Result<T> {
        let _timed = self.requests.begin(action);
        let mut outcome = pin!(self.outcome(action.words(), rpc));
        let mut up = self.up.clone();
        tokio::select! {
            biased;
            outcome = outcome.as_mut() => return outcome,
            // Nobody says so any more if the guest is gone, and that is the answer.
            _ = up.wait_for(|up| *up) => {}
        }
        self.bounded(action.words(), after, outcome).await
    }

    /// A request that may take as long as the sandbox lives.
    async fn answer<T>(&self, action: Action, rpc: impl Future<Output = ttrpc::Result<T>>) -> Result<T> {
        let _timed = self.requests.begin(action);
        self.outcome(action.words(), rpc).await
    }

    async fn bounded<T>(
        &self,
        action: &'static str,
        after: Duration,
        outcome: Pin<&mut impl Future<Output = Result<T>>>,
    ) -> Result<T> {
        match timeout(after, outcome).await {
            Ok(result) => result,
            Err(_) => Err(Error::Deadline { action, after, console: console::tail(&self.console) }),
        }
    }

    /// A request's answer, or why there will be none.
    async fn outcome<T>(
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
    let mut context = context::with_duration(deadline.saturating_add(AGENT_EXTRA));
    if let Some(span) = kata_trace::current() {
        context.add(kata_trace::TRACEPARENT.to_owned(), span.to_string());
    }
    context
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use kata_protocol::kata;
    use kata_transport::Stream;
    use tokio::net::UnixStream;
    use tokio::sync::watch;
    use tokio::time::timeout;

    use super::{About, Agent, Deadlines, NEWS_PATIENCE, Requests};
    use crate::gone;

    /// The shim panicked when QEMU died while the guest booted: it went on with a request that had failed.
    #[tokio::test(start_paused = true)]
    async fn a_connection_that_breaks_before_the_agent_is_up_waits_for_the_reason() {
        let (near, far) = UnixStream::pair().unwrap();
        let (is_up, up) = watch::channel(false);
        let (announcer, gone) = gone::channel();
        let hour = Duration::from_secs(3600);
        let deadlines = Deadlines { dial: hour, request: hour, create: hour };
        let about = About { gone, console: "/none".as_ref(), requests: Arc::new(Requests::default()) };
        let agent = Agent::new(Stream::from(near), up, deadlines, about);
        let request = kata::StartSandboxRequest::default();
        let death = async {
            drop(far);
            // Time goes on only when nothing else does: the request has failed by then.
            timeout(NEWS_PATIENCE / 2, std::future::pending::<()>()).await.unwrap_err();
            drop(is_up);
            timeout(NEWS_PATIENCE / 4, std::future::pending::<()>()).await.unwrap_err();
            announcer.announce(&"QEMU died".into());
        };
        let (started, ()) = tokio::join!(agent.start_sandbox(&request), death);
        assert!(started.unwrap_err().to_string().contains("QEMU died"));
    }
}
