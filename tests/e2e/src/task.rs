//! A running container, and what can be done to it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::command::{Finished, Live, run};
use crate::containerd::Containerd;
use crate::failure::{eventually, fail};
use crate::processes::Process;
use crate::terminal::Terminal;

/// A container made by [`crate::Recipe::start`].
pub struct Container<'c> {
    containerd: &'c Containerd,
    id: String,
}

impl<'c> Container<'c> {
    pub(crate) fn new(containerd: &'c Containerd, id: String) -> Self {
        Self { containerd, id }
    }

    /// Its id, which is also the sandbox's.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its bundle.
    pub(crate) fn bundle(&self) -> PathBuf {
        self.containerd.bundle(&self.id)
    }

    /// A program to be run in it.
    pub fn exec<S: Into<String>>(&self, words: impl IntoIterator<Item = S>) -> ExecRecipe<'_> {
        let words = words.into_iter().map(Into::into).collect();
        ExecRecipe { container: self, id: self.containerd.fresh_name(), options: Vec::new(), words }
    }

    /// A line for its shell, to be run in it.
    pub fn exec_shell(&self, line: &str) -> ExecRecipe<'_> {
        self.exec(["/bin/sh", "-c", line])
    }

    /// Runs a line in its shell, which must succeed; returns what it printed.
    #[track_caller]
    pub fn shell(&self, line: &str) -> String {
        self.exec_shell(line).run().ok().text()
    }

    /// `ctr tasks <verb> [arguments] <id>`.
    #[track_caller]
    pub fn task(&self, verb: &str, arguments: &[&str]) -> Finished {
        let arguments = arguments.iter().copied().chain([self.id.as_str()]);
        run(self.containerd.command().args(["tasks", verb]).args(arguments))
    }

    /// Signals the container's first process.
    #[track_caller]
    pub fn signal(&self, signal: &str) {
        self.task("kill", &["--signal", signal]).ok().done();
    }

    /// `RUNNING`, `STOPPED`, `PAUSED` or `CREATED`; empty if there is no such task.
    #[track_caller]
    pub fn status(&self) -> String {
        let list = self.containerd.ctr(["tasks", "ls"]).text();
        let lines = list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut mine = lines.filter(|words| words.first() == Some(&self.id.as_str()));
        mine.next().and_then(|words| words.get(2).map(|status| (*status).to_owned())).unwrap_or_default()
    }

    /// Returns when the container's first process has ended.
    #[track_caller]
    pub fn wait_until_stopped(&self) {
        eventually("the container stops", Duration::from_secs(30), || self.status() == "STOPPED");
    }

    /// `ctr tasks delete`, `ctr containers rm`; returns the exit code of the workload as the first told it.
    #[track_caller]
    pub fn delete(&self) -> i32 {
        let deleted = self.task("delete", &[]).ok();
        run(self.containerd.command().args(["containers", "rm", &self.id])).ok().done();
        let told = deleted.complaint();
        let code = told.split_once("non-zero exit code ").map(|(_, rest)| rest.trim_end_matches('"'));
        assert!(code.is_some() || told.is_empty(), "Cannot delete the task: {deleted:?}");
        code.map_or(0, |code| code.parse().expect("ctr tells the code as a number"))
    }

    /// Kills and deletes it; returns when its processes on the host are gone, which `ctr` waits for at most 3 s.
    #[track_caller]
    pub fn remove(&self) {
        self.task("delete", &["--force"]).done();
        run(self.containerd.command().args(["containers", "rm", &self.id])).ok().done();
        eventually("its processes are gone", Duration::from_secs(20), || self.processes().is_empty());
    }

    /// Those that its runtime has on the host.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        let all = self.containerd.processes().into_iter();
        all.filter(|process| names(&process.command, &self.id)).collect()
    }

    /// The directory on the host in which its changes to the root file system are.
    #[track_caller]
    pub fn changes_on_host(&self) -> PathBuf {
        let mount = self.containerd.ctr(["snapshots", "mounts", "/x", self.id()]).ok().text();
        let upper = mount.split([',', ' ']).find_map(|word| word.strip_prefix("upperdir="));
        upper.map_or_else(|| fail(format_args!("No upper directory in: {mount}")), PathBuf::from)
    }
}

/// A program to be run in a running container.
#[must_use = "it does nothing until it is run"]
pub struct ExecRecipe<'c> {
    container: &'c Container<'c>,
    id: String,
    options: Vec<String>,
    words: Vec<String>,
}

impl ExecRecipe<'_> {
    /// An option of `ctr tasks exec` with its value.
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.options.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// The id of the process, if a test needs to know it.
    pub fn id(mut self, id: &str) -> Self {
        id.clone_into(&mut self.id);
        self
    }

    /// To the end, with nothing on standard input.
    #[track_caller]
    pub fn run(self) -> Finished {
        run(&mut self.ctr_exec(&[]))
    }

    /// As [`ExecRecipe::run`], with everything that it prints as standard output ([`Containerd::run_logged`]).
    #[track_caller]
    pub(crate) fn run_logged(self) -> Finished {
        self.container.containerd.run_logged(|log| self.ctr_exec(&["--log-uri", log]))
    }

    /// Its streams in the test's hands.
    #[track_caller]
    pub fn attach(self) -> Live {
        Live::spawn(&mut self.ctr_exec(&[]))
    }

    /// On a terminal of this size.
    #[track_caller]
    pub fn terminal(self, columns: u16, rows: u16) -> Terminal {
        Terminal::open(&self.ctr_exec(&["--tty"]), columns, rows)
    }

    fn ctr_exec(&self, manner: &[&str]) -> Command {
        let mut command = self.container.containerd.command();
        command.args(["tasks", "exec", "--exec-id", &self.id]).args(manner).args(&self.options);
        command.arg(&self.container.id).args(&self.words);
        command
    }
}

/// Whether `id` is in it as a whole: directories of a test begin with what its ids begin with, and 12 begins with 1.
fn names(command: &str, id: &str) -> bool {
    command.match_indices(id).any(|(at, _)| {
        let next = command[at + id.len()..].chars().next();
        !next.is_some_and(|next| next.is_ascii_alphanumeric())
    })
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn an_id_is_found_as_a_whole() {
        assert!(names("shim -id e2e-1-0-7 -address x", "e2e-1-0-7"));
        assert!(names("--sock /run/kata/e2e-1-0-7/fs.sock", "e2e-1-0-7"));
        assert!(!names("nydusd --record /var/tmp/e2e-1-0-7wwIyJ/record", "e2e-1-0-7"));
        assert!(!names("shim -id e2e-1-0-71", "e2e-1-0-7"));
    }
}
