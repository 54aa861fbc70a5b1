//! `cargo xtask bench`: every figure the project has a bar for, measured in one run on this machine.
//!
//! Ratios are taken between things measured in the same run, one after the other, so that they hold on other machines
//! too; values are medians.

mod backing;
mod bare;
mod command_line;
mod containers;
mod debian;
mod figure;
mod payload;
mod pods;
mod process_memory;
mod program;
mod scrape;
mod storage;
mod tracing;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::binaries;
use crate::containerd::Containerd;
use crate::images;
use crate::prefix::Prefix;
use crate::progress::Progress;
use crate::setup;
use crate::workspace::Workspace;

use bare::BareGuest;
use containers::Containers;
use figure::{Bar, Figures};
use pods::Pods;
use storage::{BareStorage, Data, Shared, Storage};

/// As many as a node starts after it was drained.
const PODS_AT_ONCE: u32 = 8;

/// A start varies by more than tracing may cost: this often as many are compared as for other figures.
const TRACED_ROUNDS: usize = 3;

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only figures whose name contains one of these
    names: Vec<String>,
    /// Also writes the figures to this file: name → {value, unit, bar, ok}
    #[arg(long)]
    json: Option<PathBuf>,
    /// How often each thing is measured
    #[arg(long, default_value_t = 5)]
    runs: usize,
}

/// Measures, prints a table; fails when a bar is missed.
pub(crate) fn run(args: &Args) -> Result<()> {
    let progress = Progress::new();
    if !rustix::process::geteuid().is_root() {
        bail!("containerd and its containers need root: run `cargo xtask bench` as root");
    }
    let workspace = Workspace::find()?;
    let prefix = setup::stage(&workspace, &progress)?;
    let busybox = images::busybox(&workspace)?;
    let containerd = Containerd::start(&prefix, &workspace.cache, &workspace.log("bench-containerd")?)?;
    let bench = Bench { args, progress: &progress, workspace: &workspace, prefix: &prefix };
    let measured = containerd
        .import(&busybox.file)
        .and_then(|()| bench.all(&Containers::new(&containerd, busybox.name)));
    let stopped = containerd.stop();
    let figures = measured?;
    stopped?;
    println!("{figures}");
    if let Some(file) = &args.json {
        fs::write(file, figures.json()).with_context(|| format!("Cannot write {}", file.display()))?;
    }
    let missed = figures.missed();
    if !missed.is_empty() {
        bail!("Bars missed: {}", missed.join(", "));
    }
    Ok(())
}

struct Bench<'a> {
    args: &'a Args,
    progress: &'a Progress,
    workspace: &'a Workspace,
    prefix: &'a Prefix,
}

impl Bench<'_> {
    fn all(&self, containers: &Containers<'_>) -> Result<Figures> {
        let mut figures = Figures::default();
        self.boot(containers, &mut figures)?;
        self.start(containers, &mut figures)?;
        self.tracing(containers, &mut figures)?;
        self.exec(containers, &mut figures)?;
        self.stdout(containers, &mut figures)?;
        self.memory(containers, &mut figures)?;
        self.pods(containers, &mut figures)?;
        self.storage(containers, &mut figures)?;
        self.command_line(&mut figures)?;
        if self.wants(&["initrd_size"]) {
            let bytes = fs::metadata(self.prefix.initrd())?.len();
            figures.add("initrd_size", figure::mib(bytes), "MiB", Bar::AtMost(6.0));
        }
        Ok(figures)
    }

    /// The bare guest against Debian's kernel, and the whole of `ctr run` against the bare guest.
    fn boot(&self, containers: &Containers<'_>, figures: &mut Figures) -> Result<()> {
        if !self.wants(&["boot_ratio", "run_ratio", "boot_ours", "boot_debian", "run"]) {
            return Ok(());
        }
        let debian = debian::kernel(self.workspace, self.progress)?;
        self.say("boots: ours, Debian's, and `ctr run`, in turn");
        let (ours, reference) = (BareGuest::of(containers)?, BareGuest::plain(&debian));
        let [boot, reference, run, boot_ratio, run_ratio] = self.in_turn(|| {
            let [boot, reference, run] = [ours.boot()?, reference.boot()?, containers.run()?];
            Ok([boot, reference, run, boot / reference, run / boot])
        })?;
        figures.add("boot_ours", boot, "s", Bar::None);
        figures.add("boot_debian", reference, "s", Bar::None);
        figures.add("run", run, "s", Bar::None);
        figures.add("boot_ratio", boot_ratio, "", Bar::AtMost(0.40));
        figures.add("run_ratio", run_ratio, "", Bar::AtMost(1.5));
        Ok(())
    }

    /// Subcommands of `kata-runtime` that need no VM: the slowest of them, and those that start other programs to ask them.
    fn command_line(&self, figures: &mut Figures) -> Result<()> {
        if !self.wants(&["command", "command_check"]) {
            return Ok(());
        }
        self.say("subcommands that need no VM");
        let slowest = command_line::slowest(self.prefix, command_line::OWN, self.args.runs)?;
        figures.add("command", slowest, "ms", Bar::AtMost(20.0));
        let asking = command_line::slowest(self.prefix, command_line::ASKING, self.args.runs)?;
        figures.add("command_check", asking, "ms", Bar::None);
        Ok(())
    }

    /// What the sandbox's own timeline tells.
    fn start(&self, containers: &Containers<'_>, figures: &mut Figures) -> Result<()> {
        if !self.wants(&["host_work", "vmm_ready", "doorbell_to_running"]) {
            return Ok(());
        }
        self.say("starts, phase by phase");
        let timelines = (0..self.args.runs).map(|_| containers.timeline()).collect::<Result<Vec<_>>>()?;
        let median = |phase: fn(&containers::Timeline) -> Result<f64>| -> Result<f64> {
            Ok(figure::median(timelines.iter().map(phase).collect::<Result<Vec<_>>>()?))
        };
        figures.add("host_work", median(|t| t.end_ms("vmm spawned"))?, "ms", Bar::AtMost(60.0));
        figures.add("vmm_ready", median(|t| t.end_ms("vmm control ready"))?, "ms", Bar::None);
        let to_running = |t: &containers::Timeline| {
            Ok(t.end_ms("container started")? - t.end_ms("guest boot until the agent is up")?)
        };
        figures.add("doorbell_to_running", median(to_running)?, "ms", Bar::AtMost(150.0));
        self.say("starts with a seccomp profile and 20 mounts");
        let full =
            (0..self.args.runs).map(|_| containers.timeline_of_a_full_one()).collect::<Result<Vec<_>>>()?;
        let full = figure::median(full.iter().map(to_running).collect::<Result<Vec<_>>>()?);
        figures.add("doorbell_to_running_full", full, "ms", Bar::AtMost(150.0));
        Ok(())
    }

    /// Starts with tracing on against starts with it off.
    fn tracing(&self, containers: &Containers<'_>, figures: &mut Figures) -> Result<()> {
        if !self.wants(&["tracing_ratio"]) {
            return Ok(());
        }
        self.say("`ctr run`, traced and not, in turn");
        let traced = tracing::Traced::new(self.prefix)?;
        let configuration = traced.configuration();
        let rounds = (0..TRACED_ROUNDS).map(|_| {
            let [on, off] =
                self.in_turn(|| Ok([containers.run_configured(&configuration)?, containers.run()?]))?;
            Ok(on / off)
        });
        let ratios = rounds.collect::<Result<Vec<_>>>()?;
        if traced.bytes() == 0 {
            bail!("No span has arrived: what was measured was not traced");
        }
        figures.add("tracing_ratio", figure::median(ratios), "", Bar::AtMost(1.02));
        Ok(())
    }

    fn exec(&self, containers: &Containers<'_>, figures: &mut Figures) -> Result<()> {
        if !self.wants(&["exec_ratio", "exec"]) {
            return Ok(());
        }
        self.say("execs, ours and runc's in turn");
        let (ours, runc) = containers.execs(self.args.runs * 3)?;
        let [ours, runc] = [ours, runc].map(figure::median);
        figures.add("exec", ours * 1000.0, "ms", Bar::None);
        figures.add("exec_runc", runc * 1000.0, "ms", Bar::None);
        figures.add("exec_ratio", ours / runc, "", Bar::AtMost(3.0));
        Ok(())
    }

    fn stdout(&self, containers: &Containers<'_>, figures: &mut Figures) -> Result<()> {
        if !self.wants(&["stdout_ratio", "stdout"]) {
            return Ok(());
        }
        self.say("1 GB of standard output, and the same through a bare virtio-serial port, in turn");
        let port = BareGuest::of(containers)?;
        let (mut streams, mut ports) = (Vec::new(), Vec::new());
        for _ in 0..self.args.runs.div_ceil(2) {
            ports.push(port.throughput()?);
            streams.push(containers.stdout_throughput()?);
        }
        let [stream, port] = [streams, ports].map(figure::median);
        figures.add("stdout", stream, "MB/s", Bar::None);
        figures.add("stdout_bare_port", port, "MB/s", Bar::None);
        figures.add("stdout_ratio", stream / port, "", Bar::AtLeast(0.7));
        Ok(())
    }

    fn memory(&self, containers: &Containers<'_>, figures: &mut Figures) -> Result<()> {
        if self.wants(&["shim_pss", "shim_threads"]) {
            self.say("memory of the shim");
            let shim = containers.shim_of_an_idle_container()?;
            figures.add("shim_pss", figure::mib(shim.pss), "MiB", Bar::AtMost(8.0));
            figures.add("shim_threads", f64::from(shim.threads), "", Bar::AtMost(6.0));
        }
        if self.wants(&["agent_rss"]) {
            self.say("memory of the agent");
            let resident = containers.agent_resident_memory(self.workspace)?;
            figures.add("agent_rss", figure::mib(resident), "MiB", Bar::AtMost(8.0));
        }
        if self.wants(&["scrape_bytes", "scrape_cpu", "scrape_wall"]) {
            self.say("scrapes of a sandbox's metrics");
            let scrape = containers.scrape()?;
            figures.add("scrape_bytes", scrape.bytes as f64, "B", Bar::AtMost(10_000.0));
            figures.add("scrape_cpu", scrape.cpu_ms, "ms", Bar::AtMost(5.0));
            figures.add("scrape_wall", scrape.wall_ms, "ms", Bar::None);
        }
        Ok(())
    }

    /// Whole pods, against bare guests and against runc.
    fn pods(&self, containers: &Containers<'_>, figures: &mut Figures) -> Result<()> {
        let starts = self.wants(&["pod_ratio", "pod", "parallel_ratio", "parallel"]);
        let second = self.wants(&["second_ratio", "second_container"]);
        let network = self.wants(&["network_ratio", "network"]);
        let memory = self.wants(&["idle_pod"]);
        let idle = self.wants(&["idle_cpu", "idle_wakeups"]);
        let hotplug = self.wants(&["hotplug"]);
        let update = self.wants(&["update"]);
        if !(starts || second || network || memory || idle || hotplug || update) {
            return Ok(());
        }
        images::pause(self.workspace)?;
        let probe = binaries::probe(self.workspace, self.progress)?;
        let mut ours = Pods::ours(&self.programs(&probe))?;
        if starts {
            self.pod_starts(&BareGuest::of(containers)?, &mut ours, figures)?;
        }
        if second {
            let runc = Pods::of_runc(&self.programs(&probe))?;
            self.second_containers(&mut ours, runc, figures)?;
        }
        if network {
            self.network(&mut ours, figures)?;
        }
        if memory {
            self.idle_pod(&mut ours, figures)?;
        }
        if idle {
            self.idleness(&mut ours, figures)?;
        }
        if update {
            self.update(&mut ours, figures)?;
        }
        if hotplug {
            self.hotplug(&mut ours, figures)?;
        }
        ours.stop()
    }

    fn update(&self, ours: &mut Pods, figures: &mut Figures) -> Result<()> {
        self.say("updates of a container's limits");
        let [seconds] = self.in_turn(|| Ok([ours.update()?]))?;
        figures.add("update", seconds * 1000.0, "ms", Bar::AtMost(20.0));
        Ok(())
    }

    /// The last one with its containerd, whose VMs it makes smaller.
    fn hotplug(&self, ours: &mut Pods, figures: &mut Figures) -> Result<()> {
        self.say("a VM that grows by one CPU and 1 GiB");
        let [seconds] = self.in_turn(|| Ok([ours.hotplug()?]))?;
        figures.add("hotplug", seconds * 1000.0, "ms", Bar::AtMost(300.0));
        Ok(())
    }

    /// Once: it takes a minute.
    fn idleness(&self, ours: &mut Pods, figures: &mut Figures) -> Result<()> {
        self.say("an idle pod, for a minute");
        let idle = ours.idleness()?;
        figures.add("idle_cpu", idle.cpu_ms, "ms/s", Bar::AtMost(2.0));
        figures.add("idle_wakeups", idle.wakeups, "1/s", Bar::AtMost(1.0));
        Ok(())
    }

    fn idle_pod(&self, ours: &mut Pods, figures: &mut Figures) -> Result<()> {
        self.say("memory of an idle pod");
        let idle = ours.footprint()?;
        figures.add("idle_pod_shim", figure::mib(idle.shim), "MiB", Bar::AtMost(8.0));
        figures.add("idle_pod_virtiofsd", figure::mib(idle.virtiofsd), "MiB", Bar::None);
        figures.add("idle_pod_vmm", figure::mib(idle.vmm), "MiB", Bar::None);
        figures.add("idle_pod_guest", figure::mib(idle.guest), "MiB", Bar::None);
        Ok(())
    }

    fn network(&self, ours: &mut Pods, figures: &mut Figures) -> Result<()> {
        self.say(
            "iperf3 from a container to the host, through its pod's network and over its TAP device alone",
        );
        let measure = || ours.network_throughput().map(|measured| [measured.network, measured.tap]);
        let [network, tap] = self.in_turn(measure)?.map(|rate| rate / 1e6);
        figures.add("network", network, "Mbit/s", Bar::None);
        figures.add("network_tap", tap, "Mbit/s", Bar::None);
        figures.add("network_ratio", network / tap, "", Bar::AtLeast(0.95));
        Ok(())
    }

    fn pod_starts(&self, bare: &BareGuest, ours: &mut Pods, figures: &mut Figures) -> Result<()> {
        self.say("bare boots, pods, and eight pods at once, in turn");
        let cores = u32::try_from(std::thread::available_parallelism()?.get())?;
        let turns = f64::from(PODS_AT_ONCE) / f64::from(cores.min(PODS_AT_ONCE));
        let [start, at_once, ratio, parallel_ratio] = self.in_turn(|| {
            let [boot, start] = [bare.boot()?, ours.start()?];
            let at_once = ours.start_at_once(PODS_AT_ONCE)?;
            Ok([start, at_once, start / boot, at_once / (start * turns)])
        })?;
        figures.add("pod", start, "s", Bar::None);
        figures.add("pod_ratio", ratio, "", Bar::AtMost(1.6));
        figures.add("parallel", at_once, "s", Bar::None);
        figures.add("parallel_ratio", parallel_ratio, "", Bar::AtMost(1.3));
        Ok(())
    }

    fn second_containers(&self, ours: &mut Pods, mut runc: Pods, figures: &mut Figures) -> Result<()> {
        self.say("second containers, ours and runc's in turn");
        let times = self.in_turn(|| Ok([ours.second_container()?, runc.second_container()?]))?;
        runc.stop()?;
        let [ours, runc] = times;
        figures.add("second_container", ours * 1000.0, "ms", Bar::None);
        figures.add("second_container_runc", runc * 1000.0, "ms", Bar::None);
        figures.add("second_ratio", ours / runc, "", Bar::AtMost(3.0));
        Ok(())
    }

    /// Disks, shared directories and what is started from them.
    fn storage(&self, containers: &Containers<'_>, figures: &mut Figures) -> Result<()> {
        let share = self.wants(&["share_read_ratio", "share_write_ratio", "metadata_ratio"]);
        let block = self.wants(&["block_read_ratio"]);
        let start = self.wants(&["erofs_start_ratio", "start_on_erofs", "start_on_share"]);
        let cache = self.wants(&["second_pod_cache"]);
        if !(share || block || start || cache) {
            return Ok(());
        }
        let probe = binaries::probe(self.workspace, self.progress)?;
        let programs = self.programs(&probe);
        let mut ours = Storage::ours(&programs)?;
        if share || block {
            let mut runc = Storage::of_runc(&programs)?;
            let bare = BareStorage::of(containers, &programs)?;
            let data = Data::new(&programs)?;
            if share {
                self.shared_files(&data, (&mut ours, &mut runc, &bare), figures)?;
            }
            if block {
                self.disks(&data, (&mut ours, &mut runc, &bare), figures)?;
            }
            runc.stop()?;
        }
        if start {
            self.say("starts on layers of EROFS and on the share, in turn");
            let [erofs, share, ratio] = self.in_turn(|| {
                let [erofs, share] = [ours.start_on_erofs()?, ours.start_on_share()?];
                Ok([erofs, share, erofs / share])
            })?;
            figures.add("start_on_erofs", erofs, "s", Bar::None);
            figures.add("start_on_share", share, "s", Bar::None);
            figures.add("erofs_start_ratio", ratio, "", Bar::AtMost(1.0));
        }
        if cache {
            self.say("page cache of two pods of one image");
            let pages = ours.cache()?;
            let share = |pages: u32, of: u32| f64::from(pages) / f64::from(of);
            figures.add("first_pod_cache", share(pages.first, pages.image), "", Bar::None);
            let more = pages.second.saturating_sub(pages.first);
            figures.add("second_pod_cache", share(more, pages.image), "", Bar::AtMost(0.05));
        }
        ours.stop()
    }

    fn shared_files(
        &self,
        data: &Data,
        (ours, runc, bare): (&mut Storage, &mut Storage, &BareStorage),
        figures: &mut Figures,
    ) -> Result<()> {
        self.say("files on the share, ours, a bare guest's and runc's in turn");
        let measure = || {
            let [ours, bare, runc] = [ours.share(data)?, bare.share(data)?, runc.share(data)?];
            let of_each = |work: fn(&Shared) -> f64| [work(&ours), work(&bare), work(&runc)];
            let [read, write, small] =
                [of_each(|all| all.read), of_each(|all| all.write), of_each(|all| all.small)];
            Ok([read[0], read[1], read[2], write[0], write[1], write[2], small[0], small[1], small[2]])
        };
        let took = self.in_turn(measure)?;
        let names = [
            ["share_read", "share_read_bare", "share_read_runc", "share_read_ratio"],
            ["share_write", "share_write_bare", "share_write_runc", "share_write_ratio"],
            ["metadata", "metadata_bare", "metadata_runc", "metadata_ratio"],
        ];
        for ((took, names), bar) in took.chunks(3).zip(names).zip([0.95, 0.95, 0.9]) {
            add_speeds(names, took, bar, figures);
        }
        Ok(())
    }

    fn disks(
        &self,
        data: &Data,
        (ours, runc, bare): (&mut Storage, &mut Storage, &BareStorage),
        figures: &mut Figures,
    ) -> Result<()> {
        self.say("reads at random from a root on a disk, ours, a bare guest's and runc's in turn");
        let took = self.in_turn(|| Ok([ours.block(data)?, bare.block(data)?, runc.block(data)?]))?;
        let names = ["block_read", "block_read_bare", "block_read_runc", "block_read_ratio"];
        add_speeds(names, &took, 0.95, figures);
        Ok(())
    }

    /// What measuring programs need.
    fn programs<'a>(&'a self, probe: &'a Path) -> program::Bench<'a> {
        program::Bench { workspace: self.workspace, prefix: self.prefix, probe }
    }

    /// The medians of what is measured one after the other; the first of each only warms the caches.
    fn in_turn<const N: usize>(&self, mut measure: impl FnMut() -> Result<[f64; N]>) -> Result<[f64; N]> {
        measure()?;
        let rounds = (0..self.args.runs).map(|_| measure()).collect::<Result<Vec<_>>>()?;
        Ok(std::array::from_fn(|which| figure::median(rounds.iter().map(|round| round[which]).collect())))
    }

    /// Whether one of these figures was asked for.
    fn wants(&self, figures: &[&str]) -> bool {
        let names = &self.args.names;
        names.is_empty()
            || figures.iter().any(|figure| names.iter().any(|name| figure.contains(name.as_str())))
    }

    fn say(&self, what: &str) {
        self.progress.line("bench", what);
    }
}

/// What took ours, the bare guest's and runc's so many seconds, and how fast ours was for the bare guest's.
fn add_speeds(names: [&'static str; 4], took: &[f64], bar: f64, figures: &mut Figures) {
    for (name, seconds) in names.into_iter().zip(took) {
        figures.add(name, *seconds, "s", Bar::None);
    }
    figures.add(names[3], took[1] / took[0], "", Bar::AtLeast(bar));
}
