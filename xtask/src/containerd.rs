//! A containerd of our own: private root, state and socket, our shim on its `PATH`; the machine's own is left alone.

use std::fs;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use tempfile::TempDir;

use crate::prefix::Prefix;
use crate::process;

/// The name by which containerd finds `containerd-shim-kata-v2`.
pub(crate) const RUNTIME: &str = "io.containerd.kata.v2";

const READY_WITHIN: Duration = Duration::from_secs(60);
const KILLED_WITHIN: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
/// Where shims keep mounts of ours, apart from containerd's own directories.
const SHARED: &str = "/run/kata-containers/shared/sandboxes";

/// A running containerd; dropping it ends its containers, itself, and removes its directories.
pub(crate) struct Containerd {
    child: Child,
    data: TempDir,
    run: TempDir,
    snapshotter: &'static str,
    path: std::ffi::OsString,
    configuration: PathBuf,
}

impl Containerd {
    /// Starts containerd with its data in a new directory under `cache`, its log at `log`; returns when it answers.
    pub(crate) fn start(prefix: &Prefix, cache: &Path, log: &Path) -> Result<Self> {
        let data = tempfile::Builder::new().prefix("containerd-").tempdir_in(cache)?;
        let run = tempfile::Builder::new().prefix("kata-xtask-").tempdir_in("/run")?;
        let config = run.path().join("config.toml");
        fs::write(&config, configuration(data.path(), run.path()))?;
        let notify = UnixDatagram::bind(run.path().join("notify.sock"))?;
        notify.set_read_timeout(Some(Duration::from_secs(1)))?;

        let path = search_path(&prefix.bin())?;
        let log_file = fs::File::create(log).with_context(|| format!("Cannot write {}", log.display()))?;
        let mut command = Command::new("containerd");
        command.arg("--config").arg(&config).process_group(0);
        command.env("PATH", &path).env("KATA_CONF_FILE", prefix.configuration());
        command.env("NOTIFY_SOCKET", run.path().join("notify.sock"));
        command.stdin(Stdio::null()).stdout(log_file.try_clone()?).stderr(log_file);
        let child = command.spawn().context("Cannot run containerd")?;
        let configuration = prefix.configuration();
        let mut containerd = Self { child, data, run, snapshotter: "native", path, configuration };
        containerd.wait_until_ready(&notify, log)?;
        containerd.snapshotter = containerd.best_snapshotter()?;
        Ok(containerd)
    }

    /// containerd says `READY=1` to its service manager, which is us.
    fn wait_until_ready(&mut self, notify: &UnixDatagram, log: &Path) -> Result<()> {
        let begun = Instant::now();
        let mut message = [0; 1024];
        while begun.elapsed() < READY_WITHIN {
            match notify.recv(&mut message) {
                Ok(length) if message[..length].starts_with(b"READY=1") => return Ok(()),
                Ok(_) => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(e) => return Err(e).context("Cannot hear from containerd"),
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("containerd ended at once ({status}), see {}", log.display());
            }
        }
        bail!("containerd is not ready after {} s, see {}", READY_WITHIN.as_secs(), log.display())
    }

    /// overlayfs, unless our directory lies on a file system that cannot carry it.
    fn best_snapshotter(&self) -> Result<&'static str> {
        let plugins = process::text(self.ctr().args(["plugins", "ls"]))?;
        let works = |line: &str| {
            let words: Vec<_> = line.split_whitespace().collect();
            words.get(1) == Some(&"overlayfs") && words.last() == Some(&"ok")
        };
        Ok(if plugins.lines().any(works) { "overlayfs" } else { "native" })
    }

    /// `ctr`, pointed to this containerd.
    pub(crate) fn ctr(&self) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.address());
        command
    }

    /// `ctr run` with our runtime and a snapshotter that works here; options, image and name follow.
    pub(crate) fn ctr_run(&self) -> Command {
        let mut command = self.ctr();
        command.args(["run", "--runtime", RUNTIME, "--snapshotter", self.snapshotter]);
        command
    }

    /// A program of ours with the environment containerd has.
    pub(crate) fn program(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("PATH", &self.path).env("KATA_CONF_FILE", &self.configuration);
        command
    }

    /// The socket's path.
    pub(crate) fn address(&self) -> PathBuf {
        self.run.path().join("containerd.sock")
    }

    /// Loads and unpacks an image from a tar file in OCI layout.
    pub(crate) fn import(&self, image: &Path) -> Result<()> {
        let mut ctr = self.ctr();
        ctr.args(["images", "import", "--snapshotter", self.snapshotter]).arg(image);
        process::output(&mut ctr).map(drop)
    }

    /// Ends containers and containerd; an error names what was left behind.
    pub(crate) fn stop(mut self) -> Result<()> {
        let containers = self.remove_containers();
        self.end()?;
        let mounts = self.unmount()?;
        for directory in [self.data.path(), self.run.path()] {
            fs::remove_dir_all(directory)
                .with_context(|| format!("Cannot remove {}", directory.display()))?;
        }
        if !containers.is_empty() || !mounts.is_empty() {
            bail!("Left behind and removed now: containers {containers:?}, mounts {mounts:?}");
        }
        Ok(())
    }

    /// Removes every container; one whose guest does not answer loses its shim first.
    fn remove_containers(&self) -> Vec<String> {
        let list =
            process::output_to_clean_up(self.ctr().args(["containers", "ls", "-q"])).unwrap_or_default();
        let names: Vec<_> = String::from_utf8_lossy(&list).lines().map(str::to_owned).collect();
        for name in &names {
            let removed = process::output_to_clean_up(self.ctr().args(["tasks", "rm", "--force", name]));
            if removed.is_err() && self.kill_shim(name) {
                // What containerd itself would call once it notices; both may do it.
                let mut shim = self.program(Path::new("containerd-shim-kata-v2"));
                shim.current_dir(self.bundle(name)).args(["-namespace", "default", "-id", name, "-address"]);
                let _ = process::output_to_clean_up(shim.arg(self.address()).arg("delete"));
            }
            let _ = process::output_to_clean_up(self.ctr().args(["containers", "rm", name]));
        }
        names
    }

    fn bundle(&self, name: &str) -> PathBuf {
        self.run.path().join("state/io.containerd.runtime.v2.task/default").join(name)
    }

    /// Kills the shim of a task and waits for its end; whether there was one.
    fn kill_shim(&self, name: &str) -> bool {
        let address = self.address().display().to_string();
        let is_shim = |words: &[&str]| {
            words.first().is_some_and(|word| word.contains("containerd-shim"))
                && [address.as_str(), name].iter().all(|wanted| words.contains(wanted))
        };
        let shim = processes().into_iter().find(|(_, line)| is_shim(&line.split('\0').collect::<Vec<_>>()));
        let Some((pid, _)) = shim else { return false };
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
        let killed = pidfd_send_signal(&handle, Signal::KILL);
        let ended = rustix::event::poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&KILLED_WITHIN));
        killed.is_ok() && ended.is_ok_and(|count| count > 0)
    }

    fn end(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            kill_process(Pid::from_child(&self.child), Signal::TERM)?;
            self.child.wait()?;
        }
        Ok(())
    }

    fn unmount(&self) -> Result<Vec<String>> {
        let table = fs::read_to_string("/proc/self/mountinfo")?;
        let targets = table.lines().filter_map(|line| line.split(' ').nth(4));
        let ours = |target: &&str| {
            [self.data.path(), self.run.path()].iter().any(|d| Path::new(target).starts_with(d))
        };
        let mut targets: Vec<_> = targets.filter(ours).map(str::to_owned).collect();
        targets.reverse();
        for target in &targets {
            rustix::mount::unmount(target.as_str(), rustix::mount::UnmountFlags::DETACH)?;
        }
        Ok(targets)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.remove_containers();
        }
        // A failure here has nowhere to go; the directories' removal below it would fail visibly in the next run.
        let _ = self.end();
        let _ = self.unmount();
    }
}

/// Sandboxes that are there now, by the directories of their shared files.
pub(crate) fn sandboxes() -> Vec<String> {
    let entries = fs::read_dir(SHARED).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Every process with its command line, whose words are separated by NUL.
fn processes() -> Vec<(Pid, String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw));
    let with_line = pids.map(|pid| {
        let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        (pid, String::from_utf8_lossy(&line).into_owned())
    });
    with_line.collect()
}

fn search_path(first: &Path) -> Result<std::ffi::OsString> {
    let old = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::join_paths(std::iter::once(first.to_owned()).chain(std::env::split_paths(&old)))?)
}

/// Without CRI and without anything outside our two directories; understood by containerd 1.6 to 2.x.
fn configuration(data: &Path, run: &Path) -> String {
    let (data, run) = (data.display(), run.display());
    format!(
        r#"version = 2
root = "{data}/root"
state = "{run}/state"
disabled_plugins = [
  "io.containerd.grpc.v1.cri",
  "io.containerd.cri.v1.images",
  "io.containerd.cri.v1.runtime",
  "io.containerd.internal.v1.tracing",
  "io.containerd.nri.v1.nri",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
  address = "{run}/containerd.sock"

[plugins."io.containerd.internal.v1.opt"]
  path = "{data}/opt"
"#
    )
}
