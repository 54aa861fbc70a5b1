//! Starting a process inside another network namespace.

use std::fs::File;
use std::io;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;

use crate::plan::NetworkNamespace;

/// Where a start in a namespace failed.
pub(crate) enum Failure {
    /// The namespace could not be entered.
    Namespace(io::Error),
    /// The process could not be started.
    Spawn(io::Error),
}

/// Starts `command` with the network namespace `netns`, which is not this process's own.
///
/// A namespace belongs to a thread, and a child gets its parent thread's; so a thread of its own enters the
/// namespace, starts the child and ends. No other thread of this process ever changes its namespace.
pub(crate) fn spawn_in(netns: &NetworkNamespace, mut command: Command) -> Result<Child, Failure> {
    let namespace = match netns {
        NetworkNamespace::At(path) => Some(File::open(path).map_err(Failure::Namespace)?),
        _ => None,
    };
    let runtime = Handle::current();
    let thread = thread::Builder::new().name("netns-spawn".to_owned()).spawn(move || {
        let entered = match namespace {
            Some(namespace) => setns(namespace, CloneFlags::CLONE_NEWNET),
            None => unshare(CloneFlags::CLONE_NEWNET),
        };
        entered.map_err(|errno| Failure::Namespace(errno.into()))?;
        let _runtime = runtime.enter();
        command.spawn().map_err(Failure::Spawn)
    });
    let joined = thread.map_err(Failure::Spawn)?.join();
    joined.unwrap_or_else(|_| Err(Failure::Spawn(io::Error::other("the starting thread panicked"))))
}
