//! An agent without a guest: it answers over the real transport, and its processes do what the test says.

use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kata_protocol::agent as grpc;
use kata_protocol::agent_ttrpc::{AgentService, create_agent_service};
use kata_protocol::csi;
use kata_protocol::empty::Empty;
use kata_protocol::kata;
use kata_protocol::kata_ttrpc::{Sandbox, create_sandbox};
use kata_protocol::{ports, types};
use kata_transport::{Listener, Stream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use ttrpc::asynchronous::transport::Listener as RpcListener;
use ttrpc::asynchronous::{Server, TtrpcContext};
use ttrpc::{Code, get_status};

use super::fake_host::Flaw;

/// Stands for a lack of memory among the ends of processes.
const LACK: &str = "(memory)";

/// `c` for a container's first process, `c/e` for an added one.
type Name = String;

#[derive(Default)]
pub(super) struct FakeAgent {
    flaws: Vec<Flaw>,
    asked: Mutex<Vec<String>>,
    exits: Mutex<HashMap<Name, watch::Sender<Option<i32>>>>,
    stdio: Mutex<HashMap<Name, kata::Stdio>>,
    streams: Mutex<HashMap<u32, Stream>>,
    arrivals: watch::Sender<usize>,
    /// Polled output of foreign agents.
    polled: Mutex<HashMap<Name, Vec<Vec<u8>>>>,
    polled_input: Mutex<Vec<u8>>,
    /// How long a removal takes.
    pub(super) removal: Mutex<Duration>,
    /// How many changes of an interface are refused.
    pub(super) refusals: Mutex<u32>,
    /// What the sandbox was started with.
    pub(super) sandbox: Mutex<kata::StartSandboxRequest>,
    /// What processes of the guest begin to watch; without it the guest's kernel cannot tell.
    pub(super) watches: tokio::sync::Mutex<Option<mpsc::UnboundedReceiver<kata::Watch>>>,
    /// What the host has changed.
    pub(super) changes: Mutex<Option<mpsc::UnboundedSender<kata::HostChange>>>,
    /// The guest cannot swap.
    pub(super) refuses_swap: std::sync::atomic::AtomicBool,
    /// Containers of which the creation takes for ever.
    pub(super) hangs: Mutex<Vec<String>>,
    /// A test may answer a start itself.
    pub(super) starts: Mutex<Option<mpsc::UnboundedReceiver<()>>>,
}

impl FakeAgent {
    pub(super) fn new(flaws: &[Flaw]) -> Self {
        Self { flaws: flaws.to_vec(), ..Self::default() }
    }

    /// Opens the guest's end and serves it until it breaks.
    pub(super) fn serve(self: &Arc<Self>, guest: UnixStream, foreign: bool) {
        guest.set_nonblocking(true).unwrap();
        let guest = tokio::net::UnixStream::from_std(guest).unwrap();
        let agent = Arc::clone(self);
        tokio::spawn(async move {
            let listener = Listener::over(guest).await.unwrap();
            let mut stdio = listener.bind(ports::STDIO).await.unwrap();
            let incoming = listener.bind(ports::AGENT).await.unwrap();
            let accepted = futures::stream::unfold(incoming, |mut incoming| async {
                let accepted = incoming.accept().await.ok()?;
                Some((Ok(accepted.stream), incoming))
            });
            let mut server = Server::new()
                .add_listener(RpcListener::new(accepted))
                .register_service(create_agent_service(Arc::new(Service(Arc::clone(&agent)))));
            if !foreign {
                server = server.register_service(create_sandbox(Arc::new(Service(Arc::clone(&agent)))));
            }
            server.start().await.unwrap();
            while let Ok(accepted) = stdio.accept().await {
                agent.streams.lock().unwrap().insert(accepted.peer_port, accepted.stream);
                agent.arrivals.send_modify(|count| *count += 1);
            }
            drop(listener);
        });
    }

    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// The kernel kills a process of `c` for want of memory.
    pub(super) fn starve(&self) {
        self.exit_of(LACK).send_replace(Some(0));
    }

    /// A process ends.
    pub(super) fn exit(&self, name: &str, status: i32) {
        self.exit_of(name).send_replace(Some(status));
    }

    fn exit_of(&self, name: &str) -> watch::Sender<Option<i32>> {
        let mut exits = self.exits.lock().unwrap();
        exits.entry(name.to_owned()).or_insert_with(|| watch::Sender::new(None)).clone()
    }

    /// What the host said about a process's streams.
    pub(super) fn stdio(&self, name: &str) -> kata::Stdio {
        self.stdio.lock().unwrap()[name].clone()
    }

    /// The guest's end of a stream.
    pub(super) async fn stream(&self, port: u32) -> Stream {
        let mut arrivals = self.arrivals.subscribe();
        loop {
            arrivals.borrow_and_update();
            if let Some(stream) = self.streams.lock().unwrap().remove(&port) {
                return stream;
            }
            arrivals.changed().await.unwrap();
        }
    }

    /// What a foreign agent's process writes.
    pub(super) fn writes(&self, name: &str, chunks: &[&str]) {
        let chunks = chunks.iter().rev().map(|chunk| chunk.as_bytes().to_vec()).collect();
        self.polled.lock().unwrap().insert(name.to_owned(), chunks);
    }

    pub(super) fn polled_input(&self) -> Vec<u8> {
        self.polled_input.lock().unwrap().clone()
    }

    pub(super) fn note(&self, what: impl Into<String>) {
        self.asked.lock().unwrap().push(what.into());
    }

    async fn create(&self, request: &kata::ContainerRequest) -> ttrpc::Result<()> {
        let hangs = self.hangs.lock().unwrap().contains(&request.container_id);
        if hangs || self.flaws.contains(&Flaw::Hanging) {
            std::future::pending::<()>().await;
        }
        if self.flaws.contains(&Flaw::Refusing) {
            let status = get_status(Code::INVALID_ARGUMENT, "The process has no arguments");
            return Err(ttrpc::Error::RpcStatus(status));
        }
        let stdio = request.stdio.clone().unwrap_or_default();
        self.stdio.lock().unwrap().insert(request.container_id.clone(), stdio);
        Ok(())
    }
}

fn name(container: &str, exec: &str) -> Name {
    if exec.is_empty() || exec == container { container.to_owned() } else { format!("{container}/{exec}") }
}

struct Service(Arc<FakeAgent>);

#[async_trait]
impl Sandbox for Service {
    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: kata::StartSandboxRequest,
    ) -> ttrpc::Result<kata::StartSandboxResponse> {
        let container = request.container.clone().unwrap_or_default();
        let storages = &request.sandbox.storages;
        self.0.note(format!("StartSandbox {} {}", container.container_id, storages[0].driver));
        *self.0.sandbox.lock().unwrap() = request.clone();
        assert!(request.now_sec > 0 && !request.entropy.is_empty());
        assert!(!request.sandbox.hostname.is_empty(), "the guest is named as the host if nobody names it");
        if request.container.is_some() {
            self.0.create(&container).await?;
        }
        let phase = kata::Phase { name: "guest".into(), start_us: 1, end_us: 2, ..Default::default() };
        Ok(kata::StartSandboxResponse {
            agent_version: "7".into(),
            phases: vec![phase],
            ..Default::default()
        })
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: kata::ContainerRequest,
    ) -> ttrpc::Result<kata::ContainerResponse> {
        self.0.note(format!("CreateContainer {}", request.container_id));
        self.0.create(&request).await?;
        Ok(kata::ContainerResponse::default())
    }

    async fn exec(&self, _: &TtrpcContext, request: kata::ExecRequest) -> ttrpc::Result<kata::ExecResponse> {
        let name = name(&request.container_id, &request.exec_id);
        self.0.note(format!("Exec {name}"));
        if request.exec_id == "missing" {
            return Err(ttrpc::Error::RpcStatus(get_status(Code::NOT_FOUND, "No such program")));
        }
        if request.exec_id == "late" {
            std::future::pending::<()>().await;
        }
        self.0.stdio.lock().unwrap().insert(name, request.stdio.clone().unwrap_or_default());
        Ok(kata::ExecResponse::default())
    }

    async fn pids(&self, _: &TtrpcContext, _: kata::PidsRequest) -> ttrpc::Result<kata::PidsResponse> {
        let pid = |pid, exec: &str| kata::PidInfo { pid, exec_id: exec.to_owned(), ..Default::default() };
        Ok(kata::PidsResponse { pids: vec![pid(1, ""), pid(2, "e")], ..Default::default() })
    }

    async fn next_watches(
        &self,
        _: &TtrpcContext,
        _: kata::NextWatchesRequest,
    ) -> ttrpc::Result<kata::NextWatchesResponse> {
        let mut watches = self.0.watches.lock().await;
        let Some(watches) = watches.as_mut() else {
            return Err(ttrpc::Error::RpcStatus(get_status(Code::INVALID_ARGUMENT, "No such device")));
        };
        let watches = watches.recv().await.into_iter().collect();
        Ok(kata::NextWatchesResponse { watches, ..Default::default() })
    }

    async fn host_changed(
        &self,
        _: &TtrpcContext,
        request: kata::HostChangedRequest,
    ) -> ttrpc::Result<kata::HostChangedResponse> {
        let changes = self.0.changes.lock().unwrap();
        request.changes.into_iter().for_each(|change| changes.as_ref().unwrap().send(change).unwrap());
        Ok(kata::HostChangedResponse::default())
    }

    async fn log_level(
        &self,
        _: &TtrpcContext,
        request: kata::LogLevelRequest,
    ) -> ttrpc::Result<kata::LogLevelResponse> {
        Ok(kata::LogLevelResponse { level: request.level, ..Default::default() })
    }
}

#[async_trait]
impl AgentService for Service {
    async fn get_metrics(
        &self,
        _: &TtrpcContext,
        request: grpc::GetMetricsRequest,
    ) -> ttrpc::Result<grpc::Metrics> {
        if self.0.flaws.contains(&Flaw::Mute) {
            std::future::pending::<()>().await;
        }
        if self.0.flaws.contains(&Flaw::Foreign) {
            return Ok(grpc::Metrics { metrics: "upstream's".to_owned(), ..Default::default() });
        }
        Ok(grpc::Metrics {
            metrics: request.families.join(" "),
            containers_cpu_usec: Some(7),
            containers_memory_bytes: Some(4096),
            ..Default::default()
        })
    }

    async fn create_sandbox(&self, _: &TtrpcContext, _: grpc::CreateSandboxRequest) -> ttrpc::Result<Empty> {
        self.0.note("upstream CreateSandbox");
        Ok(Empty::default())
    }

    async fn set_guest_date_time(
        &self,
        _: &TtrpcContext,
        _: grpc::SetGuestDateTimeRequest,
    ) -> ttrpc::Result<Empty> {
        Ok(Empty::default())
    }

    async fn reseed_random_dev(
        &self,
        _: &TtrpcContext,
        _: grpc::ReseedRandomDevRequest,
    ) -> ttrpc::Result<Empty> {
        Ok(Empty::default())
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: grpc::CreateContainerRequest,
    ) -> ttrpc::Result<Empty> {
        assert!(request.OCI.is_some());
        self.0.note(format!("upstream CreateContainer {}", request.container_id));
        Ok(Empty::default())
    }

    async fn start_container(
        &self,
        _: &TtrpcContext,
        request: grpc::StartContainerRequest,
    ) -> ttrpc::Result<Empty> {
        self.0.note(format!("StartContainer {}", request.container_id));
        let gate = self.0.starts.lock().unwrap().take();
        if let Some(mut gate) = gate {
            gate.recv().await;
        }
        Ok(Empty::default())
    }

    async fn wait_process(
        &self,
        _: &TtrpcContext,
        request: grpc::WaitProcessRequest,
    ) -> ttrpc::Result<grpc::WaitProcessResponse> {
        let mut exit = self.0.exit_of(&name(&request.container_id, &request.exec_id)).subscribe();
        let status = exit.wait_for(Option::is_some).await.map_or(None, |status| *status);
        Ok(grpc::WaitProcessResponse { status: status.unwrap_or(-1), ..Default::default() })
    }

    async fn signal_process(
        &self,
        _: &TtrpcContext,
        request: grpc::SignalProcessRequest,
    ) -> ttrpc::Result<Empty> {
        self.0.note(format!("Signal {} {:?} {}", request.container_id, request.exec_id, request.signal));
        if self.0.flaws.contains(&Flaw::Deaf) {
            std::future::pending::<()>().await;
        }
        let status = 128 + i32::try_from(request.signal).unwrap();
        self.0.exit(&name(&request.container_id, &request.exec_id), status);
        Ok(Empty::default())
    }

    async fn remove_container(
        &self,
        _: &TtrpcContext,
        request: grpc::RemoveContainerRequest,
    ) -> ttrpc::Result<Empty> {
        let takes = *self.0.removal.lock().unwrap();
        timeout(takes, std::future::pending::<()>()).await.unwrap_err();
        self.0.note(format!("Remove {}", request.container_id));
        self.0.exits.lock().unwrap().remove(&request.container_id);
        Ok(Empty::default())
    }

    async fn destroy_sandbox(
        &self,
        _: &TtrpcContext,
        _: grpc::DestroySandboxRequest,
    ) -> ttrpc::Result<Empty> {
        self.0.note("Destroy");
        Ok(Empty::default())
    }

    async fn get_oom_event(
        &self,
        _: &TtrpcContext,
        _: grpc::GetOOMEventRequest,
    ) -> ttrpc::Result<grpc::OOMEvent> {
        let lack = self.0.exit_of(LACK);
        lack.subscribe().wait_for(Option::is_some).await.unwrap();
        lack.send_replace(None);
        Ok(grpc::OOMEvent { container_id: "c".to_owned(), ..Default::default() })
    }

    async fn update_container(
        &self,
        _: &TtrpcContext,
        request: grpc::UpdateContainerRequest,
    ) -> ttrpc::Result<Empty> {
        self.0.note(format!("Update {} pids {}", request.container_id, request.resources.Pids.Limit));
        Ok(Empty::default())
    }

    async fn add_swap(&self, _: &TtrpcContext, request: grpc::AddSwapRequest) -> ttrpc::Result<Empty> {
        self.0.note(format!("Swap {:?}", request.PCIPath));
        if self.0.refuses_swap.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(ttrpc::Error::RpcStatus(get_status(Code::INTERNAL, "No swap")));
        }
        Ok(Empty::default())
    }

    async fn add_swap_path(
        &self,
        _: &TtrpcContext,
        request: grpc::AddSwapPathRequest,
    ) -> ttrpc::Result<Empty> {
        self.0.note(format!("SwapPath {}", request.path));
        Ok(Empty::default())
    }

    async fn online_cpu_mem(
        &self,
        _: &TtrpcContext,
        request: grpc::OnlineCPUMemRequest,
    ) -> ttrpc::Result<Empty> {
        self.0.note(format!("Resources {} {}", request.online_cpus, request.memory_bytes >> 20));
        let mut refusals = self.0.refusals.lock().unwrap();
        if *refusals > 0 {
            *refusals -= 1;
            return Err(ttrpc::Error::RpcStatus(get_status(Code::DEADLINE_EXCEEDED, "No CPU came")));
        }
        Ok(Empty::default())
    }

    async fn pause_container(
        &self,
        _: &TtrpcContext,
        _: grpc::PauseContainerRequest,
    ) -> ttrpc::Result<Empty> {
        self.0.note("Pause");
        Ok(Empty::default())
    }

    async fn resume_container(
        &self,
        _: &TtrpcContext,
        _: grpc::ResumeContainerRequest,
    ) -> ttrpc::Result<Empty> {
        self.0.note("Resume");
        Ok(Empty::default())
    }

    async fn tty_win_resize(
        &self,
        _: &TtrpcContext,
        request: grpc::TtyWinResizeRequest,
    ) -> ttrpc::Result<Empty> {
        let name = name(&request.container_id, &request.exec_id);
        self.0.note(format!("Resize {name} {}x{}", request.column, request.row));
        Ok(Empty::default())
    }

    async fn update_interface(
        &self,
        _: &TtrpcContext,
        request: grpc::UpdateInterfaceRequest,
    ) -> ttrpc::Result<types::Interface> {
        let interface = request.interface.unwrap_or_default();
        self.0.note(format!("UpdateInterface {} {}", interface.name, interface.IPAddresses.len()));
        let mut refusals = self.0.refusals.lock().unwrap();
        if *refusals > 0 {
            *refusals -= 1;
            return Err(ttrpc::Error::RpcStatus(get_status(Code::INTERNAL, "The kernel says no")));
        }
        Ok(interface)
    }

    async fn update_routes(
        &self,
        _: &TtrpcContext,
        request: grpc::UpdateRoutesRequest,
    ) -> ttrpc::Result<grpc::Routes> {
        let routes = request.routes.unwrap_or_default();
        let to: Vec<_> = routes.Routes.iter().map(|route| route.dest.as_str()).collect();
        self.0.note(format!("UpdateRoutes {}", to.join(" ")));
        Ok(routes)
    }

    async fn list_interfaces(
        &self,
        _: &TtrpcContext,
        _: grpc::ListInterfacesRequest,
    ) -> ttrpc::Result<grpc::Interfaces> {
        let interface = |name: &str, mac: &str| types::Interface {
            device: name.into(),
            name: name.into(),
            hwAddr: mac.into(),
            ..Default::default()
        };
        let all = vec![interface("lo", "00:00:00:00:00:00"), interface("lan", "02:00:00:00:00:10")];
        Ok(grpc::Interfaces { Interfaces: all, ..Default::default() })
    }

    async fn get_volume_stats(
        &self,
        _: &TtrpcContext,
        request: grpc::VolumeStatsRequest,
    ) -> ttrpc::Result<csi::VolumeStatsResponse> {
        self.0.note(format!("GetVolumeStats {}", request.volume_guest_path));
        let usage = csi::VolumeUsage {
            available: 1,
            total: 3,
            used: 2,
            unit: csi::volume_usage::Unit::BYTES.into(),
            ..Default::default()
        };
        let condition = csi::VolumeCondition { message: "fine\x1b[2J".to_owned(), ..Default::default() };
        let volume_condition = Some(condition).into();
        Ok(csi::VolumeStatsResponse { usage: vec![usage], volume_condition, ..Default::default() })
    }

    async fn resize_volume(
        &self,
        _: &TtrpcContext,
        request: grpc::ResizeVolumeRequest,
    ) -> ttrpc::Result<Empty> {
        self.0.note(format!("ResizeVolume {} {}", request.volume_guest_path, request.size));
        Ok(Empty::default())
    }

    async fn read_stdout(
        &self,
        _: &TtrpcContext,
        request: grpc::ReadStreamRequest,
    ) -> ttrpc::Result<grpc::ReadStreamResponse> {
        let name = name(&request.container_id, &request.exec_id);
        match self.0.polled.lock().unwrap().get_mut(&name).and_then(Vec::pop) {
            Some(data) => Ok(grpc::ReadStreamResponse { data, ..Default::default() }),
            None => Err(ttrpc::Error::RpcStatus(get_status(Code::INTERNAL, "End of stdout"))),
        }
    }

    async fn write_stdin(
        &self,
        _: &TtrpcContext,
        request: grpc::WriteStreamRequest,
    ) -> ttrpc::Result<grpc::WriteStreamResponse> {
        // Takes less than it is given.
        let taken = request.data.len().min(3);
        self.0.polled_input.lock().unwrap().extend(&request.data[..taken]);
        Ok(grpc::WriteStreamResponse { len: u32::try_from(taken).unwrap(), ..Default::default() })
    }

    async fn close_stdin(&self, _: &TtrpcContext, _: grpc::CloseStdinRequest) -> ttrpc::Result<Empty> {
        self.0.note("CloseStdin");
        Ok(Empty::default())
    }
}
