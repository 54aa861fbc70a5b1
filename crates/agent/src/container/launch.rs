//! Starting the jail and understanding its answer.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use kata_protocol::oci::Spec;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protobuf::Message;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg,
    socketpair,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{PidfdFlags, pidfd_open};
use tokio::net::unix::pipe;

use crate::cgroup::Cgroup;
use crate::jail::plan::{Answer, Descriptors, Steps};
use crate::reaper::{Exit, Reaper, Spawning};
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
    /// The message could not be written.
    #[error("Cannot describe the process to the one that makes it")]
    Describe(#[from] protobuf::Error),
    /// The jail says why.
    #[error("{message}")]
    Refused { message: String },
    /// The jail ended without a word.
    #[error("The process that makes containers ended with status {code} and no answer; see the guest's log")]
    Silent { code: i32 },
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
    /// What the process did before it was ready.
    pub(crate) steps: Steps,
}

/// Lets the first process of a container become the workload. Dropping it ends that process instead.
#[derive(Debug)]
pub(crate) struct Start(OwnedFd);

impl Start {
    /// Says so.
    pub(crate) fn go(self) -> io::Result<()> {
        rustix::io::write(&self.0, b".")?;
        Ok(())
    }
}

/// What the first process of a container is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// The workload.
    Create,
    /// The holder of the sandbox's namespaces (`holder.rs`).
    Hold,
}

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Hold => "hold",
        }
    }
}

/// Starts jails.
#[derive(Debug)]
pub(crate) struct Launcher {
    reaper: Reaper,
}

impl Launcher {
    /// Processes are known to `reaper` from their first moment.
    pub(crate) fn new(reaper: Reaper) -> Self {
        Self { reaper }
    }

    /// Makes the container of `spec`, in `cgroup`, which is there; with the process whose namespaces are to be joined,
    /// if any.
    pub(crate) async fn create(
        &self,
        (verb, spec): (Verb, &Spec),
        cgroup: &Cgroup,
        joined: Option<i32>,
        ends: ChildEnds,
    ) -> Result<(Launched, Start)> {
        let (wait, start) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|errno| LaunchError::Io("make a pipe", errno.into()))?;
        let joined = joined.map(handle).transpose();
        let joined = joined.map_err(|source| {
            LaunchError::Io("join the sandbox's namespaces; has its first container ended?", source)
        })?;
        let job = Job { verb: verb.word(), cgroup, other: wait, joined, terminal: spec.Process.Terminal };
        let launched = self.launch(job, &spec.write_to_bytes()?, ends).await?;
        Ok((launched, Start(start)))
    }

    /// Makes the process of `plan` in the container whose first process is `init`.
    pub(crate) async fn exec(
        &self,
        plan: &Spec,
        (init, cgroup): (i32, &Cgroup),
        ends: ChildEnds,
    ) -> Result<Launched> {
        let found =
            handle(init).map_err(|error| LaunchError::Io("find the container's first process", error))?;
        let cgroup = &cgroup.beside(init);
        let job = Job { verb: "exec", cgroup, other: found, joined: None, terminal: plan.Process.Terminal };
        self.launch(job, &plan.write_to_bytes()?, ends).await
    }

    async fn launch(&self, job: Job<'_>, message: &[u8], ends: ChildEnds) -> Result<Launched> {
        let spawning = self.reaper.expect();
        let verb = job.verb;
        let Started { pid, answer, console } =
            job.start(message, ends).map_err(|source| LaunchError::Io("start the jail", source))?;
        let jail = spawning.claim(pid);
        let (pid, exit, began, steps) =
            match tokio::time::timeout(DEADLINE, read_answer(answer, jail, &spawning, verb)).await {
                Ok(outcome) => outcome?,
                Err(_) => {
                    // Gone already: then the deadline was met by a hair, and the process is an orphan that is reaped.
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                    return Err(LaunchError::Deadline);
                }
            };
        let received = console.map(|console| receive(&console)).transpose();
        let terminal = received.map_err(|source| LaunchError::Io("receive the terminal", source))?;
        Ok(Launched { pid, exit, terminal, began, steps })
    }
}

/// A process by descriptor.
fn handle(pid: i32) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or(Errno::SRCH)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// What one jail is to do.
struct Job<'a> {
    verb: &'static str,
    cgroup: &'a Cgroup,
    other: OwnedFd,
    joined: Option<OwnedFd>,
    terminal: bool,
}

/// A jail that has been started.
struct Started {
    pid: i32,
    answer: OwnedFd,
    console: Option<OwnedFd>,
}

impl Job<'_> {
    /// Without code between fork and exec the child needs no copy of the agent's memory. Its descriptors are passed
    /// on by their numbers: nothing else is started meanwhile, as only this thread starts processes.
    fn start(self, message: &[u8], ends: ChildEnds) -> io::Result<Started> {
        let plan = memfd_create("plan", MemfdFlags::CLOEXEC)?;
        rustix::io::write(&plan, message)
            .and_then(|length| if length == message.len() { Ok(()) } else { Err(Errno::NOSPC) })?;
        let (answer, result) = pipe_with(PipeFlags::CLOEXEC)?;
        let (ours, theirs) = if self.terminal {
            let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            (Some(pair.0), Some(pair.1))
        } else {
            (None, None)
        };
        let cgroup = self.cgroup.open()?;
        let passed = Descriptors {
            plan: pass(plan.as_fd())?,
            answer: pass(result.as_fd())?,
            cgroup: pass(cgroup.as_fd())?,
            other: pass(self.other.as_fd())?,
            console: theirs.as_ref().map(|end| pass(end.as_fd())).transpose()?,
            joined: self.joined.as_ref().map(|end| pass(end.as_fd())).transpose()?,
        };
        let mut command = Command::new("/proc/self/exe");
        command.arg0("kata-agent").args(["container", self.verb]).args(passed.to_arguments()).env_clear();
        command.stdin(ends.stdin).stdout(ends.stdout).stderr(ends.stderr);
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        Ok(Started { pid, answer, console: ours })
    }
}

fn pass(fd: BorrowedFd<'_>) -> io::Result<RawFd> {
    fcntl_setfd(fd, FdFlags::empty())?;
    Ok(fd.as_raw_fd())
}

/// A process that has been made: its id and its end, when its jail began, and what it did itself.
type Made = (i32, Exit, u64, Steps);

/// Waits until the process has been made: it is ready to be started (create), or has become the workload (exec), which
/// closed the pipe. A process that died on the way is told by the pipe's end, too: if nothing says that it is ready, the
/// jail or the process has ended without a word.
async fn read_answer(answer: OwnedFd, mut jail: Exit, spawning: &Spawning, verb: &str) -> Result<Made> {
    let failed = |source| LaunchError::Io("read the jail's answer", source);
    set_nonblocking(&answer).map_err(failed)?;
    let reader = Reader::Pipe(pipe::Receiver::from_owned_fd(answer).map_err(failed)?);
    let mut text = Vec::new();
    let mut buffer = vec![0; 4096];
    loop {
        let read = reader.read(&mut buffer).await.map_err(failed)?;
        text.extend_from_slice(&buffer[..read]);
        let (mut began, mut made) = (0, None);
        let mut ready = (read == 0 && verb == "exec").then(Steps::default);
        for line in Answer::read(&text) {
            match line {
                Answer::Began(time) => began = time,
                Answer::Made(pid) => made = Some(pid),
                Answer::Ready(steps) => ready = Some(steps),
                Answer::Failed(message) => return Err(LaunchError::Refused { message }),
            }
        }
        match (made, ready) {
            (Some(pid), Some(steps)) => return Ok((pid, spawning.claim(pid), began, steps)),
            (Some(pid), None) if read == 0 => {
                return Err(LaunchError::Silent { code: spawning.claim(pid).wait().await });
            }
            (None, _) if read == 0 => return Err(LaunchError::Silent { code: jail.wait().await }),
            _ => {}
        }
    }
}

fn receive(console: &OwnedFd) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 64];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    recvmsg(console, &mut [IoSliceMut::new(&mut name)], &mut control, flags)?;
    let mut received = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    received.next().ok_or_else(|| io::Error::other("no descriptor came with the message"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::OwnedFd;

    use super::{LaunchError, read_answer};
    use crate::reaper::{Exit, Reaper, Spawning};

    /// What a jail with id 7 that has ended with `code` leaves in the pipe.
    fn said(text: &str, code: i32) -> (OwnedFd, Exit, Spawning) {
        let (answer, result) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let spawning = Reaper::default().expect();
        std::fs::File::from(result).write_all(text.as_bytes()).unwrap();
        let jail = spawning.claim(7);
        spawning.ended(7, code);
        (answer, jail, spawning)
    }

    #[tokio::test]
    async fn a_container_that_is_ready_is_made() {
        let (answer, jail, spawning) = said("began 3\nready 7\n5 root\nmade 8\n", 0);
        let (pid, _, began, steps) = read_answer(answer, jail, &spawning, "create").await.unwrap();
        assert_eq!((pid, began, steps.0), (8, 3, vec![("root".into(), 5)]));
    }

    #[tokio::test]
    async fn a_process_that_became_the_workload_says_nothing_more() {
        let (answer, jail, spawning) = said("began 3\nmade 8\n", 0);
        let (pid, _, _, _) = read_answer(answer, jail, &spawning, "exec").await.unwrap();
        assert_eq!(pid, 8);
    }

    #[tokio::test]
    async fn a_reason_is_passed_on() {
        let (answer, jail, spawning) = said("began 3\nmade 8\nfailed 10\nCannot fly", 0);
        let error = read_answer(answer, jail, &spawning, "exec").await.unwrap_err();
        assert_eq!(error.to_string(), "Cannot fly");
    }

    #[tokio::test]
    async fn a_jail_that_ends_without_an_answer_is_told() {
        let (answer, jail, spawning) = said("began 3\n", 3);
        let error = read_answer(answer, jail, &spawning, "create").await.unwrap_err();
        assert!(matches!(error, LaunchError::Silent { code: 3 }));
    }

    #[tokio::test]
    async fn a_container_that_dies_before_it_is_ready_is_told() {
        let (answer, jail, spawning) = said("began 3\nmade 8\n", 0);
        spawning.ended(8, 137);
        let error = read_answer(answer, jail, &spawning, "create").await.unwrap_err();
        assert!(matches!(error, LaunchError::Silent { code: 137 }));
    }
}
