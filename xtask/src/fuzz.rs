//! `cargo xtask fuzz`: the fuzz targets of `fuzz/`, each for as long as asked; `cargo xtask test` runs each for a few
//! seconds.
//!
//! They are built like `cargo fuzz build --sanitizer none` does it, which needs no nightly compiler: the code is
//! watched by LLVM's coverage, and a panic, an overflow, too much memory or time is a finding. Inputs that reach
//! something new are kept in `target/fuzz/corpus`, findings in `target/fuzz/findings`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, bail};

use crate::packages;
use crate::process;
use crate::progress::Progress;
use crate::workspace::Workspace;

/// Seconds per target that find what is broken outright.
const SMOKE: u32 = 4;
/// Seconds after which one input counts as a hang.
const HANG: u32 = 20;
/// A target needs some 100 MiB with what libFuzzer keeps.
const MEMORY_MIB: u32 = 1024;

/// Build scripts and procedural macros must not be watched, so flags are for an explicit target.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const RUSTFLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// One target; all of them, one for each CPU at a time, if none is named
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Builds the targets and runs them.
pub(crate) fn run(args: &Args) -> Result<()> {
    let (workspace, progress) = (Workspace::find()?, Progress::new());
    packages::ensure(&workspace, &progress)?;
    let mut targets = targets(&workspace.root)?;
    if let Some(chosen) = &args.target {
        let all = targets.join(", ");
        targets.retain(|target| target == chosen);
        if targets.is_empty() {
            bail!("There is no fuzz target {chosen}; choose one of {all}");
        }
    }
    Fuzzer { workspace: &workspace, progress: &progress, seconds: args.seconds }.run(&targets)
}

/// Runs every target for a few seconds; what it needs is set up already.
pub(crate) fn smoke(workspace: &Workspace, progress: &Progress) -> Result<()> {
    Fuzzer { workspace, progress, seconds: SMOKE }.run(&targets(&workspace.root)?)
}

/// The targets' names.
fn targets(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root.join("fuzz/fuzz_targets"))? {
        let path = entry?.path();
        names.extend(path.file_stem().and_then(|name| name.to_str()).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

struct Fuzzer<'a> {
    workspace: &'a Workspace,
    progress: &'a Progress,
    seconds: u32,
}

impl Fuzzer<'_> {
    /// Builds all, and runs these, one for each CPU at a time; all are run even if one fails.
    fn run(&self, targets: &[String]) -> Result<()> {
        self.build()?;
        let queue = Mutex::new(targets.iter());
        let failed = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(|| {
                    while let Some(target) = next(&queue) {
                        if let Err(error) = self.fuzz(target) {
                            self.progress.line("fuzz", format_args!("{target} FAILED: {error:#}"));
                            failed.lock().expect("nobody panics with it").push(target.as_str());
                        }
                    }
                });
            }
        });
        let failed = failed.into_inner().expect("nobody panics with it");
        if !failed.is_empty() {
            bail!(
                "Fuzzing found something in {}; mend it, and keep the inputs ({}) in fuzz/seeds",
                failed.join(", "),
                self.home().join("findings").display()
            );
        }
        Ok(())
    }

    fn home(&self) -> PathBuf {
        self.workspace.target.join("fuzz")
    }

    fn build(&self) -> Result<()> {
        let log = self.workspace.log("fuzz")?;
        self.progress.line("fuzz", format_args!("building what has changed (log: {})", log.display()));
        let mut cargo = self.workspace.cargo();
        cargo.args(["build", "--package", "kata-fuzz", "--bins", "--locked", "--profile", "fuzz"]);
        cargo.args(["--target", TARGET]).arg("--target-dir").arg(self.home());
        cargo.env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", RUSTFLAGS);
        self.progress
            .watch("fuzz", &log, || process::logged(&mut cargo, &log))
            .context("Cannot build the fuzz targets")
    }

    fn fuzz(&self, target: &str) -> Result<()> {
        let home = self.home();
        let (corpus, findings) = (home.join("corpus").join(target), home.join("findings").join(target));
        let seeds = self.workspace.root.join("fuzz/seeds").join(target);
        for folder in [&corpus, &findings] {
            fs::create_dir_all(folder).with_context(|| format!("Cannot make {}", folder.display()))?;
        }
        let log = self.workspace.log(&format!("fuzz-{target}"))?;
        fs::write(&log, "")?;
        let mut fuzzer = Command::new(home.join(TARGET).join("fuzz").join(target));
        fuzzer.arg(&corpus).args(seeds.is_dir().then_some(&seeds));
        fuzzer.arg(format!("-max_total_time={}", self.seconds));
        fuzzer.arg(format!("-timeout={HANG}")).arg(format!("-rss_limit_mb={MEMORY_MIB}"));
        fuzzer.arg(format!("-artifact_prefix={}/", findings.display())).arg("-print_final_stats=1");
        process::logged(&mut fuzzer, &log)?;
        let said = fs::read_to_string(&log)?;
        self.progress.line("fuzz", format_args!("{target}: {}", figures(&said).context("It did not run")?));
        Ok(())
    }
}

fn next<'a>(queue: &Mutex<std::slice::Iter<'a, String>>) -> Option<&'a String> {
    queue.lock().expect("nobody panics with it").next()
}

/// How much was tried, in libFuzzer's words about itself.
fn figures(said: &str) -> Option<String> {
    let figure = |name: &str| {
        let line = said.lines().rev().find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name))?;
        line.trim_start_matches(':').trim().parse::<u64>().ok()
    };
    let (runs, speed) = (figure("number_of_executed_units")?, figure("average_exec_per_sec")?);
    Some(format!("{runs} inputs, {speed} a second, nothing found"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{figures, targets};

    #[test]
    fn what_was_tried_is_read_from_the_end_of_the_log() {
        let said = "#5 DONE\nstat::number_of_executed_units: 500\nstat::average_exec_per_sec:     125\n";
        assert_eq!(figures(said).as_deref(), Some("500 inputs, 125 a second, nothing found"));
        assert_eq!(figures("nothing"), None);
    }

    #[test]
    fn every_target_is_declared_and_every_seed_has_one() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let targets = targets(&root).unwrap();
        let manifest = std::fs::read_to_string(root.join("fuzz/Cargo.toml")).unwrap();
        for target in &targets {
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target}");
        }
        assert_eq!(manifest.matches("[[bin]]").count(), targets.len());
        for seeds in std::fs::read_dir(root.join("fuzz/seeds")).unwrap() {
            assert!(targets.contains(&seeds.unwrap().file_name().into_string().unwrap()));
        }
    }
}
