//! The program as containerd runs it, with a sandbox that cannot start: what is answered, and what is left.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use containerd_shim_protos::api::{
    ConnectRequest, CreateTaskRequest, DeleteRequest, DeleteResponse, ShutdownRequest,
};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::shim_async::{Client, TaskClient};
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use ttrpc::context::Context;

const PROGRAM: &str = env!("CARGO_BIN_EXE_containerd-shim-kata-v2");

struct Bundle {
    dir: tempfile::TempDir,
    id: String,
}

impl Bundle {
    fn new(annotations: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            r#"{{"ociVersion": "1.1.0", "root": {{"path": "rootfs"}}, "annotations": {{{annotations}}}}}"#
        );
        fs::write(dir.path().join("config.json"), config).unwrap();
        let id =
            format!("test-{}", dir.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.'));
        Self { dir, id }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn command(&self, action: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args([
                "-namespace",
                "ns",
                "-address",
                "/c.sock",
                "-publish-binary",
                "/bin/true",
                "-id",
                &self.id,
            ])
            .arg(action)
            .current_dir(self.path())
            .env("KATA_CONF_FILE", "/no/such/configuration.toml");
        command
    }

    fn run(&self, action: &str, input: &[u8]) -> Output {
        let mut child = self
            .command(action)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Starts a server in containerd 2.3's way, with its socket beside the bundle.
    fn start(&self) -> String {
        let params = BootstrapParams {
            instance_id: self.id.clone(),
            namespace: "ns".into(),
            socket_dir: Some(self.path().join("s").to_str().unwrap().into()),
            ..BootstrapParams::default()
        };
        let output = self.run("start", &params.write_to_bytes().unwrap());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stderr.is_empty(), "containerd takes both streams for the answer");
        let result = BootstrapResult::parse_from_bytes(&output.stdout).unwrap();
        assert_eq!((result.version, result.protocol.as_str()), (3, "ttrpc"));
        assert_eq!(fs::read_to_string(self.path().join("address")).unwrap(), result.address);
        result.address
    }

    fn pid(&self) -> String {
        fs::read_to_string(self.path().join("shim.pid")).unwrap()
    }

    fn server(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.pid()))
    }
}

impl Drop for Bundle {
    /// A test that failed half-way leaves no server behind.
    fn drop(&mut self) {
        let line = fs::read_to_string(self.path().join("shim.pid")).unwrap_or_default();
        let words = fs::read_to_string(format!("/proc/{line}/cmdline")).unwrap_or_default();
        if !line.is_empty() && words.contains(&self.id) {
            let _ = Command::new("kill").args(["-9", &line]).status();
        }
    }
}

/// The process is nobody's child here, so only its directory tells. It may show a dead main thread while the
/// others still die, or stay for whoever has to wait for it.
async fn gone(server: &Path) {
    let mut interval = tokio::time::interval(Duration::from_millis(10));
    let alive = || {
        let stat = fs::read_to_string(server.join("stat")).unwrap_or_else(|_| ") Z ".into());
        !stat.contains(") Z ") || fs::read_dir(server.join("task")).is_ok_and(|threads| threads.count() > 1)
    };
    let ended = async {
        while alive() {
            interval.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("the server did not end");
}

fn socket(address: &str) -> &Path {
    Path::new(address.strip_prefix("unix://").unwrap())
}

#[tokio::test]
async fn a_sandbox_that_cannot_start_says_why_and_leaves_nothing() {
    let bundle = Bundle::new("");
    let address = bundle.start();
    let task = TaskClient::new(Client::connect(&address).await.unwrap());
    let connect = ConnectRequest { id: bundle.id.clone(), ..ConnectRequest::default() };
    let connected = task.connect(Context::default(), &connect).await.unwrap();
    assert_eq!(connected.shim_pid.to_string(), bundle.pid());
    let create = CreateTaskRequest {
        id: bundle.id.clone(),
        bundle: bundle.path().to_str().unwrap().into(),
        ..CreateTaskRequest::default()
    };
    let error = task.create(Context::default(), &create).await.unwrap_err().to_string();
    assert!(error.contains("/no/such/configuration.toml"), "{error}");
    let delete = DeleteRequest { id: bundle.id.clone(), ..DeleteRequest::default() };
    let error = task.delete(Context::default(), &delete).await.unwrap_err().to_string();
    assert!(error.contains("NOT_FOUND"), "{error}");
    task.shutdown(Context::default(), &ShutdownRequest::default()).await.unwrap();
    gone(&bundle.server()).await;
    assert!(!socket(&address).exists());
}

#[tokio::test]
async fn start_finds_the_server_that_is_there_and_replaces_one_that_died() {
    let bundle = Bundle::new("");
    let address = bundle.start();
    let first = bundle.server();
    assert_eq!(bundle.start(), address);
    assert_eq!(bundle.server(), first, "the first one serves on");
    assert!(Command::new("kill").args(["-9", &bundle.pid()]).status().unwrap().success());
    gone(&first).await;
    assert!(socket(&address).exists(), "nobody removed it");
    assert_eq!(bundle.start(), address);
    assert_ne!(bundle.server(), first);
    let task = TaskClient::new(Client::connect(&address).await.unwrap());
    task.connect(Context::default(), &ConnectRequest::default()).await.unwrap();
    assert!(Command::new("kill").arg(bundle.pid()).status().unwrap().success());
    gone(&bundle.server()).await;
    assert!(!socket(&address).exists());
}

#[tokio::test]
async fn delete_ends_a_living_server_and_can_be_repeated() {
    let bundle = Bundle::new("");
    let address = bundle.start();
    for _ in 0..2 {
        let output = bundle.run("delete", b"");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let response = DeleteResponse::parse_from_bytes(&output.stdout).unwrap();
        assert_eq!(response.exit_status, 137);
        assert_ne!(response.exited_at.seconds, 0);
        gone(&bundle.server()).await;
        assert!(!socket(&address).exists());
    }
}

#[tokio::test]
async fn older_containerd_gets_a_bare_address() {
    let bundle = Bundle::new("");
    let output = bundle.run("start", b"");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let address = String::from_utf8(output.stdout).unwrap();
    assert!(address.starts_with("unix:///run/containerd/s/"), "{address}");
    Client::connect(&address).await.unwrap();
    assert!(bundle.run("delete", b"").status.success());
    gone(&bundle.server()).await;
    assert!(!socket(&address).exists());
}

#[tokio::test]
async fn a_configuration_named_in_the_runtime_options_is_the_one_that_counts() {
    let bundle = Bundle::new("");
    let value = b"\x12\x16/from/the/options.toml".to_vec();
    let options = Any { type_url: "runtimeoptions.v1.Options".into(), value, ..Any::default() };
    let output = bundle.run("start", &options.write_to_bytes().unwrap());
    let address = String::from_utf8(output.stdout).unwrap();
    let task = TaskClient::new(Client::connect(&address).await.unwrap());
    let create = CreateTaskRequest {
        id: bundle.id.clone(),
        options: MessageField::some(options),
        ..CreateTaskRequest::default()
    };
    let error = task.create(Context::default(), &create).await.unwrap_err().to_string();
    assert!(error.contains("/from/the/options.toml"), "{error}");
    assert!(bundle.run("delete", b"").status.success());
    gone(&bundle.server()).await;
}

#[test]
fn a_container_of_a_pod_without_its_sandbox_is_refused() {
    let bundle = Bundle::new(
        r#""io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "no-such-pod""#,
    );
    let output = bundle.run("start", b"");
    assert!(!output.status.success() && output.stdout.is_empty());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("sandbox no-such-pod of this container is not running"), "{error}");
    assert!(!bundle.path().join("shim.pid").exists());
}

#[tokio::test]
async fn a_container_of_a_pod_gets_its_sandboxs_address_and_delete_spares_it() {
    let pod = Bundle::new(r#""io.kubernetes.cri.container-type": "sandbox""#);
    let output = pod.run("start", b"");
    assert!(output.status.success());
    let member = Bundle::new(&format!(
        r#""io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "{}""#,
        pod.id
    ));
    let joined = member.run("start", b"");
    assert_eq!(joined.stdout, output.stdout);
    assert!(!member.path().join("shim.pid").exists());
    assert!(member.run("delete", b"").status.success());
    let address = String::from_utf8(output.stdout).unwrap();
    Client::connect(&address).await.expect("the pod's server must live on");
    assert!(pod.run("delete", b"").status.success());
    gone(&pod.server()).await;
}

/// Regression: containerd kills `start` when its client goes away, and never calls `delete` then; the server
/// lived on.
#[tokio::test]
async fn a_server_whose_start_was_killed_before_its_answer_ends_by_itself() {
    let bundle = Bundle::new("");
    let (pipe, blocked) = std::io::pipe().unwrap();
    fill(&blocked);
    let mut start = bundle.command("start").stdin(Stdio::null()).stdout(blocked).spawn().unwrap();
    let server = loop {
        // `start` has written its files and hangs in its answer: nobody reads it.
        match fs::read_to_string(bundle.path().join("address")) {
            Ok(_) => break bundle.server(),
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let address = fs::read_to_string(bundle.path().join("address")).unwrap();
    assert!(socket(&address).exists());
    start.kill().unwrap();
    start.wait().unwrap();
    gone(&server).await;
    assert!(!socket(&address).exists());
    drop(pipe);
}

/// Fills a pipe, so that the next to write to it waits.
fn fill(mut pipe: &std::io::PipeWriter) {
    rustix::io::ioctl_fionbio(pipe, true).unwrap();
    while pipe.write(&[0; 4096]).is_ok() {}
    while pipe.write(&[0]).is_ok() {}
    rustix::io::ioctl_fionbio(pipe, false).unwrap();
}

#[test]
fn wrong_use_is_explained() {
    let output = Command::new(PROGRAM).args(["-namespace", "ns", "-id", "x", "restart"]).output().unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("Unknown action \"restart\"") && error.contains("Usage:"), "{error}");
    let version = Command::new(PROGRAM).arg("--version").output().unwrap();
    assert!(String::from_utf8(version.stdout).unwrap().contains(env!("CARGO_PKG_VERSION")));
}
