//! The Sandbox API: what may be asked when, and how a sandbox ends.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use containerd_shim_protos::api::{ShutdownRequest, Status};
use containerd_shim_protos::sandbox_api::{
    CreateSandboxRequest, PingRequest, PlatformRequest, SandboxMetricsRequest, SandboxStatusRequest,
    SandboxStatusResponse, ShutdownSandboxRequest, StartSandboxRequest, StopSandboxRequest,
    WaitSandboxRequest, WaitSandboxResponse,
};
use containerd_shim_protos::sandbox_async::SandboxClient;
use oci_spec::runtime::LinuxNamespaceType;
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use tokio::time::timeout;
use ttrpc::Code;
use ttrpc::context::Context;

use super::{Bench, StateRequest, Table, Tables, VMM, code};
use crate::backend::{Failure, Kind, NewSandbox};

const PATIENCE: Duration = Duration::from_secs(10);

/// A server that awaits `CreateSandbox`.
struct Pod {
    bench: Bench,
    sandbox: SandboxClient,
    table: Arc<Table>,
    asked_for: Arc<Mutex<Vec<NewSandbox>>>,
}

impl Pod {
    async fn awaited() -> Self {
        let (table, asked_for) = (Arc::new(Table::default()), Arc::default());
        let launcher = Tables(Ok(table.clone()), Arc::clone(&asked_for));
        let bench = Bench::with(None, launcher).await;
        let sandbox = SandboxClient::new(bench.client.clone());
        Self { bench, sandbox, table, asked_for }
    }

    async fn created() -> Self {
        let pod = Self::awaited().await;
        pod.create(pod.request()).await.unwrap();
        pod
    }

    async fn ready() -> Self {
        let pod = Self::created().await;
        pod.table.boot.send_replace(Some(Ok(VMM)));
        assert_eq!(pod.start().await.unwrap(), VMM);
        pod
    }

    fn request(&self) -> CreateSandboxRequest {
        CreateSandboxRequest {
            sandbox_id: "web".into(),
            bundle_path: "/no/bundle".into(),
            ..Default::default()
        }
    }

    async fn create(&self, request: CreateSandboxRequest) -> ttrpc::Result<()> {
        self.sandbox.create_sandbox(Context::default(), &request).await.map(drop)
    }

    async fn start(&self) -> ttrpc::Result<u32> {
        let request = StartSandboxRequest { sandbox_id: "web".into(), ..Default::default() };
        self.sandbox.start_sandbox(Context::default(), &request).await.map(|response| response.pid)
    }

    async fn stop(&self) -> ttrpc::Result<()> {
        let request = StopSandboxRequest { sandbox_id: "web".into(), ..Default::default() };
        self.sandbox.stop_sandbox(Context::default(), &request).await.map(drop)
    }

    async fn wait(&self) -> ttrpc::Result<WaitSandboxResponse> {
        let request = WaitSandboxRequest { sandbox_id: "web".into(), ..Default::default() };
        let waited = self.sandbox.wait_sandbox(Context::default(), &request);
        timeout(PATIENCE, waited).await.expect("the sandbox's end in time")
    }

    async fn ping(&self) -> ttrpc::Result<()> {
        let request = PingRequest { sandbox_id: "web".into(), ..Default::default() };
        self.sandbox.ping_sandbox(Context::default(), &request).await.map(drop)
    }

    async fn status(&self) -> ttrpc::Result<SandboxStatusResponse> {
        let request = SandboxStatusRequest { sandbox_id: "web".into(), verbose: true, ..Default::default() };
        self.sandbox.sandbox_status(Context::default(), &request).await
    }

    async fn metrics(&self) -> ttrpc::Result<String> {
        let request = SandboxMetricsRequest { sandbox_id: "web".into(), ..Default::default() };
        let response = self.sandbox.sandbox_metrics(Context::default(), &request).await?;
        Ok(response.metrics.data.type_url.clone())
    }

    fn asked(&self) -> Vec<&'static str> {
        self.table.asked.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn a_sandbox_from_creation_to_shutdown() {
    let pod = Pod::created().await;
    assert_eq!(pod.status().await.unwrap().state, "SANDBOX_NOTREADY");
    pod.table.boot.send_replace(Some(Ok(VMM)));
    assert_eq!(pod.start().await.unwrap(), VMM);
    pod.ping().await.unwrap();
    let status = pod.status().await.unwrap();
    assert_eq!((status.state.as_str(), status.pid), ("SANDBOX_READY", VMM));
    assert_eq!(status.info["vmm"], "table");
    assert!(status.created_at.is_some() && status.exited_at.is_none());
    assert_eq!(pod.metrics().await.unwrap(), "io.containerd.cgroups.v2.Metrics");
    let platform = PlatformRequest { sandbox_id: "web".into(), ..Default::default() };
    let platform = pod.sandbox.platform(Context::default(), &platform).await.unwrap().platform;
    assert_eq!(platform.os, "linux");
    assert!(!platform.architecture.is_empty() && platform.architecture != "x86_64", "Go's names");
    pod.stop().await.unwrap();
    pod.stop().await.unwrap();
    assert_eq!(pod.wait().await.unwrap().exit_status, 0);
    let shutdown = ShutdownSandboxRequest { sandbox_id: "web".into(), ..Default::default() };
    pod.sandbox.shutdown_sandbox(Context::default(), &shutdown).await.unwrap();
    timeout(PATIENCE, pod.bench.end.notified()).await.expect("the server ends");
    assert_eq!(pod.asked(), ["stop", "stop", "shutdown"]);
}

#[tokio::test]
async fn before_its_creation_there_is_no_sandbox() {
    let pod = Pod::awaited().await;
    assert_eq!(code(pod.start().await), Code::NOT_FOUND);
    assert_eq!(code(pod.stop().await), Code::NOT_FOUND);
    assert_eq!(code(pod.wait().await), Code::NOT_FOUND);
    assert_eq!(code(pod.ping().await), Code::NOT_FOUND);
    assert_eq!(code(pod.status().await), Code::NOT_FOUND);
    assert_eq!(code(pod.metrics().await), Code::NOT_FOUND);
    assert_eq!(code(pod.bench.create().await), Code::FAILED_PRECONDITION, "nor a container");
    let other = CreateSandboxRequest { sandbox_id: "other".into(), ..pod.request() };
    assert_eq!(code(pod.create(other).await), Code::NOT_FOUND);
}

#[tokio::test]
async fn before_its_start_a_sandbox_takes_no_containers() {
    let pod = Pod::created().await;
    assert_eq!(code(pod.create(pod.request()).await), Code::ALREADY_EXISTS);
    assert_eq!(code(pod.bench.create().await), Code::FAILED_PRECONDITION);
    assert_eq!(code(pod.ping().await), Code::FAILED_PRECONDITION);
    assert_eq!(code(pod.metrics().await), Code::FAILED_PRECONDITION);
    pod.table.boot.send_replace(Some(Ok(VMM)));
    pod.start().await.unwrap();
    assert_eq!(code(pod.start().await), Code::FAILED_PRECONDITION);
    assert_eq!(pod.bench.create().await.unwrap().pid, VMM);
}

#[tokio::test]
async fn a_stop_ends_the_containers_which_can_be_deleted_after_it() {
    let mut pod = Pod::ready().await;
    pod.bench.create().await.unwrap();
    pod.bench.start("").await.unwrap();
    pod.stop().await.unwrap();
    let request = StateRequest { id: "web".into(), ..StateRequest::default() };
    let state = pod.bench.task.state(Context::default(), &request).await.unwrap();
    assert_eq!((state.status.unwrap(), state.exit_status), (Status::STOPPED, 137));
    assert_eq!(pod.bench.delete("").await.unwrap(), 137);
    assert_eq!(pod.bench.topics(), ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
    assert_eq!(code(pod.start().await), Code::FAILED_PRECONDITION);
    assert_eq!(code(pod.ping().await), Code::FAILED_PRECONDITION);
}

#[tokio::test]
async fn the_last_containers_end_is_not_that_of_the_sandbox() {
    let pod = Pod::ready().await;
    pod.bench.create().await.unwrap();
    pod.bench.delete("").await.unwrap();
    pod.bench.task.shutdown(Context::default(), &ShutdownRequest::default()).await.unwrap();
    assert!(
        timeout(Duration::from_millis(50), pod.bench.end.notified()).await.is_err(),
        "the server goes on"
    );
    pod.ping().await.unwrap();
}

#[tokio::test]
async fn a_vm_that_dies_wakes_who_waits_and_says_why() {
    let pod = Pod::ready().await;
    let (waited, ()) = tokio::join!(pod.wait(), async {
        pod.table.death.send_replace(Some("QEMU was killed".into()));
    });
    assert_eq!(waited.unwrap().exit_status, 137);
    let status = pod.status().await.unwrap();
    assert_eq!(
        (status.state.as_str(), status.info["reason"].as_str()),
        ("SANDBOX_NOTREADY", "QEMU was killed")
    );
    assert!(status.exited_at.is_some());
    assert_eq!(code(pod.ping().await), Code::UNAVAILABLE);
    pod.stop().await.unwrap();
    assert_eq!(pod.wait().await.unwrap().exit_status, 137, "the first end counts");
}

#[tokio::test]
async fn a_start_that_fails_is_undone() {
    let pod = Pod::created().await;
    let failure = Failure::new(Kind::Unavailable, "The sandbox has ended: no kernel");
    pod.table.boot.send_replace(Some(Err(failure)));
    assert_eq!(code(pod.start().await), Code::UNAVAILABLE);
    assert_eq!(pod.asked(), ["stop"]);
    assert_eq!(pod.wait().await.unwrap().exit_status, 137);
}

#[tokio::test]
async fn a_stop_overtakes_a_start() {
    let pod = Pod::created().await;
    let (started, stopped) = tokio::join!(pod.start(), async {
        let stopped = pod.stop().await;
        pod.table.boot.send_replace(Some(Ok(VMM)));
        stopped
    });
    stopped.unwrap();
    assert_eq!(code(started), Code::FAILED_PRECONDITION);
    assert_eq!(pod.status().await.unwrap().state, "SANDBOX_NOTREADY");
}

#[tokio::test]
async fn a_launch_that_fails_can_be_tried_again() {
    let failure = Failure::new(Kind::FailedPrecondition, "no kernel");
    let bench = Bench::with(None, Tables(Err(failure), Arc::default())).await;
    let sandbox = SandboxClient::new(bench.client.clone());
    let request = CreateSandboxRequest { sandbox_id: "web".into(), ..Default::default() };
    for _ in 0..2 {
        let refused = sandbox.create_sandbox(Context::default(), &request).await;
        assert_eq!(code(refused), Code::FAILED_PRECONDITION);
    }
}

#[tokio::test]
async fn the_request_says_what_the_sandbox_is() {
    let pod = Pod::awaited().await;
    let options = Any {
        type_url: "runtime.v1.PodSandboxConfig".into(),
        value: b"\x12\x03pod\x3a\x1a\x0a\x15io.katacontainers.x.y\x12\x01z".to_vec(),
        ..Any::default()
    };
    let request = CreateSandboxRequest {
        netns_path: "/run/netns/pod".into(),
        options: MessageField::some(options),
        annotations: [("io.katacontainers.a".to_owned(), "b".to_owned())].into(),
        ..pod.request()
    };
    pod.create(request).await.unwrap();
    let asked_for = pod.asked_for.lock().unwrap();
    let spec = &asked_for[0].spec;
    assert_eq!(spec.hostname().as_deref(), Some("pod"));
    let annotations = spec.annotations().as_ref().unwrap();
    assert_eq!(
        (annotations["io.katacontainers.x.y"].as_str(), annotations["io.katacontainers.a"].as_str()),
        ("z", "b")
    );
    let namespaces = spec.linux().as_ref().unwrap().namespaces().as_ref().unwrap();
    let network = namespaces.iter().find(|ns| ns.typ() == LinuxNamespaceType::Network).unwrap();
    assert_eq!(network.path().as_deref(), Some(std::path::Path::new("/run/netns/pod")));
}

#[tokio::test]
async fn what_was_launched_from_the_bundle_gives_way() {
    let (early, late) = (Arc::new(Table::default()), Arc::new(Table::default()));
    let bench = Bench::with(Some(Ok(early.clone())), Tables(Ok(late.clone()), Arc::default())).await;
    let sandbox = SandboxClient::new(bench.client.clone());
    let bundle_path = bench.bundle().to_str().unwrap().to_owned();
    let request = CreateSandboxRequest { sandbox_id: "web".into(), bundle_path, ..Default::default() };
    sandbox.create_sandbox(Context::default(), &request).await.unwrap();
    assert_eq!(*early.asked.lock().unwrap(), ["shutdown"]);
    assert!(late.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_server_with_containers_takes_no_sandbox() {
    let bench = Bench::ready().await;
    bench.create().await.unwrap();
    let sandbox = SandboxClient::new(bench.client.clone());
    let request = CreateSandboxRequest { sandbox_id: "web".into(), ..Default::default() };
    let refused = sandbox.create_sandbox(Context::default(), &request).await;
    assert_eq!(code(refused), Code::FAILED_PRECONDITION);
}

#[tokio::test]
async fn a_sandbox_without_containers_is_in_use() {
    let pod = Pod::created().await;
    let short = Duration::from_millis(20);
    assert!(timeout(5 * short, pod.bench.service.unused(short, short)).await.is_err());
}
