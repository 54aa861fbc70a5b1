//! Starting the jail and understanding its answer.

use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use oci_spec::runtime::{Process, Spec};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::net::unix::pipe;

use crate::id::ContainerId;
use crate::jail::plan::{Create, Exec, Outcome, Place, Plan};
use crate::reaper::{Exit, Reaper};
use crate::stdio::ChildEnds;
use crate::stdio::ends::{Reader, set_nonblocking};

/// How long the jail may take; only a hung file system takes longer.
const DEADLINE: Duration = Duration::from_secs(60);

/// The jail did not make the process.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    /// The jail could not be started or talked to.
    #[error("Cannot {0}")]
    Io(&'static str, #[source] io::Error),
    /// The jail says why.
    #[error("{message}")]
    Refused { message: String },
    /// The jail ended without a word.
    #[error("The process that makes containers ended with status {code} and no answer; see the guest's log")]
    Silent { code: i32 },
    /// The jail answered nonsense.
    #[error("The answer of the process that makes containers is not understood")]
    Answer(#[source] serde_json::Error),
    /// The jail took too long.
    #[error("The process was not made in {} s; is one of the container's file systems hung?", DEADLINE.as_secs())]
    Deadline,
}

type Result<T> = std::result::Result<T, LaunchError>;

/// A process that the jail has made.
#[derive(Debug)]
pub(crate) struct Launched {
    /// Its id in the guest.
    pub(crate) pid: i32,
    /// Its end.
    pub(crate) exit: Exit,
    /// The master of its terminal.
    pub(crate) terminal: Option<OwnedFd>,
    /// When the jail began, in microseconds since the guest's kernel started.
    pub(crate) began: u64,
}

/// Starts jails.
#[derive(Debug)]
pub(crate) struct Launcher {
    reaper: Reaper,
    /// Where `libcontainer` keeps its state.
    state_dir: PathBuf,
    console_dir: PathBuf,
    cgroup_root: Option<PathBuf>,
    consoles: AtomicU64,
}

impl Launcher {
    /// Keeps everything below `run_dir`, which must exist and be the agent's own.
    pub(crate) fn new(
        reaper: Reaper,
        run_dir: &std::path::Path,
        cgroup_root: Option<PathBuf>,
    ) -> io::Result<Self> {
        let state_dir = run_dir.join("state");
        let console_dir = run_dir.join("console");
        std::fs::create_dir_all(&state_dir)?;
        std::fs::create_dir_all(&console_dir)?;
        Ok(Self { reaper, state_dir, console_dir, cgroup_root, consoles: AtomicU64::new(0) })
    }

    /// Where the state of a container is kept.
    pub(crate) fn state_of(&self, id: &ContainerId) -> PathBuf {
        self.state_dir.join(id.as_str())
    }

    /// Makes the container of `spec`, which is also the `config.json` in `bundle`.
    pub(crate) async fn create(
        &self,
        id: &ContainerId,
        bundle: PathBuf,
        spec: &Spec,
        ends: ChildEnds,
    ) -> Result<Launched> {
        let process = spec.process().as_ref();
        let console = self.console(process.and_then(Process::terminal).unwrap_or(false))?;
        let plan = Plan::Create(Create {
            place: self.place(id, console.as_ref()),
            bundle,
            root: spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default(),
            cwd: process.map(|process| process.cwd().clone()).unwrap_or_default(),
        });
        self.launch("create", &plan, ends, console).await
    }

    /// Makes a process in a container.
    pub(crate) async fn exec(&self, id: &ContainerId, process: Process, ends: ChildEnds) -> Result<Launched> {
        let console = self.console(process.terminal().unwrap_or(false))?;
        let plan = Plan::Exec(Box::new(Exec { place: self.place(id, console.as_ref()), process }));
        self.launch("exec", &plan, ends, console).await
    }

    fn console(&self, wanted: bool) -> Result<Option<Console>> {
        if !wanted {
            return Ok(None);
        }
        let number = self.consoles.fetch_add(1, Ordering::Relaxed);
        let path = self.console_dir.join(format!("{number}.sock"));
        Console::listen(path).map(Some).map_err(|source| LaunchError::Io("listen for the terminal", source))
    }

    fn place(&self, id: &ContainerId, console: Option<&Console>) -> Place {
        Place {
            container_id: id.as_str().to_owned(),
            state_dir: self.state_dir.clone(),
            console: console.map(|console| console.path.clone()),
            cgroup_root: self.cgroup_root.clone(),
        }
    }

    async fn launch(
        &self,
        verb: &str,
        plan: &Plan,
        ends: ChildEnds,
        console: Option<Console>,
    ) -> Result<Launched> {
        tracing::trace!(verb, "Starting the jail");
        let spawning = self.reaper.expect();
        let (pid, answer) =
            spawn(verb, plan, ends).map_err(|source| LaunchError::Io("start the jail", source))?;
        let jail = spawning.claim(pid);
        tracing::trace!(verb, jail = pid, "Jail started");
        let outcome = match tokio::time::timeout(DEADLINE, read_answer(answer, jail)).await {
            Ok(outcome) => outcome?,
            Err(_) => {
                // Gone already: then the deadline was met by a hair, and the process is an orphan that is reaped.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                return Err(LaunchError::Deadline);
            }
        };
        match outcome {
            Outcome::Failed { message } => Err(LaunchError::Refused { message }),
            Outcome::Started { pid, began } => {
                let exit = spawning.claim(pid);
                let terminal = console.map(|console| console.receive());
                let terminal =
                    terminal.transpose().map_err(|source| LaunchError::Io("receive the terminal", source))?;
                Ok(Launched { pid, exit, terminal, began })
            }
        }
    }
}

/// Starts the jail; its id, and where its answer comes.
///
/// Without code between fork and exec the child needs no copy of the agent's memory. Its two descriptors are passed
/// on by their numbers: nothing else is started meanwhile, as only this thread starts processes.
fn spawn(verb: &str, plan: &Plan, ends: ChildEnds) -> io::Result<(i32, OwnedFd)> {
    let mut memory = std::fs::File::from(memfd_create("plan", MemfdFlags::CLOEXEC)?);
    memory.write_all(&serde_json::to_vec(plan)?)?;
    let (answer, result) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("kata-agent").args(["container", verb]).env_clear();
    for passed in [memory.as_fd(), result.as_fd()] {
        fcntl_setfd(passed, FdFlags::empty())?;
        command.arg(passed.as_raw_fd().to_string());
    }
    command.stdin(ends.stdin).stdout(ends.stdout).stderr(ends.stderr);
    let child = command.spawn()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    Ok((pid, answer))
}

/// The line that the jail writes. The pipe stays open beyond it: the new process has it until it is started.
async fn read_answer(answer: OwnedFd, mut jail: Exit) -> Result<Outcome> {
    let failed = |source| LaunchError::Io("read the jail's answer", source);
    set_nonblocking(&answer).map_err(failed)?;
    let direct = answer.try_clone().map_err(failed)?;
    let reader = Reader::Pipe(pipe::Receiver::from_owned_fd(answer).map_err(failed)?);
    let mut line = Vec::new();
    let mut buffer = vec![0; 4096];
    while !line.ends_with(b"\n") {
        let read = tokio::select! {
            biased;
            read = reader.read(&mut buffer) => read.map_err(failed)?,
            // What it wrote before it ended is there, even if the event loop has not been told yet.
            code = jail.wait() => match rustix::io::read(&direct, &mut *buffer) {
                Ok(read) => read,
                Err(Errno::AGAIN) => return Err(LaunchError::Silent { code }),
                Err(error) => return Err(failed(error.into())),
            },
        };
        if read == 0 {
            return Err(LaunchError::Silent { code: jail.wait().await });
        }
        line.extend_from_slice(&buffer[..read]);
    }
    tracing::trace!("Jail answered");
    serde_json::from_slice(&line).map_err(LaunchError::Answer)
}

/// A socket that a process sends its terminal to.
#[derive(Debug)]
struct Console {
    listener: UnixListener,
    path: PathBuf,
}

impl Console {
    fn listen(path: PathBuf) -> io::Result<Self> {
        let listener = UnixListener::bind(&path)?;
        // The process has sent before the jail answers, so nothing is waited for.
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path })
    }

    fn receive(&self) -> io::Result<OwnedFd> {
        let (stream, _) = self.listener.accept()?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut name = [0; 64];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        recvmsg(&stream, &mut [IoSliceMut::new(&mut name)], &mut control, flags)?;
        let mut received = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        received.next().ok_or_else(|| io::Error::other("no descriptor came with the message"))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // It lies on a file system that ends with the agent.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::{LaunchError, read_answer};
    use crate::jail::plan::Outcome;
    use crate::reaper::Reaper;

    /// An exec among ten at once failed with "no answer": the jail had ended before the event loop saw its answer.
    #[tokio::test]
    async fn an_answer_is_found_although_the_jail_has_ended_and_the_event_loop_knows_nothing() {
        let (answer, result) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let spawning = Reaper::default().expect();
        let mut result = std::fs::File::from(result);
        let said = Outcome::Failed { message: "x".to_owned() };
        writeln!(result, "{}", serde_json::to_string(&said).unwrap()).unwrap();
        let jail = spawning.claim(7);
        spawning.ended(7, 0);
        let outcome = read_answer(answer, jail).await.unwrap();
        assert!(matches!(outcome, Outcome::Failed { message } if message == "x"));
    }

    #[tokio::test]
    async fn a_jail_that_ends_without_an_answer_is_told() {
        let (answer, _held_by_others) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let spawning = Reaper::default().expect();
        let jail = spawning.claim(7);
        spawning.ended(7, 3);
        assert!(matches!(read_answer(answer, jail).await, Err(LaunchError::Silent { code: 3 })));
    }
}
