//! `kata.v1.Sandbox`: a sandbox and its first container in one round trip.

use std::pin::pin;
use std::sync::Arc;

use async_trait::async_trait;
use kata_protocol::kata::{
    ContainerRequest, ContainerResponse, ExecRequest, ExecResponse, HostChangedRequest, HostChangedResponse,
    LogLevelRequest, LogLevelResponse, NextWatchesRequest, NextWatchesResponse, PidsRequest, PidsResponse,
    StartSandboxRequest, StartSandboxResponse, StatsRequest, StatsResponse, Stdio,
};
use kata_protocol::kata_ttrpc::Sandbox;
use kata_protocol::oci::Spec;
use protobuf::MessageField;
use tokio::sync::oneshot;
use ttrpc::asynchronous::TtrpcContext;

use super::status::Failure;
use crate::agent::{Agent, CallOff, NewContainer, SandboxError};
use crate::clock::Stopwatch;
use crate::options::parse_level;
use crate::random;
use crate::report::chain;
use crate::spans::Spans;
use crate::stdio::{Request, Target};

/// The service.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) agent: Arc<Agent>,
    pub(super) spans: Spans,
}

#[async_trait]
impl Sandbox for Service {
    async fn start_sandbox(
        &self,
        context: &TtrpcContext,
        request: StartSandboxRequest,
    ) -> ttrpc::Result<StartSandboxResponse> {
        let agent = Arc::clone(&self.agent);
        let started = finish(async move { start_sandbox(agent, request).await }).await?;
        let phases = started.phases.iter().chain(&started.container.get_or_default().phases);
        self.spans.phases(&context.metadata, phases);
        Ok(started)
    }

    async fn create_container(
        &self,
        context: &TtrpcContext,
        request: ContainerRequest,
    ) -> ttrpc::Result<ContainerResponse> {
        let created = create(&self.agent, request).await?;
        self.spans.phases(&context.metadata, &created.phases);
        Ok(created)
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecRequest) -> ttrpc::Result<ExecResponse> {
        // If the caller goes away, its container ends what is made.
        Ok(exec(&self.agent, request).await?)
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let pids = async {
            let container = self.agent.container(&request.container_id.parse()?)?;
            Ok::<_, Failure>(container.pids().await?)
        };
        Ok(PidsResponse { pids: pids.await?, ..Default::default() })
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let id = request.container_id.parse().map_err(Failure::from)?;
        Ok(self.agent.container(&id).map_err(Failure::from)?.stats())
    }

    async fn next_watches(
        &self,
        _: &TtrpcContext,
        _: NextWatchesRequest,
    ) -> ttrpc::Result<NextWatchesResponse> {
        let watches = asked_of_kernel(self.agent.watches.next().await)?;
        Ok(NextWatchesResponse { watches, ..Default::default() })
    }

    async fn host_changed(
        &self,
        _: &TtrpcContext,
        request: HostChangedRequest,
    ) -> ttrpc::Result<HostChangedResponse> {
        asked_of_kernel(self.agent.watches.tell(request.changes).await)?;
        Ok(HostChangedResponse::default())
    }

    async fn log_level(&self, _: &TtrpcContext, request: LogLevelRequest) -> ttrpc::Result<LogLevelResponse> {
        let log = &self.agent.log;
        if !request.level.is_empty() {
            let unknown = || Failure::from(SandboxError::LogLevel { level: request.level.clone() });
            log.set_level(parse_level(&request.level).ok_or_else(unknown)?);
        }
        Ok(LogLevelResponse { level: log.level(), ..Default::default() })
    }
}

/// What the kernel's device answered; `None`: there is no such device.
fn asked_of_kernel<T>(answer: Option<std::io::Result<T>>) -> Result<T, Failure> {
    let answer = answer.ok_or(SandboxError::Unsupported { what: "Telling what the host changes" })?;
    Ok(answer.map_err(|source| SandboxError::Setting {
        what: "what is watched of the host's files".into(),
        source,
    })?)
}

/// Sees the work through even if the caller goes away in the middle of it.
pub(super) async fn finish<T: Send + 'static>(
    work: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> ttrpc::Result<T> {
    match tokio::spawn(work).await {
        Ok(result) => Ok(result?),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

async fn start_sandbox(
    agent: Arc<Agent>,
    request: StartSandboxRequest,
) -> Result<StartSandboxResponse, Failure> {
    let mut watch = Stopwatch::start();
    if agent.owns_guest && request.now_sec > 0 {
        agent.set_clock(request.now_sec, request.now_nsec)?;
    }
    if agent.owns_guest {
        seed(&request.entropy)?;
        agent.watches.begin();
    }
    if let Some(sandbox) = request.sandbox.into_option() {
        agent.configure(sandbox).await?;
    }
    watch.lap("configure guest");
    let (routes, neighbors) = (&request.routes.Routes, &request.neighbors.ARPNeighbors);
    if !(request.interfaces.is_empty() && routes.is_empty() && neighbors.is_empty()) {
        let configured = agent.network()?.configure(&request.interfaces, routes, neighbors).await;
        configured.map_err(SandboxError::from)?;
        watch.lap("configure network");
    }
    let container = match request.container.into_option() {
        Some(container) => MessageField::some(create(&agent, container).await?),
        None => {
            stand_alone(&agent, request.pod.unwrap_or_default(), &mut watch).await?;
            MessageField::none()
        }
    };
    Ok(StartSandboxResponse {
        container,
        phases: watch.phases(),
        agent_version: super::VERSION.to_owned(),
        ..Default::default()
    })
}

/// What the pod's containers share is made by the agent. The answer waits for it only if the kernel may refuse it, as it
/// may the pod's settings; the rest is made while the host prepares the first container.
async fn stand_alone(agent: &Arc<Agent>, pod: Spec, watch: &mut Stopwatch) -> Result<(), Failure> {
    let may_fail = !pod.Linux.get_or_default().Sysctl.is_empty();
    agent.stand_alone(pod);
    if may_fail {
        return Ok(agent.hold_for_pod(watch).await?);
    }
    let agent = Arc::clone(agent);
    tokio::spawn(async move {
        if let Err(error) = agent.hold_for_pod(&mut Stopwatch::start()).await {
            // The first container that needs them tries again, and is told.
            tracing::warn!(error = chain(&error), "The pod's namespaces are not made yet");
        }
    });
    Ok(())
}

pub(super) fn seed(entropy: &[u8]) -> Result<(), Failure> {
    random::add(entropy)
        .map_err(|source| SandboxError::Setting { what: "the random seed".into(), source }.into())
}

async fn create(agent: &Arc<Agent>, request: ContainerRequest) -> Result<ContainerResponse, Failure> {
    let new = NewContainer {
        id: request.container_id.parse()?,
        spec: request.oci.unwrap_or_default(),
        storages: request.storages,
        devices: request.devices,
        stdio: streams(request.stdio.get_or_default()),
        shares_pids: request.sandbox_pidns,
        call_off: CallOff::default(),
    };
    make(agent, new).await
}

/// Makes a container. If the caller goes away in the middle of it, at its deadline, that is called off and seen through to
/// the end: nobody else would ever remove what comes of it.
pub(super) async fn make(agent: &Arc<Agent>, new: NewContainer) -> Result<ContainerResponse, Failure> {
    let (agent, id, call_off) = (Arc::clone(agent), new.id.clone(), new.call_off.clone());
    let (mut answer, caller) = oneshot::channel();
    let work = tokio::spawn(async move {
        let mut watch = Stopwatch::start();
        let made = {
            let mut making = pin!(agent.create(new, &mut watch));
            tokio::select! {
                biased;
                made = &mut making => made,
                () = answer.closed() => {
                    call_off.tell();
                    making.await
                }
            }
        };
        let made = made.map(|pid| ContainerResponse { pid, phases: watch.phases(), ..Default::default() });
        // The caller may have gone in the same moment.
        if let Err(Ok(_)) = answer.send(made)
            && let Err(error) = agent.remove(&id).await
        {
            tracing::warn!(container = %id, error = chain(&error), "A container that nobody waits for is left");
        }
    });
    match (caller.await, work) {
        (Ok(made), _) => Ok(made?),
        (Err(_), work) => match work.await {
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            Ok(()) => unreachable!("it answers"),
        },
    }
}

async fn exec(agent: &Agent, request: ExecRequest) -> Result<ExecResponse, Failure> {
    let process = request.process.unwrap_or_default();
    let (id, exec) = (request.container_id.parse()?, request.exec_id.parse()?);
    let pid = agent.exec(&id, exec, process, streams(request.stdio.get_or_default())).await?;
    Ok(ExecResponse { pid, ..Default::default() })
}

fn streams(stdio: &Stdio) -> Request {
    let target = |port| if port == 0 { Target::Null } else { Target::Port(port) };
    Request {
        terminal: stdio.terminal,
        stdin: target(stdio.stdin_port),
        stdout: target(stdio.stdout_port),
        stderr: target(stdio.stderr_port),
    }
}
