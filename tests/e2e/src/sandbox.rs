//! A pod's sandbox by containerd's Sandbox API, driven as containerd with `sandboxer = "shim"` drives it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use containerd_shim_protos::api::{CreateTaskRequest, DeleteRequest, KillRequest, StartRequest, WaitRequest};
use containerd_shim_protos::sandbox_api::{
    CreateSandboxRequest, PingRequest, PlatformRequest, SandboxMetricsRequest, SandboxStatusRequest,
    SandboxStatusResponse, ShutdownSandboxRequest, StartSandboxRequest, StopSandboxRequest,
    WaitSandboxRequest,
};
use containerd_shim_protos::sandbox_async::SandboxClient;
use containerd_shim_protos::shim_async::TaskClient;
use prost::Message;
use protobuf::well_known_types::any::Any;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use ttrpc::r#async::Client;
use ttrpc::context::{self, Context};

use crate::command::{Finished, run};
use crate::containerd::{self, Containerd};
use crate::cri::proto;
use crate::host::MARK;
use crate::spec;

const PATIENCE: Duration = Duration::from_secs(120);

/// A shim that was started for a sandbox, and its API.
pub struct Sandbox<'c> {
    containerd: &'c Containerd,
    id: String,
    bundle: PathBuf,
    runtime: Runtime,
    sandbox: SandboxClient,
    task: TaskClient,
}

fn within() -> Context {
    context::with_duration(PATIENCE)
}

fn words<T>(result: ttrpc::Result<T>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

/// Runs an action of the shim for what containerd keeps in this namespace, to its end.
pub(crate) fn shim(
    containerd: &Containerd,
    (namespace, id): (&str, &str),
    bundle: &Path,
    action: &str,
) -> Finished {
    let mut command = Command::new(containerd.stage.prefix.join("bin/containerd-shim-kata-v2"));
    command.args(["-namespace", namespace, "-id", id, "-publish-binary", "containerd"]);
    command.arg("-address").arg(containerd::socket()).arg("-bundle").arg(bundle).arg(action);
    command.env("PATH", containerd.stage.path()).env("KATA_CONF_FILE", containerd.kata_configuration());
    command.env(MARK, &containerd.host.mark).env("TTRPC_ADDRESS", containerd::ttrpc_socket());
    run(command.current_dir(bundle))
}

impl Containerd {
    /// Starts a shim in the bundle of a sandbox, which has no `config.json`.
    #[track_caller]
    pub fn sandbox(&self) -> Sandbox<'_> {
        let (id, bundle) = (self.fresh_name(), self.directory());
        shim(self, (&self.host.mark, &id), &bundle, "start").ok().done();
        let address = fs::read_to_string(bundle.join("address")).expect("the shim has said its address");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime can be had");
        let client = runtime.block_on(Client::connect(&address)).expect("the shim listens");
        let (sandbox, task) = (SandboxClient::new(client.clone()), TaskClient::new(client));
        Sandbox { containerd: self, id, bundle, runtime, sandbox, task }
    }
}

impl Sandbox<'_> {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// `CreateSandbox`, with the network namespace at this path if there is one.
    ///
    /// # Errors
    /// The shim's words, as of all these requests.
    pub fn create(&self, netns: Option<&Path>) -> Result<(), String> {
        self.create_with(netns, None)
    }

    /// `CreateSandbox` with the configuration of a pod, as containerd's CRI sends it.
    ///
    /// # Errors
    /// The shim's words.
    pub fn create_pod(&self, netns: &Path, config: &proto::PodSandboxConfig) -> Result<(), String> {
        let options = Any {
            type_url: "runtime.v1.PodSandboxConfig".to_owned(),
            value: config.encode_to_vec(),
            ..Default::default()
        };
        self.create_with(Some(netns), Some(options))
    }

    fn create_with(&self, netns: Option<&Path>, options: Option<Any>) -> Result<(), String> {
        let request = CreateSandboxRequest {
            sandbox_id: self.id.clone(),
            bundle_path: self.bundle.display().to_string(),
            netns_path: netns.map(|path| path.display().to_string()).unwrap_or_default(),
            options: options.into(),
            ..Default::default()
        };
        words(self.runtime.block_on(self.sandbox.create_sandbox(within(), &request))).map(drop)
    }

    /// `StartSandbox`; the pid.
    ///
    /// # Errors
    /// The shim's words.
    pub fn start(&self) -> Result<u32, String> {
        let request = StartSandboxRequest { sandbox_id: self.id.clone(), ..Default::default() };
        let started = words(self.runtime.block_on(self.sandbox.start_sandbox(within(), &request)))?;
        assert!(started.created_at.is_some(), "{started:?}");
        Ok(started.pid)
    }

    /// `PingSandbox`.
    ///
    /// # Errors
    /// The shim's words.
    pub fn ping(&self) -> Result<(), String> {
        let request = PingRequest { sandbox_id: self.id.clone(), ..Default::default() };
        words(self.runtime.block_on(self.sandbox.ping_sandbox(within(), &request))).map(drop)
    }

    /// `Platform`: the system and the architecture.
    pub fn platform(&self) -> (String, String) {
        let request = PlatformRequest { sandbox_id: self.id.clone(), ..Default::default() };
        let answer = self.runtime.block_on(self.sandbox.platform(within(), &request)).expect("is known");
        (answer.platform.os.clone(), answer.platform.architecture.clone())
    }

    /// `SandboxStatus`, verbose.
    pub fn status(&self) -> SandboxStatusResponse {
        let request =
            SandboxStatusRequest { sandbox_id: self.id.clone(), verbose: true, ..Default::default() };
        self.runtime.block_on(self.sandbox.sandbox_status(within(), &request)).expect("it is created")
    }

    /// `SandboxMetrics`: the message's type and its size in bytes.
    ///
    /// # Errors
    /// The shim's words.
    pub fn metrics(&self) -> Result<(String, usize), String> {
        let request = SandboxMetricsRequest { sandbox_id: self.id.clone(), ..Default::default() };
        let answer = words(self.runtime.block_on(self.sandbox.sandbox_metrics(within(), &request)))?;
        Ok((answer.metrics.data.type_url.clone(), answer.metrics.data.value.len()))
    }

    /// `StopSandbox`.
    ///
    /// # Errors
    /// The shim's words.
    pub fn stop(&self) -> Result<(), String> {
        let request =
            StopSandboxRequest { sandbox_id: self.id.clone(), timeout_secs: 20, ..Default::default() };
        words(self.runtime.block_on(self.sandbox.stop_sandbox(within(), &request))).map(drop)
    }

    /// `WaitSandbox`, while something is done that ends the sandbox; its exit status.
    pub fn wait_while(&self, end: impl FnOnce()) -> u32 {
        let request = WaitSandboxRequest { sandbox_id: self.id.clone(), ..Default::default() };
        let sandbox = self.sandbox.clone();
        self.runtime.block_on(async {
            let waiting = tokio::spawn(async move { sandbox.wait_sandbox(within(), &request).await });
            // Requests of one connection arrive in order: after this answer the other one is there.
            let ping = PingRequest { sandbox_id: self.id.clone(), ..Default::default() };
            self.sandbox.ping_sandbox(within(), &ping).await.expect("it runs");
            end();
            waiting.await.expect("the request is not cut off").expect("the end is told").exit_status
        })
    }

    /// `ShutdownSandbox`.
    ///
    /// # Errors
    /// The shim's words.
    pub fn shutdown(&self) -> Result<(), String> {
        let request = ShutdownSandboxRequest { sandbox_id: self.id.clone(), ..Default::default() };
        words(self.runtime.block_on(self.sandbox.shutdown_sandbox(within(), &request))).map(drop)
    }

    /// Runs the shim's action `delete`, as containerd does when the server is gone.
    #[track_caller]
    pub fn delete_by_action(&self) {
        let name = (self.containerd.host.mark.as_str(), self.id.as_str());
        shim(self.containerd, name, &self.bundle, "delete").ok().done();
    }

    /// Makes and starts a container that runs a line in a shell, and shares what the containers of a pod share.
    ///
    /// # Errors
    /// The shim's words.
    pub fn begin(&self, line: &str) -> Result<Member<'_>, String> {
        let (id, bundle) = (self.containerd.fresh_name(), self.containerd.directory());
        let mut spec = spec::on_busybox(self.containerd, &bundle, &id);
        spec["process"]["args"] = json!(["/bin/sh", "-c", line]);
        spec["annotations"] = json!({
            "io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": self.id,
        });
        share_namespaces(&mut spec, self.status().pid);
        fs::write(bundle.join("config.json"), spec.to_string()).expect("the test's directory is writable");
        let member = Member { sandbox: self, id: id.clone(), output: bundle.join("output") };
        let create = CreateTaskRequest {
            id: id.clone(),
            bundle: bundle.display().to_string(),
            stdout: format!("file://{}", member.output.display()),
            ..Default::default()
        };
        words(self.runtime.block_on(self.task.create(within(), &create)))?;
        let start = StartRequest { id, ..Default::default() };
        words(self.runtime.block_on(self.task.start(within(), &start)))?;
        Ok(member)
    }

    /// Runs a line in a container of its own, to the end; what it printed.
    ///
    /// # Errors
    /// The shim's words.
    pub fn run(&self, line: &str) -> Result<String, String> {
        let member = self.begin(line)?;
        let status = member.wait();
        let output = fs::read_to_string(&member.output).unwrap_or_default();
        assert_eq!((status, member.delete()?), (0, 0), "{output}");
        Ok(output)
    }
}

/// As containerd's CRI: the namespaces of the sandbox's process.
fn share_namespaces(spec: &mut Value, pid: u32) {
    for namespace in spec["linux"]["namespaces"].as_array_mut().expect("a list") {
        let (kind, file) = match namespace["type"].as_str() {
            Some("network") => ("network", "net"),
            Some("ipc") => ("ipc", "ipc"),
            Some("uts") => ("uts", "uts"),
            _ => continue,
        };
        *namespace = json!({ "type": kind, "path": format!("/proc/{pid}/ns/{file}") });
    }
    spec.as_object_mut().expect("an object").remove("hostname");
}

/// A container of the sandbox.
pub struct Member<'s> {
    sandbox: &'s Sandbox<'s>,
    id: String,
    output: PathBuf,
}

impl Member<'_> {
    /// Waits for its end; its exit status.
    pub fn wait(&self) -> u32 {
        let request = WaitRequest { id: self.id.clone(), ..Default::default() };
        let waited = self.sandbox.runtime.block_on(self.sandbox.task.wait(within(), &request));
        waited.expect("the end is told").exit_status
    }

    /// Kills it.
    ///
    /// # Errors
    /// The shim's words.
    pub fn kill(&self) -> Result<(), String> {
        let request = KillRequest { id: self.id.clone(), signal: 9, ..Default::default() };
        words(self.sandbox.runtime.block_on(self.sandbox.task.kill(within(), &request))).map(drop)
    }

    /// Deletes it; its exit status.
    ///
    /// # Errors
    /// The shim's words.
    pub fn delete(&self) -> Result<u32, String> {
        let request = DeleteRequest { id: self.id.clone(), ..Default::default() };
        let deleted = self.sandbox.runtime.block_on(self.sandbox.task.delete(within(), &request));
        words(deleted).map(|deleted| deleted.exit_status)
    }
}
