//! The service as containerd sees it: over ttRPC, under both of its names, with a sandbox that is only a table.

mod sandbox;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use containerd_shim_protos::api::{
    CloseIORequest, ConnectRequest, CreateTaskRequest, CreateTaskResponse, DeleteRequest, ExecProcessRequest,
    KillRequest, PauseRequest, PidsRequest, ShutdownRequest, StartRequest, StateRequest, StatsRequest,
    Status, UpdateTaskRequest, WaitRequest,
};
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::shim_async::{Client, TaskClient};
use oci_spec::runtime::{LinuxResources, Process};
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use tokio::sync::{Notify, mpsc, watch};
use ttrpc::r#async::Server;
use ttrpc::context::Context;
use ttrpc::proto::Request;
use ttrpc::{Code, Error};

use super::{Launched, Lifecycle, Parts, Service, convert};
use crate::backend::Status as Life;
use crate::backend::{
    Backend, Failure, GuestProcess, Kind, Launcher, Metrics, NewContainer, NewSandbox, State, Stdio,
};
use crate::events::Ended;
use crate::ledger::{Key, Ledger};
use crate::publisher::{Item, Publisher};

const VMM: u32 = 4711;

type End = watch::Sender<Option<Ended>>;

/// Processes that do nothing until they are killed.
#[derive(Default)]
struct Table {
    processes: Mutex<HashMap<Key, (Life, End)>>,
    /// What a boot comes to, as soon as that is known.
    boot: watch::Sender<Option<Result<u32, Failure>>>,
    death: watch::Sender<Option<String>>,
    /// What was asked of the sandbox as a whole.
    asked: Mutex<Vec<&'static str>>,
}

impl Table {
    fn find<T>(&self, key: &Key, with: impl FnOnce(&mut Life, &End) -> T) -> Result<T, Failure> {
        let mut processes = self.processes.lock().unwrap();
        let (life, ended) =
            processes.get_mut(key).ok_or_else(|| Failure::new(Kind::NotFound, "no such process"))?;
        Ok(with(life, ended))
    }
}

/// Launches this one, and keeps what was asked for.
struct Tables(Launched, Arc<Mutex<Vec<NewSandbox>>>);

#[async_trait]
impl Launcher for Tables {
    async fn launch(&self, new: NewSandbox) -> Launched {
        self.1.lock().unwrap().push(new);
        self.0.clone()
    }
}

#[async_trait]
impl Backend for Table {
    async fn boot(&self) -> Result<u32, Failure> {
        let mut boot = self.boot.subscribe();
        let booted = boot.wait_for(Option::is_some).await.unwrap();
        booted.clone().unwrap()
    }

    async fn died(&self) -> Option<String> {
        let mut death = self.death.subscribe();
        let died = death.wait_for(Option::is_some).await.unwrap();
        died.clone()
    }

    fn about(&self) -> HashMap<String, String> {
        HashMap::from([("vmm".to_owned(), "table".to_owned())])
    }

    async fn cost(&self) -> Result<Metrics, Failure> {
        Ok(Metrics::V2(Box::default()))
    }

    async fn stop(&self) -> Result<(), Failure> {
        self.asked.lock().unwrap().push("stop");
        Ok(())
    }

    async fn create(&self, container: NewContainer) -> Result<u32, Failure> {
        assert_eq!(container.spec.version(), "1.1.0");
        let key = Key::new(&container.id, "");
        self.processes.lock().unwrap().insert(key, (Life::Created, watch::Sender::new(None)));
        Ok(VMM)
    }

    async fn exec(&self, key: &Key, process: Process, _: Stdio) -> Result<(), Failure> {
        assert_eq!(process.terminal(), Some(false));
        self.processes.lock().unwrap().insert(key.clone(), (Life::Created, watch::Sender::new(None)));
        Ok(())
    }

    async fn start(&self, key: &Key) -> Result<u32, Failure> {
        self.find(key, |life, _| *life = Life::Running)?;
        Ok(VMM)
    }

    async fn state(&self, key: &Key) -> Result<State, Failure> {
        self.find(key, |life, ended| State { status: *life, pid: VMM, ended: *ended.borrow() })
    }

    async fn kill(&self, key: &Key, signal: u32, _: bool) -> Result<(), Failure> {
        self.find(key, |life, ended| {
            if *life == Life::Stopped {
                return Err(Failure::new(Kind::NotFound, "process already finished"));
            }
            *life = Life::Stopped;
            ended.send_replace(Some(Ended { pid: VMM, status: 128 + signal, at: UNIX_EPOCH }));
            Ok(())
        })?
    }

    async fn delete(&self, key: &Key) -> Result<Ended, Failure> {
        let ended = self.find(key, |life, ended| match *life {
            Life::Running => Err(Failure::new(Kind::FailedPrecondition, "still running")),
            _ => Ok(ended.borrow().unwrap_or(Ended { pid: VMM, status: 0, at: UNIX_EPOCH })),
        })??;
        self.processes.lock().unwrap().remove(key);
        Ok(ended)
    }

    async fn wait(&self, key: &Key) -> Result<Ended, Failure> {
        let mut ended = self.find(key, |_, ended| ended.subscribe())?;
        let ended = ended.wait_for(Option::is_some).await.unwrap();
        Ok(ended.unwrap())
    }

    async fn pause(&self, _: &str) -> Result<(), Failure> {
        Ok(())
    }

    async fn resume(&self, _: &str) -> Result<(), Failure> {
        Ok(())
    }

    async fn pids(&self, _: &str) -> Result<Vec<GuestProcess>, Failure> {
        Ok(vec![GuestProcess { pid: 5, exec: String::new() }, GuestProcess { pid: 6, exec: "sh".into() }])
    }

    async fn stats(&self, _: &str) -> Result<Metrics, Failure> {
        Ok(Metrics::V2(Box::default()))
    }

    async fn update(&self, _: &str, resources: LinuxResources) -> Result<(), Failure> {
        match resources.pids().as_ref().map(|pids| pids.limit()) {
            Some(7) => Ok(()),
            other => Err(Failure::new(Kind::Unknown, format!("{other:?}"))),
        }
    }

    async fn resize(&self, _: &Key, _: u32, _: u32) -> Result<(), Failure> {
        Ok(())
    }

    async fn shutdown(&self) -> Result<(), Failure> {
        self.asked.lock().unwrap().push("shutdown");
        Ok(())
    }
}

struct Bench {
    dir: tempfile::TempDir,
    client: Client,
    task: TaskClient,
    items: mpsc::UnboundedReceiver<Item>,
    end: Arc<Notify>,
    service: Arc<Service>,
    _server: Server,
}

impl Bench {
    async fn new(launched: Launched) -> Self {
        Self::with(Some(launched.clone()), Tables(launched, Arc::default())).await
    }

    async fn with(launched: Option<Launched>, launcher: Tables) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), r#"{"ociVersion": "1.1.0"}"#).unwrap();
        let (queue, items) = mpsc::unbounded_channel();
        let publisher = Publisher { queue };
        let end = Arc::new(Notify::new());
        let parts = Parts {
            namespace: "ns".into(),
            config: None,
            life: Lifecycle::new("web", Box::new(launcher), launched),
            ledger: Arc::new(Ledger::new(publisher.clone())),
            publisher,
            end: end.clone(),
        };
        let service = Arc::new(Service::from(parts));
        let address = format!("unix://{}", dir.path().join("socket").display());
        let mut server = Server::new().bind(&address).unwrap().register_service(crate::decorate::services(
            &service,
            &Arc::default(),
            None,
        ));
        server.start().await.unwrap();
        let client = Client::connect(&address).await.unwrap();
        Self { dir, task: TaskClient::new(client.clone()), client, items, end, service, _server: server }
    }

    async fn ready() -> Self {
        Self::new(Ok(Arc::new(Table::default()))).await
    }

    fn bundle(&self) -> &Path {
        self.dir.path()
    }

    fn create_request(&self) -> CreateTaskRequest {
        let bundle = self.bundle().to_str().unwrap().to_owned();
        CreateTaskRequest { id: "web".into(), bundle, ..CreateTaskRequest::default() }
    }

    async fn create(&self) -> ttrpc::Result<CreateTaskResponse> {
        self.task.create(Context::default(), &self.create_request()).await
    }

    async fn start(&self, exec: &str) -> ttrpc::Result<u32> {
        let request = StartRequest { id: "web".into(), exec_id: exec.into(), ..StartRequest::default() };
        self.task.start(Context::default(), &request).await.map(|response| response.pid)
    }

    async fn kill(&self) -> ttrpc::Result<()> {
        let request = KillRequest { id: "web".into(), signal: 9, ..KillRequest::default() };
        self.task.kill(Context::default(), &request).await.map(drop)
    }

    async fn delete(&self, exec: &str) -> ttrpc::Result<u32> {
        let request = DeleteRequest { id: "web".into(), exec_id: exec.into(), ..DeleteRequest::default() };
        self.task.delete(Context::default(), &request).await.map(|response| response.exit_status)
    }

    fn topics(&mut self) -> Vec<&'static str> {
        let mut topics = Vec::new();
        while let Ok(item) = self.items.try_recv() {
            match item {
                Item::Event(_, event) => topics.push(event.topic),
                Item::Flushed(_) => {}
            }
        }
        topics
    }
}

fn code<T: std::fmt::Debug>(result: ttrpc::Result<T>) -> Code {
    match result.unwrap_err() {
        Error::RpcStatus(status) => status.code.unwrap(),
        other => panic!("not a status: {other}"),
    }
}

#[tokio::test]
async fn a_container_from_create_to_shutdown() {
    let mut bench = Bench::ready().await;
    assert_eq!(bench.create().await.unwrap().pid, VMM);
    assert_eq!(code(bench.create().await), Code::ALREADY_EXISTS);
    let waiting = tokio::spawn({
        let task = bench.task.clone();
        async move {
            task.wait(Context::default(), &WaitRequest { id: "web".into(), ..WaitRequest::default() }).await
        }
    });
    assert_eq!(bench.start("").await.unwrap(), VMM);
    let request = StateRequest { id: "web".into(), ..StateRequest::default() };
    let state = bench.task.state(Context::default(), &request).await.unwrap();
    assert_eq!((state.status.unwrap(), state.pid, state.id.as_str()), (Status::RUNNING, VMM, "web"));
    let connect = ConnectRequest { id: "web".into(), ..ConnectRequest::default() };
    assert_eq!(bench.task.connect(Context::default(), &connect).await.unwrap().task_pid, VMM);
    assert_eq!(code(bench.delete("").await), Code::FAILED_PRECONDITION);
    bench.kill().await.unwrap();
    assert_eq!(code(bench.kill().await), Code::NOT_FOUND);
    assert_eq!(waiting.await.unwrap().unwrap().exit_status, 137);
    bench.task.shutdown(Context::default(), &ShutdownRequest::default()).await.unwrap();
    assert_eq!(bench.delete("").await.unwrap(), 137);
    assert_eq!(bench.topics(), ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
    bench.task.shutdown(Context::default(), &ShutdownRequest::default()).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), bench.end.notified())
        .await
        .expect("the process did not end");
}

/// A containerd that was killed between the start of a server and the making of a container left a VM for ever.
#[tokio::test]
async fn a_server_is_unused_before_its_first_container_and_after_its_last() {
    let bench = Bench::ready().await;
    let short = Duration::from_millis(20);
    bench.service.unused(short, short).await;
    bench.create().await.unwrap();
    assert!(tokio::time::timeout(5 * short, bench.service.unused(short, short)).await.is_err());
    bench.delete("").await.unwrap();
    bench.service.unused(short, short).await;
}

#[tokio::test]
async fn an_exec_has_events_of_its_own() {
    let mut bench = Bench::ready().await;
    bench.create().await.unwrap();
    bench.start("").await.unwrap();
    let value = br#"{"cwd": "/", "args": ["sh"], "terminal": true, "user": {"uid": 0, "gid": 0}}"#.to_vec();
    let spec = Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
        value,
        ..Any::default()
    };
    let request = ExecProcessRequest {
        id: "web".into(),
        exec_id: "sh".into(),
        spec: MessageField::some(spec),
        ..ExecProcessRequest::default()
    };
    bench.task.exec(Context::default(), &request).await.unwrap();
    assert_eq!(code(bench.task.exec(Context::default(), &request).await), Code::ALREADY_EXISTS);
    assert_eq!(bench.start("sh").await.unwrap(), VMM);
    bench.topics();
    let close =
        CloseIORequest { id: "web".into(), exec_id: "sh".into(), stdin: true, ..CloseIORequest::default() };
    bench.task.close_io(Context::default(), &close).await.unwrap();
    let kill = KillRequest { id: "web".into(), exec_id: "sh".into(), signal: 15, ..KillRequest::default() };
    bench.task.kill(Context::default(), &kill).await.unwrap();
    assert_eq!(bench.delete("sh").await.unwrap(), 143);
    assert_eq!(bench.topics(), ["/tasks/exit"]);
    assert_eq!(code(bench.start("sh").await), Code::NOT_FOUND);
}

#[tokio::test]
async fn a_launch_that_failed_is_told_to_create() {
    let failure = Failure::new(Kind::FailedPrecondition, "Cannot start the sandbox: no kernel: No such file");
    let mut bench = Bench::new(Err(failure)).await;
    match bench.create().await.unwrap_err() {
        Error::RpcStatus(status) => {
            assert_eq!(status.code.unwrap(), Code::FAILED_PRECONDITION);
            assert_eq!(status.message, "Cannot start the sandbox: no kernel: No such file");
        }
        other => panic!("{other}"),
    }
    assert_eq!(
        code(bench.delete("").await),
        Code::NOT_FOUND,
        "containerd then takes it for gone and shuts us down"
    );
    bench.task.shutdown(Context::default(), &ShutdownRequest::default()).await.unwrap();
    bench.end.notified().await;
    assert_eq!(bench.topics().len(), 0);
}

#[tokio::test]
async fn failed_creations_leave_nothing_and_say_why() {
    let bench = Bench::ready().await;
    let request = CreateTaskRequest { stdout: "/no/fifo".into(), ..bench.create_request() };
    assert_eq!(code(bench.task.create(Context::default(), &request).await), Code::INVALID_ARGUMENT);
    let any =
        Any { type_url: "runtimeoptions.v1.Options".into(), value: b"\x12\x02/k".to_vec(), ..Any::default() };
    let request = CreateTaskRequest { options: MessageField::some(any), ..bench.create_request() };
    assert_eq!(code(bench.task.create(Context::default(), &request).await), Code::INVALID_ARGUMENT);
    let request = CreateTaskRequest { checkpoint: "/c".into(), ..bench.create_request() };
    assert_eq!(code(bench.task.create(Context::default(), &request).await), Code::UNIMPLEMENTED);
    assert_eq!(bench.create().await.unwrap().pid, VMM);
}

#[tokio::test]
async fn an_input_is_opened_at_the_start_and_not_before() {
    let mut bench = Bench::ready().await;
    let fifo = bench.bundle().join("stdin");
    let stdin = fifo.to_str().unwrap().to_owned();
    let request = CreateTaskRequest { stdin, ..bench.create_request() };
    bench.task.create(Context::default(), &request).await.unwrap();
    assert_eq!(code(bench.start("").await), Code::INVALID_ARGUMENT, "there is no such FIFO yet");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    assert_eq!(bench.start("").await.unwrap(), VMM);
    assert_eq!(bench.topics(), ["/tasks/create", "/tasks/start"]);
}

#[tokio::test]
async fn what_is_not_there_and_what_is_not_done() {
    let bench = Bench::ready().await;
    let context = Context::default;
    assert_eq!(code(bench.kill().await), Code::NOT_FOUND);
    assert_eq!(code(bench.start("").await), Code::NOT_FOUND);
    let pids = PidsRequest { id: "web".into(), ..PidsRequest::default() };
    assert_eq!(code(bench.task.pids(context(), &pids).await), Code::NOT_FOUND);
    let pause = PauseRequest { id: "web".into(), ..PauseRequest::default() };
    assert_eq!(code(bench.task.pause(context(), &pause).await), Code::NOT_FOUND);
    let update = UpdateTaskRequest { id: "web".into(), ..UpdateTaskRequest::default() };
    assert_eq!(code(bench.task.update(context(), &update).await), Code::NOT_FOUND);
}

#[tokio::test]
async fn limits_come_as_json() {
    let bench = Bench::ready().await;
    bench.create().await.unwrap();
    let update = |resources: &str| {
        let resources = Any { value: resources.into(), ..Any::default() };
        UpdateTaskRequest { id: "web".into(), resources: MessageField::some(resources), ..Default::default() }
    };
    bench.task.update(Context::default(), &update(r#"{"pids": {"limit": 7}}"#)).await.unwrap();
    let refused = bench.task.update(Context::default(), &update(r#"{"pids": 7}"#)).await;
    assert_eq!(code(refused), Code::INVALID_ARGUMENT);
}

#[tokio::test]
async fn both_versions_of_the_api_are_one_service() {
    let bench = Bench::ready().await;
    bench.create().await.unwrap();
    for service in ["containerd.task.v2.Task", "containerd.task.v3.Task"] {
        let request = PidsRequest { id: "web".into(), ..PidsRequest::default() };
        let request = Request {
            service: service.into(),
            method: "Pids".into(),
            payload: request.write_to_bytes().unwrap(),
            ..Request::default()
        };
        let response = bench.client.request(request).await.unwrap();
        let pids = containerd_shim_protos::api::PidsResponse::parse_from_bytes(&response.payload).unwrap();
        assert_eq!(pids.processes.len(), 2);
        assert!(pids.processes[0].info.is_none());
        let info = &pids.processes[1].info;
        assert_eq!(info.type_url, "containerd.runc.v1.ProcessDetails");
        assert_eq!(ProcessDetails::parse_from_bytes(&info.value).unwrap().exec_id, "sh");
    }
    let request = StatsRequest { id: "web".into(), ..StatsRequest::default() };
    let stats = bench.task.stats(Context::default(), &request).await.unwrap();
    assert_eq!(stats.stats.type_url, "io.containerd.cgroups.v2.Metrics");
}

#[test]
fn each_message_of_metrics_says_which_it_is() {
    let name = |metrics| convert::stats(&metrics).stats.type_url.clone();
    assert_eq!(name(Metrics::V1(Box::default())), "io.containerd.cgroups.v1.Metrics");
    assert_eq!(name(Metrics::V2(Box::default())), "io.containerd.cgroups.v2.Metrics");
}
