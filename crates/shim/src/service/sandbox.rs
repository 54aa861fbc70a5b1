//! containerd's Sandbox API (`containerd.runtime.sandbox.v1`): the pod's VM by itself, beside the task API for what runs
//! in it. There is no pause container; a root file system for one is not looked at.

use std::env::consts::{ARCH, OS};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use containerd_shim_protos::sandbox_api::{
    CreateSandboxRequest, CreateSandboxResponse, PingRequest, PingResponse, PlatformRequest,
    PlatformResponse, SandboxMetricsRequest, SandboxMetricsResponse, SandboxStatusRequest,
    SandboxStatusResponse, ShutdownSandboxRequest, ShutdownSandboxResponse, StartSandboxRequest,
    StartSandboxResponse, StopSandboxRequest, StopSandboxResponse, WaitSandboxRequest, WaitSandboxResponse,
};
use containerd_shim_protos::sandbox_async::Sandbox;
use kata_sandbox::FirstContainer;
use oci_spec::runtime::{Linux, LinuxNamespaceBuilder, LinuxNamespaceType, Spec};
use protobuf::MessageField;
use tokio::task::JoinSet;
use tokio::time::timeout;
use ttrpc::r#async::TtrpcContext;

use super::convert::{self, status};
use super::{Service, load_spec};
use crate::backend::{Failure, Kind, NewSandbox};
use crate::cri::PodConfig;
use crate::events::timestamp;

/// How long containers may take to end, unless the request says.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
const SIGKILL: u32 = 9;

/// The CRI's words for a sandbox's state, which containerd compares with.
const READY: &str = "SANDBOX_READY";
const NOT_READY: &str = "SANDBOX_NOTREADY";

impl Service {
    async fn make_sandbox(&self, request: CreateSandboxRequest) -> Result<(), Failure> {
        self.life.check(&request.sandbox_id)?;
        if !self.ledger.is_empty() {
            let text =
                format!("The server of {} runs a container already, by the task API", request.sandbox_id);
            return Err(Failure::new(Kind::FailedPrecondition, text));
        }
        let bundle = PathBuf::from(&request.bundle_path);
        let mut spec = read_spec(&bundle)?;
        let mut annotations = spec.annotations().clone().unwrap_or_default();
        let mut pod = None;
        if let Some(options) = request.options.as_ref() {
            if PodConfig::is_in(options) {
                let config = PodConfig::from_any(options)
                    .map_err(|error| Failure::of(Kind::InvalidArgument, &error))?;
                annotations.extend(config.annotations);
                if !config.pod.hostname.is_empty() {
                    spec.set_hostname(Some(config.pod.hostname.clone()));
                }
                pod = Some(config.pod);
            }
            self.check_options(Some(options))?;
        }
        annotations.extend(request.annotations);
        spec.set_annotations(Some(annotations));
        match request.netns_path.as_str() {
            // A pod of Kubernetes' without one is in the host's.
            "" if pod.is_some() => {}
            "" => set_network(&mut spec, None)?,
            path => set_network(&mut spec, Some(Path::new(path)))?,
        }
        self.life.create(NewSandbox { bundle, spec, pod, first: FirstContainer::Later }).await
    }

    /// Ends the containers, then the VM: what they have written is on its way to the host before that is gone.
    async fn end_sandbox(&self, request: &StopSandboxRequest) -> Result<(), Failure> {
        self.life.check(&request.sandbox_id)?;
        let sandbox = self.life.stopping()?;
        let patience = match request.timeout_secs {
            0 => STOP_PATIENCE,
            seconds => Duration::from_secs(seconds.into()),
        };
        let mut ends = JoinSet::new();
        for key in self.ledger.living() {
            let sandbox = sandbox.clone();
            ends.spawn(async move {
                match sandbox.kill(&key, SIGKILL, true).await {
                    Ok(()) => drop(sandbox.wait(&key).await),
                    // It has ended by itself, or is not made yet.
                    Err(failure) => {
                        tracing::debug!(container = key.container, reason = failure.text, "not killed");
                    }
                }
            });
        }
        if timeout(patience, ends.join_all()).await.is_err() {
            tracing::warn!(
                seconds = patience.as_secs(),
                "containers have not ended; the VM is ended around them"
            );
        }
        self.life.stop().await
    }

    fn describe(&self, request: &SandboxStatusRequest) -> Result<SandboxStatusResponse, Failure> {
        self.life.check(&request.sandbox_id)?;
        let found = self.life.status()?;
        let mut info = if request.verbose { self.life.created()?.about() } else { Default::default() };
        if let Some(reason) =
            found.end.as_ref().and_then(|end| end.reason.clone()).filter(|_| request.verbose)
        {
            info.insert("reason".to_owned(), reason);
        }
        Ok(SandboxStatusResponse {
            sandbox_id: request.sandbox_id.clone(),
            pid: found.pid,
            state: if found.ready { READY } else { NOT_READY }.to_owned(),
            info,
            created_at: MessageField::some(timestamp(found.created)),
            exited_at: found.end.map(|end| timestamp(end.at)).into(),
            ..SandboxStatusResponse::default()
        })
    }

    async fn measure(&self, id: &str) -> Result<SandboxMetricsResponse, Failure> {
        self.life.check(id)?;
        let stats = convert::stats(&self.life.ready()?.cost().await?);
        let mut response = SandboxMetricsResponse::default();
        // The crate does not let out the name of this message.
        let metric = response.metrics.mut_or_insert_default();
        metric.id = id.to_owned();
        metric.timestamp = MessageField::some(timestamp(SystemTime::now()));
        metric.data = stats.stats;
        Ok(response)
    }
}

/// The bundle's specification; an empty one if it has none, as with containerd's CRI.
fn read_spec(bundle: &Path) -> Result<Spec, Failure> {
    if bundle.join("config.json").exists() {
        return load_spec(bundle);
    }
    Ok(empty_spec())
}

/// A specification in which nothing is asked for.
pub(crate) fn empty_spec() -> Spec {
    serde_json::from_str(r#"{"ociVersion": "1.1.0"}"#).expect("has all that must be there")
}

/// The VM's network is the namespace at this path, or an empty one, whatever else was named.
fn set_network(spec: &mut Spec, path: Option<&Path>) -> Result<(), Failure> {
    let empty = || serde_json::from_str("{}").expect("all of it is optional");
    let mut linux: Linux = spec.linux().clone().unwrap_or_else(empty);
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Network);
    let mut network = LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Network);
    if let Some(path) = path {
        network = network.path(path);
    }
    namespaces.push(network.build().map_err(|error| Failure::of(Kind::InvalidArgument, &error))?);
    linux.set_namespaces(Some(namespaces));
    spec.set_linux(Some(linux));
    Ok(())
}

/// The guest's architecture, which is the host's, by Go's name.
fn architecture() -> &'static str {
    match ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[async_trait]
impl Sandbox for Service {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: CreateSandboxRequest,
    ) -> ttrpc::Result<CreateSandboxResponse> {
        self.make_sandbox(request).await.map_err(status)?;
        Ok(CreateSandboxResponse::default())
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: StartSandboxRequest,
    ) -> ttrpc::Result<StartSandboxResponse> {
        self.life.check(&request.sandbox_id).map_err(status)?;
        let started = self.life.start().await.map_err(status)?;
        Ok(StartSandboxResponse {
            pid: started.pid,
            created_at: MessageField::some(timestamp(started.created)),
            ..StartSandboxResponse::default()
        })
    }

    async fn platform(&self, _: &TtrpcContext, request: PlatformRequest) -> ttrpc::Result<PlatformResponse> {
        self.life.check(&request.sandbox_id).map_err(status)?;
        let mut response = PlatformResponse::default();
        let platform = response.platform.mut_or_insert_default();
        OS.clone_into(&mut platform.os);
        architecture().clone_into(&mut platform.architecture);
        Ok(response)
    }

    async fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        request: StopSandboxRequest,
    ) -> ttrpc::Result<StopSandboxResponse> {
        self.end_sandbox(&request).await.map_err(status)?;
        Ok(StopSandboxResponse::default())
    }

    async fn wait_sandbox(
        &self,
        _: &TtrpcContext,
        request: WaitSandboxRequest,
    ) -> ttrpc::Result<WaitSandboxResponse> {
        self.life.check(&request.sandbox_id).map_err(status)?;
        let end = self.life.wait().await.map_err(status)?;
        Ok(WaitSandboxResponse {
            exit_status: end.status,
            exited_at: MessageField::some(timestamp(end.at)),
            ..WaitSandboxResponse::default()
        })
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        request: SandboxStatusRequest,
    ) -> ttrpc::Result<SandboxStatusResponse> {
        self.describe(&request).map_err(status)
    }

    async fn ping_sandbox(&self, _: &TtrpcContext, request: PingRequest) -> ttrpc::Result<PingResponse> {
        self.life.check(&request.sandbox_id).and_then(|()| self.life.ready().map(drop)).map_err(status)?;
        Ok(PingResponse::default())
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        request: ShutdownSandboxRequest,
    ) -> ttrpc::Result<ShutdownSandboxResponse> {
        self.life.check(&request.sandbox_id).map_err(status)?;
        self.end_all().await;
        Ok(ShutdownSandboxResponse::default())
    }

    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        request: SandboxMetricsRequest,
    ) -> ttrpc::Result<SandboxMetricsResponse> {
        self.measure(&request.sandbox_id).await.map_err(status)
    }
}
