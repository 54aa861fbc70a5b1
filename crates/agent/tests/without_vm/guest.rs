//! An agent in namespaces of its own, and a host's view of it.

use std::fs;
use std::io::{self, Seek};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio as ProcessStdio};
use std::time::Duration;

use kata_protocol::agent::{
    DestroySandboxRequest, RemoveContainerRequest, SignalProcessRequest, StartContainerRequest,
    TtyWinResizeRequest, WaitProcessRequest,
};
use kata_protocol::agent_ttrpc::AgentServiceClient;
use kata_protocol::kata::{ContainerRequest, ExecRequest, StartSandboxRequest, Stdio};
use kata_protocol::kata_ttrpc::SandboxClient;
use kata_protocol::oci;
use kata_protocol::oci_convert::{process_to_grpc, spec_to_grpc};
use kata_protocol::ports;
use kata_transport::{Dialer, Stream};
use protobuf::MessageField;
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use ttrpc::asynchronous::Client;
use ttrpc::asynchronous::transport::Socket;
use ttrpc::context::{Context, with_duration};

/// Anything that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Commands of busybox that the workloads use.
const APPLETS: [&str; 15] = [
    "sh", "cat", "true", "false", "sleep", "echo", "stty", "ps", "id", "pwd", "kill", "wc", "head", "setsid",
    "tty",
];

/// Names another agent to test, for example the static one that goes into the guest.
const OTHER_BINARY: &str = "KATA_AGENT_BINARY";

/// Prepares what only the inside of the namespaces may see, and becomes the agent.
const INSIDE: &str = "mount -t proc proc /proc && mount -t tmpfs tmpfs /run && exec \"$0\"";

/// The same, where only the programs of a folder are in `/usr/sbin`.
const INSIDE_WITH_NETWORK: &str =
    "mount -t proc proc /proc && mount -t tmpfs tmpfs /run && mount --bind \"$1\" /usr/sbin && exec \"$0\"";

/// An agent that serves on a unix socket, with one container root.
pub(crate) struct Guest {
    pub(crate) agent: AgentServiceClient,
    pub(crate) sandbox: SandboxClient,
    pub(crate) dialer: Dialer,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) cgroup: PathBuf,
    process: Child,
}

/// Says why a test cannot run here.
pub(crate) fn skips() -> bool {
    let missing = if !rustix::process::geteuid().is_root() {
        "this user is not root"
    } else if !Path::new("/bin/busybox").exists() {
        "there is no /bin/busybox (package busybox-static)"
    } else if cgroup2().is_none() {
        "no cgroup v2 hierarchy is mounted"
    } else {
        return false;
    };
    println!("skipped: {missing}");
    true
}

fn cgroup2() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

/// A specification as the protocol has it.
pub(crate) fn as_message(spec: &Value) -> MessageField<oci::Spec> {
    MessageField::some(spec_to_grpc(&serde_json::from_value(spec.clone()).expect("is a specification")))
}

impl Guest {
    /// Starts the agent and waits until it serves.
    pub(crate) async fn start() -> Self {
        Self::start_in(&[], INSIDE).await
    }

    /// Starts an agent that has a network namespace of its own, with nothing but a loopback interface, and in `/usr/sbin`
    /// only the programs in the folder `sbin`.
    pub(crate) async fn with_network() -> Self {
        Self::start_in(&["--net"], INSIDE_WITH_NETWORK).await
    }

    /// Starts an agent that gives shells to the host.
    pub(crate) async fn with_console() -> Self {
        Self::start_in(&[], &format!("export KATA_AGENT_DEBUG_CONSOLE=1 && {INSIDE}")).await
    }

    async fn start_in(namespaces: &[&str], inside: &str) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        make_root(&folder.path().join("rootfs"));
        let name = folder.path().file_name().expect("has a name").to_string_lossy().replace('.', "");
        let cgroup = cgroup2().expect("checked before").join(format!("kata-agent-test{name}"));
        fs::create_dir(&cgroup).expect("a cgroup for the test");
        let socket = folder.path().join("agent.sock");
        let programs = folder.path().join("sbin");
        fs::create_dir(&programs).expect("a folder for programs");
        let mut command = Command::new("unshare");
        if !namespaces.is_empty() {
            command.args(namespaces).env("KATA_AGENT_OWNS_NETWORK", "1");
        }
        let process = command
            .args(["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"])
            .args(["/bin/sh", "-c", inside])
            .arg(std::env::var_os(OTHER_BINARY).unwrap_or_else(|| env!("CARGO_BIN_EXE_kata-agent").into()))
            .arg(programs)
            .env("KATA_AGENT_SERVER_ADDR", format!("unix://{}", socket.display()))
            .env("KATA_AGENT_CGROUP_ROOT", &cgroup)
            .env("KATA_AGENT_LOG_LEVEL", "debug")
            .stdin(ProcessStdio::null())
            .spawn()
            .expect("unshare is there");
        let dialer = Dialer::unix(socket);
        let stream = connect(&dialer, ports::AGENT).await;
        let client = Client::new(Socket::new(stream));
        Self {
            agent: AgentServiceClient::new(client.clone()),
            sandbox: SandboxClient::new(client),
            dialer,
            folder,
            cgroup,
            process,
        }
    }

    /// Starts the sandbox without any container.
    pub(crate) async fn start_sandbox(&self) {
        self.sandbox.start_sandbox(limit(), &StartSandboxRequest::default()).await.expect("started");
    }

    /// Ends all that runs in the sandbox.
    pub(crate) async fn destroy_sandbox(&self) {
        self.agent.destroy_sandbox(limit(), &DestroySandboxRequest::default()).await.expect("ended");
    }

    /// A specification that runs `arguments` in the busybox root.
    pub(crate) fn spec(&self, arguments: &[&str]) -> Value {
        json!({
            "ociVersion": "1.2.0",
            "root": { "path": self.folder.path().join("rootfs") },
            "process": process(arguments),
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"] },
                { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                  "options": ["newinstance", "ptmxmode=0666", "mode=0620"] },
            ],
            "linux": {
                "cgroupsPath": "/somewhere/on/the/host",
                "namespaces": [
                    { "type": "mount" }, { "type": "pid" }, { "type": "ipc" }, { "type": "uts" },
                    { "type": "network", "path": "/proc/1/ns/net" },
                ],
            },
        })
    }

    /// Makes a container with raw streams; not started.
    pub(crate) async fn create_with(&self, id: &str, spec: &Value, terminal: bool) -> ttrpc::Result<Streams> {
        let (streams, stdio) = Streams::open(&self.dialer, terminal).await;
        let request = ContainerRequest {
            container_id: id.into(),
            oci: as_message(spec),
            stdio: MessageField::some(stdio),
            ..Default::default()
        };
        self.sandbox.create_container(limit(), &request).await?;
        Ok(streams)
    }

    /// The output of a container of this specification.
    pub(crate) async fn output_of(&self, spec: &Value) -> String {
        let mut streams = self.create_with("c", spec, false).await.expect("created");
        self.start_container("c").await.expect("started");
        String::from_utf8(streams.output().await).expect("is text")
    }

    /// Makes and starts a container.
    pub(crate) async fn run(&self, id: &str, arguments: &[&str]) -> Streams {
        let streams = self.create_with(id, &self.spec(arguments), false).await.expect("created");
        self.start_container(id).await.expect("started");
        streams
    }

    pub(crate) async fn start_container(&self, id: &str) -> ttrpc::Result<()> {
        let request = StartContainerRequest { container_id: id.into(), ..Default::default() };
        self.agent.start_container(limit(), &request).await.map(|_| ())
    }

    pub(crate) async fn exec_with(
        &self,
        id: &str,
        exec: &str,
        process: &Value,
        terminal: bool,
    ) -> ttrpc::Result<Streams> {
        let (streams, stdio) = Streams::open(&self.dialer, terminal).await;
        let request = ExecRequest {
            container_id: id.into(),
            exec_id: exec.into(),
            process: MessageField::some(process_to_grpc(
                &serde_json::from_value(process.clone()).expect("is a process"),
            )),
            stdio: MessageField::some(stdio),
            ..Default::default()
        };
        self.sandbox.exec(limit(), &request).await?;
        Ok(streams)
    }

    pub(crate) async fn exec(&self, id: &str, exec: &str, arguments: &[&str]) -> ttrpc::Result<Streams> {
        self.exec_with(id, exec, &process(arguments), false).await
    }

    pub(crate) async fn wait(&self, id: &str, exec: &str) -> ttrpc::Result<i32> {
        let request =
            WaitProcessRequest { container_id: id.into(), exec_id: exec.into(), ..Default::default() };
        Ok(self.agent.wait_process(limit(), &request).await?.status)
    }

    pub(crate) async fn signal(&self, id: &str, exec: &str, signal: u32) -> ttrpc::Result<()> {
        let request = SignalProcessRequest {
            container_id: id.into(),
            exec_id: exec.into(),
            signal,
            ..Default::default()
        };
        self.agent.signal_process(limit(), &request).await.map(|_| ())
    }

    pub(crate) async fn resize(&self, id: &str, exec: &str, row: u32, column: u32) -> ttrpc::Result<()> {
        let request = TtyWinResizeRequest {
            container_id: id.into(),
            exec_id: exec.into(),
            row,
            column,
            ..Default::default()
        };
        self.agent.tty_win_resize(limit(), &request).await.map(|_| ())
    }

    /// Streams that no process has yet.
    pub(crate) async fn streams(&self) -> (Streams, Stdio) {
        Streams::open(&self.dialer, false).await
    }

    /// The agent's id: the first process of its pid namespace, the only child of `unshare`.
    pub(crate) fn agent_id(&self) -> i32 {
        let parent = self.process.id();
        let children =
            fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).expect("is alive");
        children.trim().parse().expect("one child")
    }

    /// Asks the agent to end.
    pub(crate) fn terminate(&self) {
        let agent = rustix::process::Pid::from_raw(self.agent_id()).expect("a process");
        rustix::process::kill_process(agent, rustix::process::Signal::TERM).expect("can be told");
    }

    /// The status of the agent when it has ended.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        self.process.wait().expect("is a child")
    }

    pub(crate) async fn remove(&self, id: &str) -> ttrpc::Result<()> {
        let request = RemoveContainerRequest { container_id: id.into(), ..Default::default() };
        self.agent.remove_container(limit(), &request).await.map(|_| ())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // With the first process of its pid namespace all others end.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        let _ = until_empty(&self.cgroup).and_then(|()| remove_tree(&self.cgroup));
    }
}

/// Who is killed is gone a moment later; the kernel tells by the file's state.
fn until_empty(cgroup: &Path) -> io::Result<()> {
    let mut events = fs::File::open(cgroup.join("cgroup.events"))?;
    loop {
        events.rewind()?;
        if io::read_to_string(&events)?.contains("populated 0") {
            return Ok(());
        }
        let mut changes = [PollFd::new(&events, PollFlags::PRI)];
        if poll(&mut changes, Some(&PATIENCE.try_into().map_err(io::Error::other)?))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// A cgroup with all below it.
fn remove_tree(cgroup: &Path) -> io::Result<()> {
    for entry in fs::read_dir(cgroup)?.flatten().filter(|entry| entry.path().is_dir()) {
        remove_tree(&entry.path())?;
    }
    fs::remove_dir(cgroup)
}

/// The host's ends of a process's stdio.
pub(crate) struct Streams {
    pub(crate) stdin: Stream,
    pub(crate) stdout: Stream,
    pub(crate) stderr: Option<Stream>,
}

impl Streams {
    async fn open(dialer: &Dialer, terminal: bool) -> (Self, Stdio) {
        let open = async || dialer.connect(ports::STDIO).await.expect("the stdio port is open");
        let (stdin, stdout) = (open().await, open().await);
        let stderr = if terminal { None } else { Some(open().await) };
        let stdio = Stdio {
            terminal,
            stdin_port: stdin.local_port,
            stdout_port: stdout.local_port,
            stderr_port: stderr.as_ref().map_or(0, |connection| connection.local_port),
            ..Default::default()
        };
        let streams =
            Self { stdin: stdin.stream, stdout: stdout.stream, stderr: stderr.map(|found| found.stream) };
        (streams, stdio)
    }

    /// Everything written to stdout, to its end.
    pub(crate) async fn output(&mut self) -> Vec<u8> {
        read_to_end(&mut self.stdout).await
    }

    /// Everything written to stderr, to its end.
    pub(crate) async fn errors(&mut self) -> Vec<u8> {
        read_to_end(self.stderr.as_mut().expect("no terminal")).await
    }

    /// Writes to stdin and ends it.
    pub(crate) async fn input(&mut self, bytes: &[u8]) {
        self.stdin.write_all(bytes).await.expect("is read");
        self.stdin.shutdown().await.expect("can be ended");
    }

    /// Reads stdout until `text` has come.
    pub(crate) async fn expect(&mut self, text: &str) -> String {
        let reading = async {
            let mut seen = Vec::new();
            let mut buffer = [0; 4096];
            loop {
                let length = self.stdout.read(&mut buffer).await.expect("readable");
                seen.extend_from_slice(&buffer[..length]);
                let now = String::from_utf8_lossy(&seen).into_owned();
                if now.contains(text) {
                    return now;
                }
                assert!(length > 0, "the output ended before {text:?}: {now:?}");
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("the output goes on")
    }
}

/// An OCI process with everything that is needed.
pub(crate) fn process(arguments: &[&str]) -> Value {
    let capabilities = json!(["CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_CHOWN"]);
    json!({
        "args": arguments,
        "cwd": "/",
        "env": ["PATH=/bin"],
        "user": { "uid": 0, "gid": 0 },
        "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
    })
}

/// The text of a refusal.
pub(crate) fn message<T>(result: ttrpc::Result<T>) -> String {
    match result.map(|_| ()).expect_err("this should have been refused") {
        ttrpc::Error::RpcStatus(status) => status.message,
        error => error.to_string(),
    }
}

pub(crate) fn limit() -> Context {
    with_duration(PATIENCE)
}

pub(crate) async fn read_to_end(stream: &mut Stream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let reading = stream.read_to_end(&mut bytes);
    tokio::time::timeout(PATIENCE, reading).await.expect("the stream ends").expect("readable");
    bytes
}

/// The agent is about to listen.
async fn connect(dialer: &Dialer, port: u32) -> Stream {
    let mut pause = tokio::time::interval(Duration::from_millis(5));
    let connecting = async {
        loop {
            pause.tick().await;
            if let Ok(connection) = dialer.connect(port).await {
                return connection.stream;
            }
        }
    };
    tokio::time::timeout(PATIENCE, connecting).await.expect("the agent listens")
}

fn make_root(root: &Path) {
    let make = || -> io::Result<()> {
        for folder in ["bin", "proc", "dev", "tmp", "sys"] {
            fs::create_dir_all(root.join(folder))?;
        }
        fs::copy("/bin/busybox", root.join("bin/busybox"))?;
        for applet in APPLETS {
            symlink("busybox", root.join("bin").join(applet))?;
        }
        fs::write(root.join("bin/data"), "not a program")?;
        fs::set_permissions(root.join("bin/data"), fs::Permissions::from_mode(0o644))
    };
    make().expect("a root with busybox");
}
