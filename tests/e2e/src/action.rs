//! The shim's actions `start` and `delete`, run by the test in containerd's place: at moments that containerd passes
//! through too quickly.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::json;

use crate::command::{Finished, run};
use crate::containerd::Containerd;
use crate::failure::eventually;
use crate::host::MARK;

const SHIM: &str = "containerd-shim-kata-v2";

/// Whether a VMM has a virtual CPU.
fn has_cpu(vmm: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{vmm}/task")).into_iter().flatten().flatten();
    let mut names = threads.flat_map(|thread| fs::read_to_string(thread.path().join("comm")));
    names.any(|name| name.starts_with("CPU"))
}

/// A bundle that containerd does not know of.
pub struct UnknownBundle<'c> {
    containerd: &'c Containerd,
    id: String,
    path: PathBuf,
}

impl Containerd {
    /// Makes a bundle in a directory of the test's.
    pub fn unknown_bundle(&self) -> UnknownBundle<'_> {
        let (id, path) = (self.fresh_name(), self.directory());
        let user = json!({ "uid": 0, "gid": 0 });
        let config = json!({
            "ociVersion": "1.1.0",
            "root": { "path": "rootfs" },
            "process": { "args": ["true"], "cwd": "/", "user": user },
            "linux": { "namespaces": [{ "type": "network" }] },
        });
        fs::write(path.join("config.json"), config.to_string()).expect("the test's directory is writable");
        UnknownBundle { containerd: self, id, path }
    }
}

impl UnknownBundle<'_> {
    /// Runs `start` and kills it together with its server, when the VM runs and before `start` has noted the
    /// server's process id.
    #[track_caller]
    pub fn kill_start_and_server(&self) {
        // Nobody reads from the pipe: `start` does not get beyond opening it.
        mkfifo(&self.path.join("shim.new"), Mode::S_IRWXU).expect("the test's directory is writable");
        let mut start = self.start();
        let both = || self.containerd.processes_of(SHIM);
        eventually("the VM runs", Duration::from_secs(20), || {
            let vmms = self.containerd.processes_of("qemu-system-x86_64");
            both().len() == 2 && vmms.iter().any(|vmm| has_cpu(vmm.pid))
        });
        // The server last made is the first to go: it would end in order if `start` went before it.
        both().iter().rev().for_each(|process| process.signal_kill());
        start.wait().expect("it is our child");
        both().iter().for_each(|process| process.kill());
        assert!(self.state().exists(), "what the server made is there");
    }

    /// Where the runtime keeps the sandbox's state.
    pub fn state(&self) -> PathBuf {
        Path::new("/run/kata").join(&self.id)
    }

    fn start(&self) -> Child {
        let mut start = self.action("start");
        start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        start.spawn().expect("the stage has a shim")
    }

    /// Runs `delete` to its end.
    #[track_caller]
    pub fn delete(&self) -> Finished {
        run(&mut self.action("delete"))
    }

    fn action(&self, action: &str) -> Command {
        let containerd = self.containerd;
        let mut command = Command::new(containerd.stage.prefix.join("bin").join(SHIM));
        command.args(["-namespace", &containerd.host.mark, "-id", &self.id]);
        command.args(["-address", "/run/containerd-e2e/containerd.sock", "-publish-binary", "/bin/true"]);
        command.arg(action).current_dir(&self.path);
        command.env("KATA_CONF_FILE", containerd.kata_configuration()).env(MARK, &containerd.host.mark);
        command
    }
}
