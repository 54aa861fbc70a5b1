//! Processes of a test: all that have its mark in their environment, command line or cgroup, or share its mount namespace,
//! or have their root directory in its `/run`, as virtiofsd does.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::ends_within;

/// A process of the test.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Process id.
    pub pid: i32,
    /// Command line, words separated by blanks; the name in brackets for a zombie.
    pub command: String,
}

impl Process {
    /// Whether the program's file has this name.
    pub fn is(&self, program: &str) -> bool {
        self.program() == program
    }

    /// The CPUs of the host that its thread of this name (the beginning of it) may run on, as the kernel lists them; empty
    /// before there is one.
    pub fn may_run_on(&self, thread: &str) -> String {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid)).into_iter().flatten().flatten();
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        let mut threads = threads.map(|thread| thread.path());
        let found = threads.find(|path| read(&path.join("comm")).starts_with(thread));
        let status = found.map(|path| read(&path.join("status"))).unwrap_or_default();
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        list.unwrap_or_default().trim().to_owned()
    }

    /// The name of the program's file.
    pub(crate) fn program(&self) -> &str {
        let first = self.command.split(' ').next().unwrap_or_default();
        first.rsplit('/').next().unwrap_or_default()
    }

    /// Sends SIGKILL and does not wait.
    pub(crate) fn signal_kill(&self) {
        // It may have ended by itself, which is as good.
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
    }

    /// Sends SIGKILL; returns when the process is gone.
    pub fn kill(&self) {
        self.signal_kill();
        if let Some(pid) = rustix::process::Pid::from_raw(self.pid) {
            ends_within(pid, Duration::from_secs(10));
        }
    }
}

/// All processes of the test with this mark, but for the test itself.
pub(crate) fn marked(mark: &str) -> Vec<Process> {
    let own = fs::read_link("/proc/thread-self/ns/mnt").ok();
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    let run = device(Path::new("/run"));
    let belongs = |directory: &PathBuf| {
        let holds = |file: &str| {
            let bytes = fs::read(directory.join(file)).unwrap_or_default();
            // The mark ends where no digit follows: e2e-7-1 is not e2e-7-12.
            String::from_utf8_lossy(&bytes)
                .match_indices(mark)
                .any(|(at, _)| !bytes.get(at + mark.len()).is_some_and(u8::is_ascii_digit))
        };
        holds("environ")
            || holds("cmdline")
            || holds("cgroup")
            || fs::read_link(directory.join("ns/mnt")).ok().is_some_and(|other| Some(other) == own)
            || (run.is_some() && device(&directory.join("root")) == run)
    };
    all_that(belongs)
}

/// All processes of the machine with this text in their command line, but for the test itself.
pub(crate) fn with_command(text: &str) -> Vec<Process> {
    all_that(|directory| command_line(directory).contains(text))
}

fn all_that(belongs: impl Fn(&PathBuf) -> bool) -> Vec<Process> {
    let myself = std::process::id().to_string();
    let directories = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<Process> = directories
        .filter(|path| path.file_name().is_some_and(|name| *name != *myself))
        .filter_map(|path| Some((path.file_name()?.to_str()?.parse().ok()?, path)))
        .filter(|(_, path)| belongs(path))
        .map(|(pid, path)| Process { pid, command: command_line(&path) })
        .collect();
    found.sort();
    found
}

fn command_line(directory: &Path) -> String {
    let bytes = fs::read(directory.join("cmdline")).unwrap_or_default();
    let words = String::from_utf8_lossy(&bytes).trim_end_matches('\0').replace('\0', " ");
    if !words.is_empty() {
        return words;
    }
    format!("[{}]", fs::read_to_string(directory.join("comm")).unwrap_or_default().trim_end())
}
