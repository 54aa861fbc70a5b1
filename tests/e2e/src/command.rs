//! Programs that a test runs: with a deadline, their output kept.

use std::fmt;
use std::io::Read;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::AsFd;

use crate::failure::fail;

/// Longer than anything takes on a busy machine without hardware virtualisation.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What a program left: its exit code and output.
#[must_use = "look at it, or call `ok` and `done`"]
#[derive(Clone, PartialEq, Eq)]
pub struct Finished {
    /// Exit code; 128 + signal if a signal ended it.
    pub code: i32,
    /// Everything from standard output.
    pub stdout: Vec<u8>,
    /// Everything from standard error.
    pub stderr: Vec<u8>,
}

impl Finished {
    /// Standard output as text, without the end of the last line.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// Standard error as text, without the end of the last line.
    pub fn complaint(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim_end().to_owned()
    }

    /// Fails unless the exit code is 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.with_code(0)
    }

    /// Fails unless the exit code is this one.
    #[track_caller]
    pub fn with_code(self, code: i32) -> Self {
        assert!(self.code == code, "Expected exit code {code}: {self:?}");
        self
    }

    /// Fails unless the program failed with a complaint that holds `cause`.
    #[track_caller]
    pub fn fails_because(&self, cause: &str) {
        assert!(self.code != 0, "Expected a failure because of {cause:?}: {self:?}");
        assert!(self.complaint().contains(cause), "Expected {cause:?} as the cause: {self:?}");
    }

    /// For a result of which only the exit code matters.
    pub fn done(self) {}
}

impl fmt::Debug for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(4096)]).into_owned();
        write!(
            f,
            "exit code {}\n  stdout: {}\n  stderr: {}",
            self.code,
            shown(&self.stdout),
            shown(&self.stderr)
        )
    }
}

/// A program that is running, its three streams in the test's hands; killed if the test ends first.
pub struct Live {
    child: Child,
    name: String,
    /// Writes to its standard input; taken and dropped, this is the end of the file.
    pub stdin: Option<ChildStdin>,
    /// Reads its standard output.
    pub stdout: Option<ChildStdout>,
    /// Reads its standard error.
    pub stderr: Option<ChildStderr>,
}

impl Live {
    pub(crate) fn spawn(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let name = shown(command);
        let mut child = command.spawn().unwrap_or_else(|e| fail(format_args!("Cannot run {name}: {e}")));
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        Self { child, name, stdin, stdout, stderr }
    }

    /// The process id of `ctr` itself.
    pub fn pid(&self) -> i32 {
        Pid::from_child(&self.child).as_raw_nonzero().get()
    }

    /// Waits for this line on standard output, which must be the next one.
    ///
    /// `ctr` forwards the end of standard input only when the workload is up; before, it forgets it.
    #[track_caller]
    pub fn expect_line(&mut self, line: &str) {
        let mut bytes = vec![0; line.len() + 1];
        let stdout = self.stdout.as_mut().expect("standard output was not taken");
        if let Err(e) = stdout.read_exact(&mut bytes) {
            let mut complaint = String::new();
            // Nothing more is to be had from a program that closed its output.
            let _ = self.child.kill();
            let _ = self.stderr.take().map(|mut stream| stream.read_to_string(&mut complaint));
            fail(format_args!("No line {line:?} ({e}) from {}: {complaint}", self.name));
        }
        assert_eq!(String::from_utf8_lossy(&bytes), format!("{line}\n"));
    }

    /// Ends standard input and waits for the program; streams that were taken are missing in the result.
    #[track_caller]
    pub fn finish(self) -> Finished {
        self.finish_within(PATIENCE)
    }

    /// As [`Live::finish`], with another limit.
    #[track_caller]
    pub fn finish_within(mut self, limit: Duration) -> Finished {
        drop(self.stdin.take());
        self.collect(limit)
    }

    /// Waits for the program while its standard input stays open.
    #[track_caller]
    pub fn finish_with_open_stdin(mut self) -> Finished {
        let open = self.stdin.take();
        let finished = self.collect(PATIENCE);
        drop(open);
        finished
    }

    #[track_caller]
    fn collect(&mut self, limit: Duration) -> Finished {
        let stdout = self.stdout.take().map(drained);
        let stderr = self.stderr.take().map(drained);
        let status = exit_within(&mut self.child, limit);
        if status.is_none() {
            // The output so far is worth more than the process.
            let _ = self.child.kill();
        }
        let join = |thread: Option<JoinHandle<Vec<u8>>>| {
            thread.map(|t| t.join().expect("reading does not panic")).unwrap_or_default()
        };
        let (stdout, stderr) = (join(stdout), join(stderr));
        let Some(status) = status else {
            let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
            fail(format_args!("Not done within {limit:?}: {}\n  stdout: {out}\n  stderr: {err}", self.name));
        };
        Finished { code: code_of(status), stdout, stderr }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // Fails if it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end with nothing on its standard input.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Finished {
    Live::spawn(command).finish()
}

/// Waits for a child without holding up the test for ever.
pub(crate) fn exit_within(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    ends_within(Pid::from_child(child), limit)
        .then(|| child.wait().expect("an ended child can be waited for"))
}

/// Whether the process ends, or has ended, within the limit.
pub(crate) fn ends_within(pid: Pid, limit: Duration) -> bool {
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return true };
    let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    let mut polled = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut polled, timeout) {
            Ok(ready) => return ready > 0,
            Err(nix::Error::EINTR) => {}
            Err(e) => fail(format_args!("Cannot wait for process {pid:?}: {e}")),
        }
    }
}

fn drained(mut stream: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is what the test will look at.
        let _ = stream.read_to_end(&mut bytes);
        bytes
    })
}

fn code_of(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

/// The command line as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
