//! A pod to be run, and one that runs.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::container::ContainerRecipe;
use super::{Cri, Forward, proto};
use crate::failure::fail;

/// A pod to be run.
#[must_use = "a recipe does nothing until it is run"]
pub struct PodRecipe<'c> {
    cri: &'c Cri<'c>,
    config: proto::PodSandboxConfig,
}

impl<'c> PodRecipe<'c> {
    pub(crate) fn new(cri: &'c Cri<'c>) -> Self {
        let name = format!("pod-{}", cri.fresh_number());
        let namespaces =
            proto::NamespaceOption { pid: proto::NamespaceMode::Container.into(), ..Default::default() };
        let security =
            proto::LinuxSandboxSecurityContext { namespace_options: Some(namespaces), ..Default::default() };
        let linux = proto::LinuxPodSandboxConfig {
            cgroup_parent: format!("/{}", cri.containerd.host.mark),
            security_context: Some(security),
            ..Default::default()
        };
        let metadata = proto::PodSandboxMetadata {
            uid: format!("{}-{name}", cri.containerd.host.mark),
            name: name.clone(),
            namespace: "default".to_owned(),
            attempt: 0,
        };
        let config = proto::PodSandboxConfig {
            metadata: Some(metadata),
            hostname: name,
            log_directory: cri.containerd.directory().to_string_lossy().into_owned(),
            linux: Some(linux),
            ..Default::default()
        };
        Self { cri, config }
    }

    /// Changes what the interface is told.
    pub fn with(mut self, change: impl FnOnce(&mut proto::PodSandboxConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// Changes what the interface is told about namespaces.
    pub fn namespaces(self, change: impl FnOnce(&mut proto::NamespaceOption)) -> Self {
        self.with(|config| {
            let linux = config.linux.get_or_insert_default();
            let security = linux.security_context.get_or_insert_default();
            change(security.namespace_options.get_or_insert_default());
        })
    }

    /// `RunPodSandbox`.
    #[track_caller]
    pub fn run(self) -> Pod<'c> {
        self.try_run().unwrap_or_else(|e| fail(format_args!("Cannot run a pod: {e}")))
    }

    /// As [`PodRecipe::run`], for what is to fail; tells why.
    pub fn try_run(self) -> Result<Pod<'c>, String> {
        let Self { cri, config } = self;
        let request = proto::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: cri.handler().to_owned(),
        };
        let answer = cri.call(|mut client| async move { client.run_pod_sandbox(request).await });
        let id = answer.map_err(|status| status.message().to_owned())?.pod_sandbox_id;
        Ok(Pod { cri, id, config })
    }
}

/// A pod.
pub struct Pod<'c> {
    pub(super) cri: &'c Cri<'c>,
    id: String,
    pub(super) config: proto::PodSandboxConfig,
}

impl<'c> Pod<'c> {
    pub(super) fn of(cri: &'c Cri<'c>, id: String, config: proto::PodSandboxConfig) -> Self {
        Self { cri, id, config }
    }

    /// Its id, which is also the sandbox's.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A container to be made in it, of busybox.
    pub fn container(&self, name: &str) -> ContainerRecipe<'_> {
        ContainerRecipe::new(self, name)
    }

    /// `PodSandboxStatus`.
    #[track_caller]
    pub fn status(&self) -> proto::PodSandboxStatus {
        let request = proto::PodSandboxStatusRequest { pod_sandbox_id: self.id.clone(), verbose: false };
        let answer = self.cri.call(|mut client| async move { client.pod_sandbox_status(request).await });
        let answer = answer.unwrap_or_else(|e| fail(format_args!("No status of {}: {e}", self.id)));
        answer.status.expect("an answer has a status")
    }

    /// The specification of its first container.
    #[track_caller]
    pub fn spec(&self) -> Value {
        let request = proto::PodSandboxStatusRequest { pod_sandbox_id: self.id.clone(), verbose: true };
        let answer = self.cri.call(|mut client| async move { client.pod_sandbox_status(request).await });
        let answer = answer.unwrap_or_else(|e| fail(format_args!("No status of {}: {e}", self.id)));
        let info: Option<Value> = answer.info.get("info").and_then(|info| serde_json::from_str(info).ok());
        info.map(|mut info| info["runtimeSpec"].take()).expect("an answer has the specification")
    }

    /// Its addresses, the first one first.
    #[track_caller]
    pub fn addresses(&self) -> Vec<String> {
        let network = self.status().network.unwrap_or_default();
        std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|ip| ip.ip)).collect()
    }

    /// `PodSandboxStats`.
    #[track_caller]
    pub fn stats(&self) -> proto::LinuxPodSandboxStats {
        let request = proto::PodSandboxStatsRequest { pod_sandbox_id: self.id.clone() };
        let answer = self.cri.call(|mut client| async move { client.pod_sandbox_stats(request).await });
        let answer = answer.unwrap_or_else(|e| fail(format_args!("No figures of {}: {e}", self.id)));
        answer.stats.and_then(|stats| stats.linux).expect("an answer has figures")
    }

    /// `PortForward`, through the streaming server.
    #[track_caller]
    pub fn forward(&self, port: u16) -> Forward {
        let request =
            proto::PortForwardRequest { pod_sandbox_id: self.id.clone(), port: vec![i32::from(port)] };
        let answer = self.cri.call(|mut client| async move { client.port_forward(request).await });
        let answer = answer.unwrap_or_else(|e| fail(format_args!("Cannot forward port {port}: {e}")));
        Forward::open(&answer.url, port)
    }

    /// `StopPodSandbox`.
    #[track_caller]
    pub fn stop(&self) {
        self.try_stop().unwrap_or_else(|e| fail(format_args!("Cannot stop pod {}: {e}", self.id)));
    }

    /// As [`Pod::stop`], for what may fail; tells why.
    pub fn try_stop(&self) -> Result<(), String> {
        let request = proto::StopPodSandboxRequest { pod_sandbox_id: self.id.clone() };
        let answer = self.cri.call(|mut client| async move { client.stop_pod_sandbox(request).await });
        answer.map(|_| ()).map_err(|status| status.message().to_owned())
    }

    /// `StopPodSandbox`, `RemovePodSandbox`.
    #[track_caller]
    pub fn remove(&self) {
        self.stop();
        let removed = self.try_remove_only();
        removed.unwrap_or_else(|e| fail(format_args!("Cannot remove pod {}: {e}", self.id)));
    }

    /// `RemovePodSandbox` alone; tells why it fails.
    pub fn try_remove_only(&self) -> Result<(), String> {
        let request = proto::RemovePodSandboxRequest { pod_sandbox_id: self.id.clone() };
        let answer = self.cri.call(|mut client| async move { client.remove_pod_sandbox(request).await });
        answer.map(|_| ()).map_err(|status| status.message().to_owned())
    }

    /// Where the logs of its containers are.
    pub fn logs(&self) -> PathBuf {
        Path::new(&self.config.log_directory).to_owned()
    }
}
