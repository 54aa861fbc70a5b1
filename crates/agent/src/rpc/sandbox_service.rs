//! `kata.v1.Sandbox`: a sandbox and its first container in one round trip.

use std::sync::Arc;

use async_trait::async_trait;
use kata_protocol::kata::{
    ContainerRequest, ContainerResponse, ExecRequest, ExecResponse, HostChangedRequest, HostChangedResponse,
    NextWatchesRequest, NextWatchesResponse, PidsRequest, PidsResponse, StartSandboxRequest,
    StartSandboxResponse, StatsRequest, StatsResponse, Stdio,
};
use kata_protocol::kata_ttrpc::Sandbox;
use kata_protocol::oci::Spec;
use protobuf::MessageField;
use ttrpc::asynchronous::TtrpcContext;

use super::status::Failure;
use crate::agent::{Agent, NewContainer, SandboxError};
use crate::clock::Stopwatch;
use crate::random;
use crate::stdio::{Request, Target};

/// The service.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) agent: Arc<Agent>,
}

#[async_trait]
impl Sandbox for Service {
    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: StartSandboxRequest,
    ) -> ttrpc::Result<StartSandboxResponse> {
        let agent = Arc::clone(&self.agent);
        finish(async move { start_sandbox(agent, request).await }).await
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: ContainerRequest,
    ) -> ttrpc::Result<ContainerResponse> {
        let agent = Arc::clone(&self.agent);
        finish(async move { create(&agent, request).await }).await
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecRequest) -> ttrpc::Result<ExecResponse> {
        let agent = Arc::clone(&self.agent);
        finish(async move { exec(&agent, request).await }).await
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
            tracing::warn!(error = crate::report::chain(&error), "The pod's namespaces are not made yet");
        }
    });
    Ok(())
}

pub(super) fn seed(entropy: &[u8]) -> Result<(), Failure> {
    random::add(entropy)
        .map_err(|source| SandboxError::Setting { what: "the random seed".into(), source }.into())
}

async fn create(agent: &Agent, request: ContainerRequest) -> Result<ContainerResponse, Failure> {
    let mut watch = Stopwatch::start();
    let new = NewContainer {
        id: request.container_id.parse()?,
        spec: request.oci.unwrap_or_default(),
        storages: request.storages,
        devices: request.devices,
        stdio: streams(request.stdio.get_or_default()),
        shares_pids: request.sandbox_pidns,
    };
    let pid = agent.create(new, &mut watch).await?;
    Ok(ContainerResponse { pid, phases: watch.phases(), ..Default::default() })
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
