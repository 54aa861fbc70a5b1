//! The same requests to an agent that has only upstream's: one by one, with polled streams.

use kata_network::GuestNetwork;
use kata_protocol::agent as grpc;
use kata_protocol::{kata, oci};

use super::action::Action;
use super::{Agent, Started, exec_id, measured, within};
use crate::command::Key;
use crate::error::{Result, SandboxError as Error};
use crate::stats::Stats;

/// Bytes of a polled stream per request; ttRPC messages end at 4 MiB.
const CHUNK: u32 = 128 * 1024;

/// What a pod asks for that upstream's requests have no place for: there it would be the pause container's.
fn asked_of_ours(pod: &oci::Spec) -> Option<&'static str> {
    let has_users = pod.Linux.Namespaces.iter().any(|namespace| namespace.Type == "user");
    match () {
        () if !pod.Linux.Sysctl.is_empty() => Some("set the pod's sysctls"),
        () if has_users => Some("make the pod's user namespace"),
        () => None,
    }
}

impl Agent {
    /// What `StartSandbox` does, by upstream's requests.
    pub(super) async fn start_one_by_one(&self, request: &kata::StartSandboxRequest) -> Result<Started> {
        let deadline = self.deadlines.request;
        if let Some(asked) = request.pod.as_ref().and_then(asked_of_ours) {
            return Err(Error::Unsupported { action: asked });
        }
        if request.now_sec != 0 {
            self.set_clock(request.now_sec, request.now_nsec).await?;
        }
        if !request.entropy.is_empty() {
            let seed = grpc::ReseedRandomDevRequest { data: request.entropy.clone(), ..Default::default() };
            let rpc = self.grpc.reseed_random_dev(within(deadline), &seed);
            self.call(Action::Seed, deadline, rpc).await?;
        }
        let sandbox = request.sandbox.clone().unwrap_or_default();
        let rpc = self.grpc.create_sandbox(within(self.deadlines.create), &sandbox);
        self.call(Action::StartSandbox, self.deadlines.create, rpc).await?;
        let network = GuestNetwork {
            interfaces: request.interfaces.clone(),
            routes: request.routes.Routes.clone(),
            neighbors: request.neighbors.ARPNeighbors.clone(),
        };
        self.change_network(&network, Some(&GuestNetwork::default())).await?;
        if let Some(container) = request.container.as_ref() {
            self.create_upstream(container).await?;
        }
        Ok(Started::default())
    }

    pub(super) async fn create_upstream(&self, request: &kata::ContainerRequest) -> Result<()> {
        let id = &request.container_id;
        let request = grpc::CreateContainerRequest {
            container_id: id.clone(),
            exec_id: id.clone(),
            storages: request.storages.clone(),
            devices: request.devices.clone(),
            OCI: request.oci.clone(),
            sandbox_pidns: request.sandbox_pidns,
            ..Default::default()
        };
        let deadline = self.deadlines.create;
        let rpc = self.grpc.create_container(within(deadline), &request);
        self.call(Action::Create, deadline, rpc).await.map(drop)
    }

    pub(super) async fn exec_upstream(&self, request: &kata::ExecRequest) -> Result<()> {
        let request = grpc::ExecProcessRequest {
            container_id: request.container_id.clone(),
            exec_id: request.exec_id.clone(),
            process: request.process.clone(),
            ..Default::default()
        };
        let deadline = self.deadlines.request;
        let rpc = self.grpc.exec_process(within(deadline), &request);
        self.call(Action::Exec, deadline, rpc).await.map(drop)
    }

    pub(super) async fn stats_upstream(&self, container: &str) -> Result<Stats> {
        let request =
            grpc::StatsContainerRequest { container_id: container.to_owned(), ..Default::default() };
        let deadline = self.deadlines.request;
        let rpc = self.grpc.stats_container(within(deadline), &request);
        Ok(measured::upstream_stats(self.call(Action::Stats, deadline, rpc).await?))
    }

    /// The next bytes of a process's output; none at its end. Waits for them as long as the sandbox lives.
    pub(crate) async fn read_output(&self, key: &Key, stderr: bool) -> Result<Vec<u8>> {
        let request = grpc::ReadStreamRequest {
            container_id: key.container.to_string(),
            exec_id: exec_id(key),
            len: CHUNK,
            ..Default::default()
        };
        let forever = ttrpc::context::Context::default();
        let answer = if stderr {
            self.answer(Action::ReadOutput, self.grpc.read_stderr(forever, &request)).await?
        } else {
            self.answer(Action::ReadOutput, self.grpc.read_stdout(forever, &request)).await?
        };
        Ok(answer.data)
    }

    /// Writes to a process's input; returns how much it took. Waits as long as the sandbox lives.
    pub(crate) async fn write_input(&self, key: &Key, data: &[u8]) -> Result<usize> {
        let request = grpc::WriteStreamRequest {
            container_id: key.container.to_string(),
            exec_id: exec_id(key),
            data: data.to_vec(),
            ..Default::default()
        };
        let rpc = self.grpc.write_stdin(ttrpc::context::Context::default(), &request);
        let taken = self.answer(Action::WriteInput, rpc).await?.len;
        Ok(usize::try_from(taken).unwrap_or(usize::MAX).min(data.len()))
    }

    /// Ends a process's input.
    pub(crate) async fn close_input(&self, key: &Key) -> Result<()> {
        let request = grpc::CloseStdinRequest {
            container_id: key.container.to_string(),
            exec_id: exec_id(key),
            ..Default::default()
        };
        let deadline = self.deadlines.request;
        let rpc = self.grpc.close_stdin(within(deadline), &request);
        self.call(Action::CloseInput, deadline, rpc).await.map(drop)
    }
}
