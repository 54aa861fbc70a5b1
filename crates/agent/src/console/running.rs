//! A shell that runs: its streams, its cgroup and its end.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kata_protocol::console::{Size, Start};
use kata_protocol::oci::LinuxResources;
use nix::unistd::Pid;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use tokio::net::unix::pipe;

use super::shell::Shell;
use super::{ConsoleError, Consoles};
use crate::cgroup::{Cgroup, CgroupError};
use crate::jail;
use crate::reaper::Exit;
use crate::signals::Signal;
use crate::stdio::ends::{self, Pty, Reader, Writer};

/// Where programs are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long a shell that was hung up may take to tidy up.
const HANG_UP: Duration = Duration::from_secs(2);

/// A shell. Its session is its own.
#[derive(Debug)]
pub(super) struct Running {
    pid: Pid,
    pub(super) exit: Exit,
    cgroup: Option<Cgroup>,
}

/// The agent's ends of its streams.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) input: Writer,
    pub(super) output: Reader,
    pub(super) errors: Option<Reader>,
    pub(super) terminal: Option<Arc<Pty>>,
}

impl Consoles {
    /// Starts a shell.
    pub(super) fn begin(&self, start: &Start, shell: &Shell) -> Result<(Running, Streams), ConsoleError> {
        let (streams, near) = match start.terminal {
            Some(size) => terminal(size),
            None => pipes(),
        }
        .map_err(|source| ConsoleError::Step("make the console's streams", source))?;
        Ok((self.spawn(start, shell, near)?, streams))
    }

    /// Starts a shell with these streams.
    pub(super) fn spawn(
        &self,
        start: &Start,
        shell: &Shell,
        [input, output, errors]: [OwnedFd; 3],
    ) -> Result<Running, ConsoleError> {
        let cgroup = self.cgroup()?;
        let entrance = cgroup.as_ref().map(Cgroup::entrance).unwrap_or_default();
        let mut command = Command::new("/proc/self/exe");
        command.args(["container", jail::SHELL]).arg(entrance).arg(shell.path());
        command.args(if start.terminal.is_some() { ["terminal"] } else { [""] }).args(&start.arguments);
        command.env_clear().env("PATH", PATH).env("HOME", "/root").env("USER", "root").current_dir("/");
        if !start.term.is_empty() {
            command.env("TERM", &start.term);
        }
        command.stdin(Stdio::from(input)).stdout(Stdio::from(output)).stderr(Stdio::from(errors));
        let spawning = self.reaper.expect();
        match command.spawn() {
            Ok(child) => {
                let pid = child.id().cast_signed();
                Ok(Running { pid: Pid::from_raw(pid), exit: spawning.claim(pid), cgroup })
            }
            Err(source) => {
                if let Some(cgroup) = cgroup {
                    tokio::spawn(async move { cgroup.remove().await });
                }
                Err(ConsoleError::Step("start the shell", source))
            }
        }
    }

    /// A cgroup for one console; no container can have its name.
    fn cgroup(&self) -> Result<Option<Cgroup>, CgroupError> {
        let Some(hierarchy) = &self.hierarchy else { return Ok(None) };
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let cgroup = hierarchy.container(&format!("_console-{number}"));
        cgroup.create(&LinuxResources::default())?;
        Ok(Some(cgroup))
    }
}

impl Running {
    /// Ends whatever still runs. Who was hung up may tidy up first.
    pub(super) async fn end(&mut self) {
        if self.exit.code().is_none() {
            self.signal(Signal::HUP);
            self.signal(Signal::CONT);
            // Who does not end in time is killed.
            let _ = tokio::time::timeout(HANG_UP, self.exit.wait()).await;
        }
        match &self.cgroup {
            Some(cgroup) => {
                if let Err(error) = cgroup.remove().await {
                    tracing::warn!(error = crate::report::chain(&error), "Something of a console is left");
                }
            }
            None => self.signal(Signal::KILL),
        }
    }

    fn signal(&self, signal: Signal) {
        match &self.cgroup {
            Some(cgroup) => cgroup.signal(signal),
            // Gone already: as good as signalled.
            None => drop(signal.send_to_group(self.pid.as_raw())),
        }
    }
}

fn terminal((rows, columns): Size) -> io::Result<(Streams, [OwnedFd; 3])> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    unlockpt(&master)?;
    let near = ioctl_tiocgptpeer(&master, flags)?;
    ends::resize(&master, rows, columns)?;
    let pty = Arc::new(Pty::new(master)?);
    let streams = Streams {
        input: Writer::Pty(pty.clone()),
        output: Reader::Pty(pty.clone()),
        errors: None,
        terminal: Some(pty),
    };
    Ok((streams, [near.try_clone()?, near.try_clone()?, near]))
}

fn pipes() -> io::Result<(Streams, [OwnedFd; 3])> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC);
    let ((input, to), (from, output), (complaints, errors)) = (pipe()?, pipe()?, pipe()?);
    for end in [&to, &from, &complaints] {
        ends::set_nonblocking(end)?;
    }
    let streams = Streams {
        input: Writer::Pipe(pipe::Sender::from_owned_fd(to)?),
        output: Reader::Pipe(pipe::Receiver::from_owned_fd(from)?),
        errors: Some(Reader::Pipe(pipe::Receiver::from_owned_fd(complaints)?)),
        terminal: None,
    };
    Ok((streams, [input, output, errors]))
}
