//! The action `start`: makes a container's server, or finds the one of its pod, and answers with its address.
//!
//! This process only makes the socket and hands it over; containerd waits for its exit, so it does nothing else.

use std::env;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::address::{self, Bound};
use crate::args::{BIND_FD_ENV, Identity, SOCKET_ENV, TTRPC_ADDRESS_ENV};
use crate::bootstrap::{self, Request};
use crate::handover::Giver;
use crate::kata;
use crate::pod::{self, Role};

/// The file in the bundle that names the server's process.
pub(crate) const PID_FILE: &str = "shim.pid";
/// The file in the bundle that names the server's socket; containerd 1.6 reads it when it restarts.
pub(crate) const ADDRESS_FILE: &str = "address";

/// `start` failed; nothing is left of it: a server that was started ends by itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// Standard input.
    #[error("Cannot read how containerd wants to be answered")]
    Bootstrap(#[from] bootstrap::BootstrapError),
    /// Whose container this is.
    #[error("Cannot tell to which sandbox the container belongs")]
    Pod(#[from] pod::PodError),
    /// The sandbox of a member is gone.
    #[error("The sandbox {sandbox} of this container is not running (no server on {}); create the pod anew", socket.display())]
    SandboxGone {
        /// Its id.
        sandbox: String,
        /// Where it should listen.
        socket: PathBuf,
    },
    /// The socket.
    #[error("Cannot make the server's socket")]
    Address(#[from] address::AddressError),
    /// The working directory is gone.
    #[error("The bundle (working directory) cannot be used")]
    Bundle(#[source] io::Error),
    /// Starting ourselves as the server.
    #[error("Cannot start the server")]
    Spawn(#[source] io::Error),
    /// The server died young.
    #[error("The server ended right after its start; its log (journalctl -t kata) may say why")]
    ServerGone(#[source] io::Error),
    /// A file in the bundle.
    #[error("Cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// containerd does not listen to us.
    #[error("Cannot write the address to standard output")]
    Answer(#[source] io::Error),
}

/// Carries out `start`.
///
/// # Errors
/// See [`StartError`]; the chain is for containerd, which shows it to the user.
pub(crate) fn run(identity: &Identity) -> Result<(), StartError> {
    let input =
        File::from(io::stdin().as_fd().try_clone_to_owned().map_err(bootstrap::BootstrapError::Read)?);
    let request = bootstrap::parse(&bootstrap::read(&input)?, identity)?;
    let bundle = match &identity.bundle {
        Some(bundle) => bundle.clone(),
        None => env::current_dir().map_err(StartError::Bundle)?,
    };
    let dir = request.socket_dir.as_deref().unwrap_or(Path::new(address::SOCKET_DIR));
    match pod::role(&pod::annotations(&bundle)?)? {
        Role::Member { sandbox } => answer(&bundle, &join(dir, identity, sandbox)?, &request),
        Role::Owner => own(dir, identity, &request, &bundle),
    }
}

/// Tells containerd the address, also by a file in the bundle.
fn answer(bundle: &Path, socket: &Path, request: &Request) -> Result<(), StartError> {
    let url = address::url(socket);
    write(&bundle.join(ADDRESS_FILE), &url)?;
    let mut stdout = io::stdout();
    let answer = bootstrap::reply(&url, request.protobuf);
    stdout.write_all(&answer).and_then(|()| stdout.flush()).map_err(StartError::Answer)
}

/// The socket of the pod's server, which must be there.
fn join(dir: &Path, identity: &Identity, sandbox: String) -> Result<PathBuf, StartError> {
    let socket = address::socket_path(dir, identity, &sandbox);
    if address::alive(&socket) { Ok(socket) } else { Err(StartError::SandboxGone { sandbox, socket }) }
}

/// Makes a server of our own, unless it is there. The socket gets its name after the server has been started, so that
/// there is always somebody to remove it.
fn own(dir: &Path, identity: &Identity, request: &Request, bundle: &Path) -> Result<(), StartError> {
    let path = address::socket_path(dir, identity, &identity.id);
    if address::alive(&path) {
        return answer(bundle, &path, request);
    }
    let socket = address::unbound().map_err(StartError::Spawn)?;
    let (giver, progress) = Giver::new().map_err(StartError::Spawn)?;
    let listener = socket.try_clone().map_err(StartError::Spawn)?;
    let streams = Streams { listener, progress: progress.into() };
    let mut command = server(identity, request, bundle).map_err(StartError::Spawn)?;
    command.env(SOCKET_ENV, &path);
    let mut child = spawn(command, streams).map_err(StartError::Spawn)?;
    let given = (|| match address::listen(&socket, &path)? {
        // Another has been quicker; ours ends by itself.
        Bound::Alive => answer(bundle, &path, request),
        Bound::New => {
            write(&bundle.join(PID_FILE), &child.id().to_string())?;
            adjust_oom_score(child.id());
            hand_over(giver, || answer(bundle, &path, request))
        }
    })();
    if given.is_err() {
        // containerd never calls `delete` now. The server undoes everything itself, unless it is what died.
        let _ = child.wait();
        let _ = kata::cleanup(Path::new(kata::STATE_ROOT), &identity.id);
        let _ = address::remove(&path);
    }
    given
}

/// Tells the server that its socket listens, and that containerd has got the answer; on an error that it is abandoned.
fn hand_over(mut giver: Giver, answer: impl FnOnce() -> Result<(), StartError>) -> Result<(), StartError> {
    giver.step().map_err(StartError::ServerGone)?;
    answer()?;
    giver.step().map_err(StartError::ServerGone)
}

/// What the server gets, as its standard input and output: the descriptors that a child gets without any help.
struct Streams {
    listener: OwnedFd,
    progress: OwnedFd,
}

/// Starts the server.
fn spawn(mut command: Command, streams: Streams) -> io::Result<Child> {
    command.stdin(Stdio::from(streams.listener)).stdout(Stdio::from(streams.progress)).stderr(Stdio::null());
    command.spawn()
}

/// This program once more, as the server.
fn server(identity: &Identity, request: &Request, bundle: &Path) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["-namespace", &identity.namespace, "-id", &identity.id, "-address", &identity.address]);
    command.args(["-publish-binary", &identity.publish_binary]);
    command.arg("-bundle").arg(bundle);
    if identity.debug || request.debug {
        command.arg("-debug");
    }
    if let Some(config) = &request.config {
        command.arg("-config").arg(config);
    }
    if let Some(address) = &request.ttrpc_address {
        command.env(TTRPC_ADDRESS_ENV, address);
    }
    command.env(BIND_FD_ENV, "0").current_dir(bundle);
    Ok(command)
}

/// Makes the server a little more likely to be killed than containerd when memory runs out, as containerd's
/// own shim does. Not vital, so a refusal is passed over.
fn adjust_oom_score(pid: u32) {
    let parent = std::os::unix::process::parent_id();
    let score = fs::read_to_string(format!("/proc/{parent}/oom_score_adj"));
    if let Some(score) = score.ok().and_then(|text| text.trim().parse::<i32>().ok()) {
        let _ = fs::write(format!("/proc/{pid}/oom_score_adj"), (score + 1).min(1000).to_string());
    }
}

/// Writes a small file so that nobody ever reads half of it.
fn write(path: &Path, text: &str) -> Result<(), StartError> {
    let error = |source| StartError::Write { path: path.to_owned(), source };
    let draft = path.with_extension("new");
    fs::write(&draft, text).map_err(error)?;
    fs::rename(&draft, path).map_err(error)
}
