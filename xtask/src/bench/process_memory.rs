//! Processes as `/proc` shows them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// What a process takes.
pub(crate) struct Usage {
    /// Proportional share of memory, in bytes.
    pub(crate) pss: u64,
    /// Number of threads.
    pub(crate) threads: u32,
}

impl Usage {
    /// Of a process directory in `/proc`.
    pub(crate) fn of(process: &Process) -> Result<Self> {
        let rollup = fs::read_to_string(process.directory.join("smaps_rollup"))?;
        let status = fs::read_to_string(process.directory.join("status"))?;
        let threads = field(&status, "Threads:").context("A process has threads")?;
        let pss = field(&rollup, "Pss:").context("A process has memory")? * 1024;
        Ok(Self { pss, threads: u32::try_from(threads)? })
    }
}

/// A process found by its command line.
pub(crate) struct Process {
    directory: PathBuf,
    /// Its words.
    pub(crate) command: Vec<String>,
}

impl Process {
    /// Its directory in `/proc`.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }
}

/// The process whose program has this file name and one of whose words satisfies `matches`.
pub(crate) fn find(program: &str, matches: impl Fn(&str) -> bool) -> Result<Process> {
    let directories = fs::read_dir("/proc")?.flatten().map(|entry| entry.path());
    let mut processes = directories.filter_map(|directory| {
        let words = fs::read(directory.join("cmdline")).ok()?;
        let words =
            String::from_utf8_lossy(&words).trim_end_matches('\0').split('\0').map(str::to_owned).collect();
        Some(Process { directory, command: words })
    });
    let is_it = |process: &Process| {
        let name = process.command[0].rsplit('/').next();
        name == Some(program) && process.command.iter().any(|word| matches(word))
    };
    processes.find(is_it).with_context(|| format!("There is no {program} for the container"))
}

/// The number behind a name at the beginning of a line.
pub(crate) fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}
