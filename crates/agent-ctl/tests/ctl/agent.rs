//! An agent without a VM, in namespaces of its own, and the tool that speaks to it.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The tool.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_kata-agent-ctl");

/// Anything that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Prepares what only the inside of the namespaces may see, and becomes the agent.
const INSIDE: &str = "mount -t proc proc /proc && mount -t tmpfs tmpfs /run && exec \"$0\"";

/// An agent that serves on a unix socket, and an OCI bundle for it.
pub(crate) struct Agent {
    pub(crate) folder: tempfile::TempDir,
    cgroup: PathBuf,
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

/// The agent of the same build, or another.
fn agent_program() -> PathBuf {
    let beside = || Path::new(PROGRAM).with_file_name("kata-agent");
    let program = std::env::var_os("KATA_AGENT_BINARY").map_or_else(beside, PathBuf::from);
    assert!(program.exists(), "{} is not there; cargo build -p kata-agent makes it", program.display());
    program
}

impl Agent {
    /// Starts the agent and waits until it listens.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        make_bundle(&folder.path().join("bundle"), "echo hello; read line; exit ${#line}");
        let name = folder.path().file_name().expect("has a name").to_string_lossy().replace('.', "");
        let cgroup = cgroup2().expect("checked before").join(format!("kata-agent-ctl-test{name}"));
        fs::create_dir(&cgroup).expect("a cgroup for the test");
        let socket = folder.path().join("agent.sock");
        let process = Command::new("unshare")
            .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--propagation", "private"])
            .args(["/bin/sh", "-c", INSIDE])
            .arg(agent_program())
            .env("KATA_AGENT_SERVER_ADDR", format!("unix://{}", socket.display()))
            .env("KATA_AGENT_CGROUP_ROOT", &cgroup)
            .env("KATA_AGENT_OWNS_NETWORK", "1")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("unshare is there");
        let agent = Self { folder, cgroup, process };
        let started = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            assert!(started.elapsed() < PATIENCE, "the agent does not listen");
            std::thread::yield_now();
        }
        agent
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    /// `kata-agent-ctl connect` to this agent.
    pub(crate) fn connect(&self, words: &[&str]) -> Output {
        connect(&format!("unix://{}", self.socket().display()), words)
    }

    /// The path of the bundle, as text.
    pub(crate) fn bundle(&self) -> String {
        self.folder.path().join("bundle").display().to_string()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // With the first process of its pid namespace all others end.
        let _ = self.process.kill();
        let _ = self.process.wait();
        for entry in fs::read_dir(&self.cgroup).into_iter().flatten().flatten() {
            let _ = fs::write(entry.path().join("cgroup.kill"), "1");
            let _ = fs::remove_dir(entry.path());
        }
        let _ = fs::remove_dir(&self.cgroup);
    }
}

/// `kata-agent-ctl connect` to an address.
pub(crate) fn connect(address: &str, words: &[&str]) -> Output {
    ctl(&[&["connect", "--server-address", address], words].concat())
}

/// `kata-agent-ctl`
pub(crate) fn ctl(words: &[&str]) -> Output {
    Command::new(PROGRAM).args(words).stdin(Stdio::null()).output().expect("can be run")
}

/// The lines of standard output.
pub(crate) fn answers(output: &Output) -> Vec<serde_json::Value> {
    assert_eq!(output.status.code(), Some(0), "{}", errors(output));
    let text = String::from_utf8(output.stdout.clone()).expect("is text");
    text.lines().map(|line| serde_json::from_str(line).expect("is JSON")).collect()
}

/// Standard error without what was filled in.
pub(crate) fn errors(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).expect("is text");
    text.lines().filter(|line| !line.contains(" INFO ")).collect::<Vec<_>>().join("\n")
}

fn make_bundle(bundle: &Path, script: &str) {
    for folder in ["bin", "proc", "dev", "tmp", "sys"] {
        fs::create_dir_all(bundle.join("rootfs").join(folder)).expect("a folder");
    }
    fs::copy("/bin/busybox", bundle.join("rootfs/bin/busybox")).expect("copied");
    for applet in ["sh", "cat", "echo", "sleep"] {
        symlink("busybox", bundle.join("rootfs/bin").join(applet)).expect("a link");
    }
    let config = serde_json::json!({
        "ociVersion": "1.2.0",
        "root": { "path": "rootfs" },
        "process": {
            "args": ["sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"], "user": { "uid": 0, "gid": 0 },
        },
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
        "linux": { "namespaces": [{ "type": "mount" }, { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }] },
    });
    fs::write(bundle.join("config.json"), config.to_string()).expect("written");
}
