//! `cargo xtask demo`: the main job, shown on a machine where nothing is prepared.
//!
//! Real containerd, real images, real VMs: a busybox that tells its kernel, a Debian whose python3 hashes a file of
//! the host, and a table of where the start time went.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::containerd::{self, Containerd};
use crate::images::{self, Image};
use crate::prefix::Prefix;
use crate::process;
use crate::progress::Progress;
use crate::setup;
use crate::workspace::Workspace;

const INPUT_MIB: usize = 200;

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Sets everything up, then runs the three parts.
pub(crate) fn run(_args: &Args) -> Result<()> {
    let progress = Progress::new();
    if !rustix::process::geteuid().is_root() {
        bail!("containerd and its containers need root: run `cargo xtask demo` as root");
    }
    let workspace = Workspace::find()?;
    let prefix = setup::stage(&workspace, &progress)?;
    let images = [images::busybox(&workspace)?, images::debian(&workspace, &progress)?];
    let before = containerd::sandboxes();

    let log = workspace.log("demo-containerd")?;
    let containerd = Containerd::start(&prefix, &workspace.cache, &log)?;
    progress.line(
        "containerd",
        format_args!("private, at {} (log: {})", containerd.address().display(), log.display()),
    );
    let demo = Demo { containerd: &containerd, prefix: &prefix, workspace: &workspace };
    let shown = demo.all(&images);
    let stopped = containerd.stop();
    shown?;
    stopped?;
    if containerd::sandboxes().len() > before.len() {
        bail!("A sandbox was left behind: {:?}", containerd::sandboxes());
    }
    progress.line("demo", "all as it should be; containerd stopped, nothing left behind");
    Ok(())
}

struct Demo<'a> {
    containerd: &'a Containerd,
    prefix: &'a Prefix,
    workspace: &'a Workspace,
}

impl Demo<'_> {
    fn all(&self, [busybox, debian]: &[Image; 2]) -> Result<()> {
        self.containerd.import(&busybox.file)?;
        let directory = tempfile::Builder::new().prefix(".input-").tempdir_in(&self.workspace.cache)?;
        let input = directory.path().join("input.bin");
        std::thread::scope(|scope| {
            // What the second part needs is prepared while the first one runs.
            let prepared = scope.spawn(|| {
                write_input(&input)?;
                self.containerd.import(&debian.file)
            });
            self.kernels(busybox)?;
            prepared.join().expect("the preparation does not panic")
        })?;
        self.hash(debian, &input)?;
        self.timeline(busybox)
    }

    /// Part 1: two kernels side by side, and what separates them.
    fn kernels(&self, busybox: &Image) -> Result<()> {
        println!("\n1. A container with a kernel of its own\n");
        println!("   $ ctr run --rm --runtime {} {} demo-uname uname -a", containerd::RUNTIME, busybox.name);
        let mut ctr = self.containerd.ctr_run();
        let guest = process::text(ctr.args(["--rm", busybox.name, &id("uname"), "uname", "-a"]))?;
        let host = process::text(Command::new("uname").arg("-a"))?;
        println!("   host   {host}\n   guest  {guest}");
        let [host, guest] = [host, guest].map(|text| text.split(' ').nth(2).map(str::to_owned));
        if guest.is_none() || host == guest {
            bail!("The container runs on the host's kernel {host:?}");
        }
        let check = self.containerd.program(&self.prefix.bin().join("kata-runtime"));
        println!("   {}", separation(&check_report(check)?)?);
        Ok(())
    }

    /// Part 2: real work on a file of the host.
    fn hash(&self, debian: &Image, input: &Path) -> Result<()> {
        println!(
            "\n2. Debian's python3 hashes a file of the host ({INPUT_MIB} MiB, bind-mounted read-only)\n"
        );
        let host = process::text(Command::new("sha256sum").arg(input))?;
        let host = host.split(' ').next().unwrap_or_default();
        println!("   host   sha256sum  {host}");
        let mount = format!("type=bind,src={},dst=/input.bin,options=rbind:ro", input.display());
        let mut ctr = self.containerd.ctr_run();
        ctr.args(["--rm", "--mount", &mount, debian.name, &id("hash"), "python3", "-c", HASH]);
        let begun = Instant::now();
        let guest = process::text(&mut ctr)?;
        println!("   guest  python3    {guest}");
        if host != guest {
            bail!("The digests differ");
        }
        println!("   equal, {:.1} s with the VM's start and end", begun.elapsed().as_secs_f64());
        Ok(())
    }

    /// Part 3: phase by phase, from a sandbox that still lives.
    fn timeline(&self, busybox: &Image) -> Result<()> {
        println!("\n3. Where the start time went\n");
        let name = id("timeline");
        let mut ctr = self.containerd.ctr_run();
        process::output(ctr.args(["--detach", busybox.name, &name, "sleep", "3600"]))?;
        let mut program = self.containerd.program(&self.prefix.bin().join("kata-runtime"));
        let table = process::text(program.args(["timeline", &name]))?;
        for line in table.lines() {
            println!("   {line}");
        }
        process::output(self.containerd.ctr().args(["tasks", "rm", "--force", &name]))?;
        process::output(self.containerd.ctr().args(["containers", "rm", &name]))?;
        println!();
        Ok(())
    }
}

const HASH: &str = "import hashlib
digest = hashlib.sha256()
with open('/input.bin', 'rb') as file:
    while block := file.read(1 << 20):
        digest.update(block)
print(digest.hexdigest())";

/// Sandboxes of all containerds share one directory, so a name must not be taken by another demo.
fn id(part: &str) -> String {
    format!("demo-{part}-{}", std::process::id())
}

/// The verdict may be "no" for reasons that do not matter here; what is read from the report is.
fn check_report(mut check: Command) -> Result<serde_json::Value> {
    let output = check.args(["check", "--json"]).output().context("Cannot run kata-runtime")?;
    serde_json::from_slice(&output.stdout).with_context(|| {
        format!("`kata-runtime check --json` gave no JSON: {}", String::from_utf8_lossy(&output.stderr))
    })
}

/// Which VMM and accelerator, and why.
fn separation(report: &serde_json::Value) -> Result<String> {
    let checks = report["checks"].as_array().context("`kata-runtime check --json` lists no checks")?;
    let detail = |name: &str| {
        let check = checks.iter().find(|check| check["name"] == name);
        let detail = check.and_then(|check| check["detail"].as_str());
        detail.with_context(|| format!("`kata-runtime check --json` does not tell about {name}"))
    };
    Ok(format!("VMM    QEMU {}\n   with   {}", detail("QEMU")?, detail("accelerator")?))
}

/// Bytes without a pattern (xorshift64) in blocks that differ by their number; the same every time.
fn write_input(path: &Path) -> Result<()> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    });
    let mut block: Vec<u8> = words.take((1 << 20) / 8).flat_map(u64::to_le_bytes).collect();
    let mut file = File::create(path)?;
    for number in 0..INPUT_MIB {
        block[..8].copy_from_slice(&(number as u64).to_le_bytes());
        file.write_all(&block).context("Cannot write the demo's input")?;
    }
    Ok(())
}
