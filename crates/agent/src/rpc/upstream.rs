//! `grpc.AgentService`: upstream's names and numbers.

use std::sync::Arc;

use async_trait::async_trait;
use kata_metrics::Selection;
use kata_protocol::agent::{
    AddARPNeighborsRequest, AddSwapPathRequest, AddSwapRequest, AgentDetails, CloseStdinRequest,
    CreateContainerRequest, CreateSandboxRequest, DestroySandboxRequest, ExecProcessRequest,
    GetIPTablesRequest, GetIPTablesResponse, GetMetricsRequest, GetOOMEventRequest, GuestDetailsRequest,
    GuestDetailsResponse, Interfaces, ListInterfacesRequest, ListRoutesRequest, MemHotplugByProbeRequest,
    Metrics as MetricsText, OOMEvent, OnlineCPUMemRequest, PauseContainerRequest, ReadStreamRequest,
    ReadStreamResponse, RemoveContainerRequest, ReseedRandomDevRequest, ResizeVolumeRequest,
    ResumeContainerRequest, Routes, SetGuestDateTimeRequest, SetIPTablesRequest, SetIPTablesResponse,
    SignalProcessRequest, StartContainerRequest, StatsContainerRequest, StatsContainerResponse,
    TtyWinResizeRequest, UpdateContainerRequest, UpdateEphemeralMountsRequest, UpdateInterfaceRequest,
    UpdateRoutesRequest, VolumeStatsRequest, WaitProcessRequest, WaitProcessResponse, WriteStreamRequest,
    WriteStreamResponse,
};
use kata_protocol::agent_ttrpc::AgentService;
use kata_protocol::csi::VolumeStatsResponse;
use kata_protocol::empty::Empty;
use kata_protocol::types::Interface;
use protobuf::MessageField;
use ttrpc::asynchronous::TtrpcContext;

use super::metrics;
use super::observe::Metrics;
use super::sandbox_service::{finish, make, seed};
use super::status::Failure;
use crate::agent::{Agent, CallOff, NewContainer};
use crate::cgroup::stats::to_upstream;
use crate::container::{Container, ProcessId, Target as SignalTarget};
use crate::network;
use crate::resources::{self, Cpus, Wanted};
use crate::signals::Signal;
use crate::stdio::{Request, StdioError, Target};
use crate::storage;

/// The most that one polled read returns.
const MAX_READ: u32 = 1 << 20;

/// The service.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) agent: Arc<Agent>,
    pub(super) metrics: Metrics,
}

type Answer<T> = Result<T, Failure>;

impl Service {
    fn container(&self, id: &str) -> Answer<Container> {
        Ok(self.agent.container(&id.parse()?)?)
    }

    /// A container's process: the first one is named by nothing, or by the container's id.
    fn process(&self, container: &str, exec: &str) -> Answer<(Container, ProcessId)> {
        let process = if exec.is_empty() || exec == container {
            ProcessId::Init
        } else {
            ProcessId::Exec(exec.parse()?)
        };
        Ok((self.container(container)?, process))
    }

    async fn read(&self, request: &ReadStreamRequest, error: bool) -> Answer<ReadStreamResponse> {
        let stream = if error { "stderr" } else { "stdout" };
        let (container, process) = self.process(&request.container_id, &request.exec_id)?;
        let reader = container.output(process, error).await?;
        let mut data = vec![0; request.len.clamp(1, MAX_READ) as usize];
        let length =
            reader.read(&mut data).await.map_err(|source| StdioError::Transfer { stream, source })?;
        if length == 0 {
            return Err(StdioError::EndOfFile { stream }.into());
        }
        data.truncate(length);
        Ok(ReadStreamResponse { data, ..Default::default() })
    }

    async fn write(&self, request: &WriteStreamRequest) -> Answer<WriteStreamResponse> {
        let (container, process) = self.process(&request.container_id, &request.exec_id)?;
        let writer = container.stdin(process).await?;
        let written = writer.write_all(&request.data).await;
        written.map_err(|source| StdioError::Transfer { stream: "stdin", source })?;
        let len = u32::try_from(request.data.len()).unwrap_or(u32::MAX);
        Ok(WriteStreamResponse { len, ..Default::default() })
    }

    async fn signal(&self, request: &SignalProcessRequest) -> Answer<()> {
        let signal = Signal::new(request.signal)
            .ok_or_else(|| Failure::refused(format!("{} is no signal of Linux", request.signal)))?;
        let (container, process) = self.process(&request.container_id, &request.exec_id)?;
        let target = if request.exec_id.is_empty() { SignalTarget::All } else { SignalTarget::One(process) };
        Ok(container.signal(target, signal).await?)
    }

    async fn resize(&self, request: &TtyWinResizeRequest) -> Answer<()> {
        let (container, process) = self.process(&request.container_id, &request.exec_id)?;
        let cells = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
        Ok(container.resize(process, cells(request.row), cells(request.column)).await?)
    }

    async fn wait(&self, request: &WaitProcessRequest) -> Answer<i32> {
        let (container, process) = self.process(&request.container_id, &request.exec_id)?;
        let mut exit = container.exit(process).await?;
        Ok(exit.wait().await)
    }
}

async fn create(agent: &Arc<Agent>, request: CreateContainerRequest) -> Answer<()> {
    let spec = request.OCI.unwrap_or_default();
    let terminal = spec.Process.Terminal;
    let stdio = streams(terminal, [request.stdin_port, request.stdout_port, request.stderr_port]);
    let new = NewContainer {
        id: request.container_id.parse()?,
        spec,
        storages: request.storages,
        devices: request.devices,
        stdio,
        shares_pids: request.sandbox_pidns,
        call_off: CallOff::default(),
    };
    make(agent, new).await.map(drop)
}

async fn exec(agent: &Agent, request: ExecProcessRequest) -> Answer<()> {
    let process = request.process.clone().unwrap_or_default();
    let stdio =
        streams(request.process.Terminal, [request.stdin_port, request.stdout_port, request.stderr_port]);
    let (id, exec) = (request.container_id.parse()?, request.exec_id.parse()?);
    agent.exec(&id, exec, process, stdio).await?;
    Ok(())
}

/// Callers that know raw streams name their ports; others poll.
fn streams(terminal: bool, ports: [Option<u32>; 3]) -> Request {
    let raw = ports.iter().any(Option::is_some);
    let [stdin, stdout, stderr] = ports.map(|port| match port {
        Some(port) => Target::Port(port),
        None if raw => Target::Null,
        None => Target::Polled,
    });
    Request { terminal, stdin, stdout, stderr }
}

/// Upstream's callers say how many CPUs they have added, ours how many there are to be.
fn wanted(request: &OnlineCPUMemRequest) -> Wanted {
    let cpus = match request.online_cpus {
        0 => Cpus::More(request.nb_cpus),
        count => Cpus::Exactly(count),
    };
    Wanted { cpus, memory: request.memory_bytes, takes_memory: !request.cpu_only }
}

fn details(owns_guest: bool, asked: &GuestDetailsRequest) -> GuestDetailsResponse {
    let memory = resources::Files::default();
    let agent = AgentDetails {
        version: super::VERSION.to_owned(),
        init_daemon: owns_guest,
        storage_handlers: storage::drivers().map(str::to_owned).collect(),
        supports_seccomp: false,
        extra_features: vec!["kata.v1".to_owned()],
        ..Default::default()
    };
    GuestDetailsResponse {
        agent_details: MessageField::some(agent),
        mem_block_size_bytes: if asked.mem_block_size { memory.block_size() } else { 0 },
        support_mem_hotplug_probe: asked.mem_hotplug_probe && memory.can_probe(),
        ..Default::default()
    }
}

fn empty<T>(answer: Answer<T>) -> ttrpc::Result<Empty> {
    answer?;
    Ok(Empty::default())
}

#[async_trait]
impl AgentService for Service {
    async fn create_sandbox(&self, _: &TtrpcContext, request: CreateSandboxRequest) -> ttrpc::Result<Empty> {
        let agent = Arc::clone(&self.agent);
        finish(async move { Ok(agent.configure(request).await?) }).await?;
        Ok(Empty::default())
    }

    async fn destroy_sandbox(&self, _: &TtrpcContext, _: DestroySandboxRequest) -> ttrpc::Result<Empty> {
        let agent = Arc::clone(&self.agent);
        let cleared = async move {
            agent.clear().await;
            agent.request_power_off();
            Ok(())
        };
        finish(cleared).await?;
        Ok(Empty::default())
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: CreateContainerRequest,
    ) -> ttrpc::Result<Empty> {
        empty(create(&self.agent, request).await)
    }

    async fn start_container(
        &self,
        _: &TtrpcContext,
        request: StartContainerRequest,
    ) -> ttrpc::Result<Empty> {
        let agent = Arc::clone(&self.agent);
        finish(async move { Ok(agent.start(&request.container_id.parse()?).await?) }).await?;
        Ok(Empty::default())
    }

    async fn remove_container(
        &self,
        _: &TtrpcContext,
        request: RemoveContainerRequest,
    ) -> ttrpc::Result<Empty> {
        let agent = Arc::clone(&self.agent);
        finish(async move { Ok(agent.remove(&request.container_id.parse()?).await?) }).await?;
        Ok(Empty::default())
    }

    async fn exec_process(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        exec(&self.agent, request).await?;
        Ok(Empty::default())
    }

    async fn signal_process(&self, _: &TtrpcContext, request: SignalProcessRequest) -> ttrpc::Result<Empty> {
        empty(self.signal(&request).await)
    }

    async fn wait_process(
        &self,
        _: &TtrpcContext,
        request: WaitProcessRequest,
    ) -> ttrpc::Result<WaitProcessResponse> {
        Ok(WaitProcessResponse { status: self.wait(&request).await?, ..Default::default() })
    }

    async fn stats_container(
        &self,
        _: &TtrpcContext,
        request: StatsContainerRequest,
    ) -> ttrpc::Result<StatsContainerResponse> {
        let stats = self.container(&request.container_id)?.stats();
        Ok(StatsContainerResponse {
            cgroup_stats: MessageField::some(to_upstream(&stats)),
            network_stats: stats.network,
            ..Default::default()
        })
    }

    async fn update_container(
        &self,
        _: &TtrpcContext,
        request: UpdateContainerRequest,
    ) -> ttrpc::Result<Empty> {
        let container = self.container(&request.container_id)?;
        empty(container.update(&request.resources).map_err(Failure::from))
    }

    async fn pause_container(
        &self,
        _: &TtrpcContext,
        request: PauseContainerRequest,
    ) -> ttrpc::Result<Empty> {
        let container = self.container(&request.container_id)?;
        empty(container.pause().await.map_err(Failure::from))
    }

    async fn resume_container(
        &self,
        _: &TtrpcContext,
        request: ResumeContainerRequest,
    ) -> ttrpc::Result<Empty> {
        let container = self.container(&request.container_id)?;
        empty(container.resume().await.map_err(Failure::from))
    }

    async fn write_stdin(
        &self,
        _: &TtrpcContext,
        request: WriteStreamRequest,
    ) -> ttrpc::Result<WriteStreamResponse> {
        Ok(self.write(&request).await?)
    }

    async fn read_stdout(
        &self,
        _: &TtrpcContext,
        request: ReadStreamRequest,
    ) -> ttrpc::Result<ReadStreamResponse> {
        Ok(self.read(&request, false).await?)
    }

    async fn read_stderr(
        &self,
        _: &TtrpcContext,
        request: ReadStreamRequest,
    ) -> ttrpc::Result<ReadStreamResponse> {
        Ok(self.read(&request, true).await?)
    }

    async fn close_stdin(&self, _: &TtrpcContext, request: CloseStdinRequest) -> ttrpc::Result<Empty> {
        let (container, process) = self.process(&request.container_id, &request.exec_id)?;
        empty(container.close_stdin(process).await.map_err(Failure::from))
    }

    async fn tty_win_resize(&self, _: &TtrpcContext, request: TtyWinResizeRequest) -> ttrpc::Result<Empty> {
        empty(self.resize(&request).await)
    }

    async fn get_metrics(&self, _: &TtrpcContext, request: GetMetricsRequest) -> ttrpc::Result<MetricsText> {
        let selection = match request.families.is_empty() {
            true => Selection::all(),
            false => Selection::of(request.families.iter().map(String::as_str))
                .map_err(|refused| Failure::refused(refused.to_string()))?,
        };
        let (cpu_usec, memory_bytes) = self.agent.containers_use();
        Ok(MetricsText {
            metrics: metrics::text(&self.metrics, selection),
            containers_cpu_usec: Some(cpu_usec),
            containers_memory_bytes: Some(memory_bytes),
            ..Default::default()
        })
    }

    async fn get_guest_details(
        &self,
        _: &TtrpcContext,
        request: GuestDetailsRequest,
    ) -> ttrpc::Result<GuestDetailsResponse> {
        Ok(details(self.agent.owns_guest, &request))
    }

    async fn online_cpu_mem(&self, _: &TtrpcContext, request: OnlineCPUMemRequest) -> ttrpc::Result<Empty> {
        let agent = Arc::clone(&self.agent);
        let work = async move { Ok(agent.change_resources(wanted(&request), request.wait).await?) };
        finish(work).await?;
        Ok(Empty::default())
    }

    async fn mem_hotplug_by_probe(
        &self,
        _: &TtrpcContext,
        request: MemHotplugByProbeRequest,
    ) -> ttrpc::Result<Empty> {
        empty(self.agent.tell_of_memory(&request.memHotplugProbeAddr).map_err(Failure::from))
    }

    async fn add_swap(&self, _: &TtrpcContext, request: AddSwapRequest) -> ttrpc::Result<Empty> {
        let agent = Arc::clone(&self.agent);
        finish(async move { Ok(agent.swap_to_disk(&request.PCIPath).await?) }).await?;
        Ok(Empty::default())
    }

    async fn add_swap_path(&self, _: &TtrpcContext, request: AddSwapPathRequest) -> ttrpc::Result<Empty> {
        let agent = Arc::clone(&self.agent);
        finish(async move { Ok(agent.swap_to_path(&request.path).await?) }).await?;
        Ok(Empty::default())
    }

    async fn set_guest_date_time(
        &self,
        _: &TtrpcContext,
        request: SetGuestDateTimeRequest,
    ) -> ttrpc::Result<Empty> {
        empty(self.agent.set_clock(request.Sec, request.Usec.saturating_mul(1000)).map_err(Failure::from))
    }

    async fn reseed_random_dev(
        &self,
        _: &TtrpcContext,
        request: ReseedRandomDevRequest,
    ) -> ttrpc::Result<Empty> {
        empty(seed(&request.data))
    }

    async fn update_interface(
        &self,
        _: &TtrpcContext,
        request: UpdateInterfaceRequest,
    ) -> ttrpc::Result<Interface> {
        let agent = Arc::clone(&self.agent);
        finish(async move { Ok(agent.network()?.update_interface(&request.interface).await?) }).await
    }

    async fn update_routes(&self, _: &TtrpcContext, request: UpdateRoutesRequest) -> ttrpc::Result<Routes> {
        let network = self.agent.network().map_err(Failure::from)?;
        let updated = network.update_routes(&request.routes.Routes).map_err(Failure::from)?;
        Ok(Routes { Routes: updated, ..Default::default() })
    }

    async fn list_interfaces(&self, _: &TtrpcContext, _: ListInterfacesRequest) -> ttrpc::Result<Interfaces> {
        let interfaces = network::list_interfaces().map_err(Failure::from)?;
        Ok(Interfaces { Interfaces: interfaces, ..Default::default() })
    }

    async fn list_routes(&self, _: &TtrpcContext, _: ListRoutesRequest) -> ttrpc::Result<Routes> {
        let routes = network::list_routes().map_err(Failure::from)?;
        Ok(Routes { Routes: routes, ..Default::default() })
    }

    async fn add_arp_neighbors(
        &self,
        _: &TtrpcContext,
        request: AddARPNeighborsRequest,
    ) -> ttrpc::Result<Empty> {
        let network = self.agent.network().map_err(Failure::from)?;
        empty(network.add_neighbors(&request.neighbors.ARPNeighbors).map_err(Failure::from))
    }

    async fn get_ip_tables(
        &self,
        _: &TtrpcContext,
        request: GetIPTablesRequest,
    ) -> ttrpc::Result<GetIPTablesResponse> {
        let agent = Arc::clone(&self.agent);
        let data = finish(async move { Ok(agent.packet_filter(request.is_ipv6).await?) }).await?;
        Ok(GetIPTablesResponse { data, ..Default::default() })
    }

    async fn set_ip_tables(
        &self,
        _: &TtrpcContext,
        request: SetIPTablesRequest,
    ) -> ttrpc::Result<SetIPTablesResponse> {
        let agent = Arc::clone(&self.agent);
        let setting = async move { Ok(agent.set_packet_filter(request.is_ipv6, &request.data).await?) };
        Ok(SetIPTablesResponse { data: finish(setting).await?, ..Default::default() })
    }

    async fn update_ephemeral_mounts(
        &self,
        _: &TtrpcContext,
        request: UpdateEphemeralMountsRequest,
    ) -> ttrpc::Result<Empty> {
        let agent = Arc::clone(&self.agent);
        finish(async move { Ok(agent.change_memory(request.storages).await?) }).await?;
        Ok(Empty::default())
    }

    async fn get_volume_stats(
        &self,
        _: &TtrpcContext,
        request: VolumeStatsRequest,
    ) -> ttrpc::Result<VolumeStatsResponse> {
        let stats = self.agent.volume_stats(request.volume_guest_path.into()).await;
        Ok(stats.map_err(Failure::from)?)
    }

    async fn resize_volume(&self, _: &TtrpcContext, request: ResizeVolumeRequest) -> ttrpc::Result<Empty> {
        let agent = Arc::clone(&self.agent);
        let path = request.volume_guest_path.into();
        finish(async move { Ok(agent.grow_volume(path, request.size).await?) }).await?;
        Ok(Empty::default())
    }

    async fn get_oom_event(&self, _: &TtrpcContext, _: GetOOMEventRequest) -> ttrpc::Result<OOMEvent> {
        let container = self.agent.oom.next().await;
        Ok(OOMEvent { container_id: container.as_str().to_owned(), ..Default::default() })
    }
}
