//! Figures of containers that containerd runs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use super::backing;
use super::bare::rate_of;
use super::process_memory::{Usage, field, find};
use super::scrape::Scrape;
use crate::containerd::{Containerd, RUNTIME};
use crate::process;
use crate::workspace::Workspace;

/// containerd's name of runc.
pub(crate) const RUNC: &str = "io.containerd.runc.v2";
const STATE: &str = "/run/kata";
/// Mounts of a container that has what an orchestrator gives it, and those that every one of `ctr`'s has.
const MOUNTS: usize = 20;
const MOUNTS_OF_CTR: usize = 7;
/// The request that starts the workload.
const LAST_PHASE: &str = "container started";
const STDOUT_BYTES: u64 = 1 << 30;

/// Where the time of a start went, as the sandbox wrote it down.
#[derive(Deserialize)]
pub(crate) struct Timeline {
    spans: Vec<Span>,
}

#[derive(Deserialize)]
struct Span {
    name: String,
    end_us: u32,
}

impl Timeline {
    /// When this phase was over, in milliseconds after the shim's process began.
    pub(crate) fn end_ms(&self, phase: &str) -> Result<f64> {
        let span = self.spans.iter().find(|span| span.name == phase);
        let span = span.with_context(|| format!("The timeline has no phase {phase:?}"))?;
        Ok(f64::from(span.end_us) / 1000.0)
    }
}

/// Runs containers of one image.
pub(crate) struct Containers<'c> {
    containerd: &'c Containerd,
    image: &'static str,
    count: AtomicU32,
}

/// A container that does nothing until it is removed.
struct Idle<'c> {
    containerd: &'c Containerd,
    id: String,
}

impl<'c> Containers<'c> {
    /// Of an image that was imported.
    pub(crate) fn new(containerd: &'c Containerd, image: &'static str) -> Self {
        Self { containerd, image, count: AtomicU32::new(0) }
    }

    /// Seconds that `ctr run --rm` of `/bin/true` takes.
    pub(crate) fn run(&self) -> Result<f64> {
        self.run_by(self.containerd.ctr_run())
    }

    /// The same by another configuration of the runtime.
    pub(crate) fn run_configured(&self, configuration: &Path) -> Result<f64> {
        let mut ctr = self.containerd.ctr_run();
        ctr.arg("--runtime-config-path").arg(configuration);
        self.run_by(ctr)
    }

    fn run_by(&self, mut ctr: Command) -> Result<f64> {
        ctr.args(["--rm", self.image, &self.fresh_id(), "/bin/true"]);
        backing::obtain(1)?;
        let begun = Instant::now();
        process::output(&mut ctr)?;
        Ok(begun.elapsed().as_secs_f64())
    }

    /// The timeline of a new sandbox with a container as `ctr run` makes it.
    pub(crate) fn timeline(&self) -> Result<Timeline> {
        Self::timeline_of(&self.idle(RUNTIME)?)
    }

    /// The same with all that an orchestrator's containers have: a seccomp profile, and 20 mounts in all.
    pub(crate) fn timeline_of_a_full_one(&self) -> Result<Timeline> {
        let volume = tempfile::tempdir()?;
        let mount = |number: usize| {
            format!("type=bind,src={},dst=/mnt/{number},options=rbind:ro", volume.path().display())
        };
        let mounts = (0..MOUNTS - MOUNTS_OF_CTR).flat_map(|number| ["--mount".to_owned(), mount(number)]);
        let options: Vec<_> = std::iter::once("--seccomp".to_owned()).chain(mounts).collect();
        Self::timeline_of(&self.idle_with(RUNTIME, &options)?)
    }

    /// The last phase is written down shortly after `ctr` has returned.
    fn timeline_of(idle: &Idle<'_>) -> Result<Timeline> {
        let file = Path::new(STATE).join(&idle.id).join("timeline.json");
        let (_clock, ticks) = mpsc::channel::<()>();
        for _ in 0..100 {
            let text = fs::read(&file).with_context(|| format!("Cannot read {}", file.display()))?;
            let timeline: Timeline = serde_json::from_slice(&text)
                .with_context(|| format!("{} is not as expected", file.display()))?;
            if timeline.end_ms(LAST_PHASE).is_ok() {
                return Ok(timeline);
            }
            let _ = ticks.recv_timeout(Duration::from_millis(20));
        }
        bail!("{} never tells of the phase {LAST_PHASE:?}", file.display())
    }

    /// Seconds that `ctr tasks exec` of `/bin/true` takes: ours and runc's, measured in turn.
    pub(crate) fn execs(&self, runs: usize) -> Result<(Vec<f64>, Vec<f64>)> {
        let (ours, runc) = (self.idle(RUNTIME)?, self.idle(RUNC)?);
        let (mut our_times, mut runc_times) = (Vec::new(), Vec::new());
        // The first of each warms the caches.
        for round in 0..=runs {
            let times = [self.exec(&ours)?, self.exec(&runc)?];
            if round > 0 {
                our_times.push(times[0]);
                runc_times.push(times[1]);
            }
        }
        Ok((our_times, runc_times))
    }

    /// MB/s of a container's standard output, written by `dd` in pieces of 32 KiB, between first and last byte.
    pub(crate) fn stdout_throughput(&self) -> Result<f64> {
        let blocks = STDOUT_BYTES >> 15;
        let mut ctr = self.containerd.ctr_run();
        let line = format!("exec dd if=/dev/zero bs=32768 count={blocks} 2>/dev/null");
        ctr.args(["--rm", self.image, &self.fresh_id(), "sh", "-c", &line]);
        let mut child = ctr.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("Cannot run ctr")?;
        let rate = rate_of(&mut child.stdout.take().context("Standard output was asked for")?, STDOUT_BYTES);
        let status = child.wait()?;
        if !status.success() {
            bail!("ctr run failed ({status})");
        }
        rate
    }

    /// What the shim takes while its container does nothing.
    pub(crate) fn shim_of_an_idle_container(&self) -> Result<Usage> {
        let idle = self.idle(RUNTIME)?;
        Usage::of(&find("containerd-shim-kata-v2", |word| word == idle.id)?)
    }

    /// What a scrape of the sandbox of an idle container takes.
    pub(crate) fn scrape(&self) -> Result<Scrape> {
        let idle = self.idle(RUNTIME)?;
        let name = format!("sandbox-{}", idle.id);
        let shim = find("containerd-shim-kata-v2", |word| word == idle.id)?;
        let vmm = find("qemu-system-x86_64", |word| word.split(',').next() == Some(&name))?;
        Scrape::of(&Path::new(STATE).join(&idle.id), &[shim, vmm])
    }

    /// The words of a running sandbox's QEMU.
    pub(crate) fn qemu_command_line(&self) -> Result<Vec<String>> {
        let idle = self.idle(RUNTIME)?;
        let name = format!("sandbox-{}", idle.id);
        Ok(find("qemu-system-x86_64", |word| word.split(',').next() == Some(&name))?.command)
    }

    /// The words of a running sandbox's virtiofsd.
    pub(crate) fn virtiofsd_command_line(&self) -> Result<Vec<String>> {
        let idle = self.idle(RUNTIME)?;
        let share = Path::new(&idle.id).join("ro");
        Ok(find("virtiofsd", |word| Path::new(word).ends_with(&share))?.command)
    }

    /// Resident memory of the guest's process 1, in bytes: a container that has no PID namespace of its own sees it.
    pub(crate) fn agent_resident_memory(&self, workspace: &Workspace) -> Result<u64> {
        let directory = tempfile::Builder::new().prefix(".agent-memory-").tempdir_in(&workspace.cache)?;
        let id = self.fresh_id();
        let mut spec: Value =
            serde_json::from_slice(&process::output(self.containerd.ctr().args(["oci", "spec"]))?)?;
        let rootfs = directory.path().join("rootfs");
        busybox_tree(&rootfs, &["cat"])?;
        spec["root"]["path"] = json!(rootfs);
        spec["process"]["args"] = json!(["/bin/cat", "/proc/1/status"]);
        let namespaces =
            spec["linux"]["namespaces"].as_array_mut().context("A specification has namespaces")?;
        namespaces.retain(|namespace| namespace["type"] != "pid");
        spec["linux"]["cgroupsPath"] = json!(format!("/default/{id}"));
        let config = directory.path().join("config.json");
        fs::write(&config, spec.to_string())?;
        let mut ctr = self.containerd.ctr();
        ctr.args(["run", "--rm", "--runtime", RUNTIME, "--config"]).arg(&config).arg(&id);
        let status = process::text(&mut ctr)?;
        let name = status.lines().find_map(|line| line.strip_prefix("Name:")).map(str::trim);
        if name != Some("init") && name != Some("kata-agent") {
            bail!("Process 1 is {name:?}, not the agent");
        }
        Ok(field(&status, "VmRSS:").context("A process has memory")? * 1024)
    }

    fn idle(&self, runtime: &str) -> Result<Idle<'c>> {
        self.idle_with(runtime, &[])
    }

    fn idle_with(&self, runtime: &str, options: &[String]) -> Result<Idle<'c>> {
        let id = self.fresh_id();
        // The last `--runtime` counts.
        let mut ctr = self.containerd.ctr_run();
        // A cgroup at the top: runc would leave one for the namespace behind.
        ctr.args(["--runtime", runtime, "--cgroup", &id, "--detach", "--null-io"]).args(options);
        ctr.args([self.image, &id, "sleep", "3600"]);
        backing::obtain(1)?;
        process::output(&mut ctr)?;
        Ok(Idle { containerd: self.containerd, id })
    }

    fn exec(&self, idle: &Idle<'_>) -> Result<f64> {
        let mut ctr = self.containerd.ctr();
        ctr.args(["tasks", "exec", "--exec-id", &self.fresh_id(), &idle.id, "/bin/true"]);
        let begun = Instant::now();
        process::output(&mut ctr)?;
        Ok(begun.elapsed().as_secs_f64())
    }

    /// Sandboxes of all containerds share one directory: the process id keeps ours apart.
    fn fresh_id(&self) -> String {
        format!("bench-{}-{}", std::process::id(), self.count.fetch_add(1, Ordering::Relaxed))
    }
}

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        // What cannot be removed now is found and told when containerd is stopped.
        let _ = process::output(self.containerd.ctr().args(["tasks", "rm", "--force", &self.id]));
        let _ = process::output(self.containerd.ctr().args(["containers", "rm", &self.id]));
    }
}

/// A root file system with these of busybox's programs.
pub(crate) fn busybox_tree(rootfs: &Path, applets: &[&str]) -> Result<()> {
    for directory in ["bin", "dev", "proc", "sys"] {
        fs::create_dir_all(rootfs.join(directory))?;
    }
    fs::copy("/bin/busybox", rootfs.join("bin/busybox")).context("Cannot copy busybox")?;
    for applet in applets {
        symlink("busybox", rootfs.join("bin").join(applet))?;
    }
    Ok(())
}
