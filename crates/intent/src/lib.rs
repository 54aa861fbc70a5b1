//! What is about to be made on the host, said before it is made.
//!
//! Every step that leaves a trace on the host (a directory, a mount, a process, an interface) is first announced to an
//! [`Intents`] log and struck out once it is undone. Whoever owns the log can undo the rest after a crash, in reverse
//! order. The log itself (file, replay) belongs to the sandbox; how each kind of thing is undone is known to the crate
//! that makes it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The number of an announced intent in its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IntentId(pub u64);

/// One thing on the host that a sandbox is about to make.
///
/// Undoing an intent that was announced but never carried out must do no harm: the process may have died
/// between the two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Intent {
    /// A directory; undone with `rmdir`, so that a directory that is not empty is never emptied by mistake.
    Dir {
        /// Absolute path of the directory.
        path: PathBuf,
    },
    /// A regular file (often an empty one that serves as a mount point); undone with `unlink`.
    File {
        /// Absolute path of the file.
        path: PathBuf,
    },
    /// A cgroup of the host; undone with `rmdir`, once the processes in it have gone.
    Cgroup {
        /// Absolute path of its directory.
        path: PathBuf,
    },
    /// A scope that systemd makes; undone by systemd, which ends what is still in it.
    Scope {
        /// The unit's name.
        unit: String,
        /// Absolute path of the socket by which systemd is asked.
        socket: PathBuf,
    },
    /// A mount; undone with a lazy unmount that does not follow symbolic links.
    Mount {
        /// Absolute path of the mount point.
        target: PathBuf,
    },
    /// A child process; undone with `SIGKILL` to the processes that match both fields.
    Process {
        /// One argument of the process contains this text, and no other sandbox's process has it.
        argv_token: String,
        /// The executable, as started.
        exe: PathBuf,
    },
    /// A unix socket in the file system; undone with `unlink`.
    Socket {
        /// Absolute path of the socket.
        path: PathBuf,
    },
    /// A symbolic link; undone with `unlink`.
    Link {
        /// Absolute path of the link itself.
        path: PathBuf,
    },
    /// A network interface; undone by deleting it.
    Interface {
        /// The network namespace that it is in.
        netns: PathBuf,
        /// Its name there.
        name: String,
    },
    /// The ingress queueing discipline of a network interface, with its filters; undone by deleting it.
    Ingress {
        /// The network namespace that the interface is in.
        netns: PathBuf,
        /// The interface's name there.
        interface: String,
    },
    /// The limit of the rate at which a network interface sends; undone by deleting it.
    Limit {
        /// The network namespace that the interface is in.
        netns: PathBuf,
        /// The interface's name there.
        interface: String,
    },
}

impl Intent {
    /// Where in the file system it is; `None` for what is not in it.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Dir { path }
            | Self::File { path }
            | Self::Socket { path }
            | Self::Link { path }
            | Self::Cgroup { path } => Some(path),
            Self::Mount { target } => Some(target),
            Self::Process { .. }
            | Self::Scope { .. }
            | Self::Interface { .. }
            | Self::Ingress { .. }
            | Self::Limit { .. } => None,
        }
    }

    /// Whether this is a directory that `other` stands in or on: as long as `other` cannot be undone, neither can
    /// this, and it must not be struck out.
    #[must_use]
    pub fn holds(&self, other: &Self) -> bool {
        let Self::Dir { path } = self else { return false };
        other.path().is_some_and(|other| other.starts_with(path))
    }
}

/// For people: the kind of thing, and which.
impl fmt::Display for Intent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { argv_token, exe } => write!(f, "process {} with {argv_token}", exe.display()),
            Self::Mount { target } => write!(f, "mount {}", target.display()),
            Self::Dir { path } => write!(f, "directory {}", path.display()),
            Self::Cgroup { path } => write!(f, "cgroup {}", path.display()),
            Self::Scope { unit, .. } => write!(f, "systemd's scope {unit}"),
            Self::File { path } => write!(f, "file {}", path.display()),
            Self::Socket { path } => write!(f, "socket {}", path.display()),
            Self::Link { path } => write!(f, "link {}", path.display()),
            Self::Interface { netns, name } => write!(f, "interface {name} in {}", netns.display()),
            Self::Ingress { netns, interface } => {
                write!(f, "ingress filters of {interface} in {}", netns.display())
            }
            Self::Limit { netns, interface } => {
                write!(f, "limit of the rate of {interface} in {}", netns.display())
            }
        }
    }
}

/// Where intents are announced before they are carried out, and struck out after they are undone.
pub trait Intents: Send + Sync {
    /// Announces `intent`. Returns only after the log would survive the death of this process.
    ///
    /// # Errors
    /// The log could not be written; the announced thing must then not be made.
    fn will(&self, intent: Intent) -> io::Result<IntentId>;

    /// Strikes out an intent: what it stood for is gone again. Cannot fail, as there is nothing the caller
    /// could do: an intent that stays in the log is undone once more on replay, which does no harm.
    fn done(&self, id: IntentId);
}

/// An intent that stays in its log.
#[derive(Debug)]
pub struct Left {
    /// Its number.
    pub id: IntentId,
    /// What was announced.
    pub intent: Intent,
    /// Why it could not be undone; `None` for a directory that holds such a thing: its turn comes after that.
    pub error: Option<io::Error>,
}

/// Takes back `steps`, given in the order in which they were announced, the last first, by `undo`. What fails does not
/// stop the others. `done` strikes out what is gone. Returns what is left, the last first.
pub fn undo_all(
    steps: Vec<(IntentId, Intent)>,
    undo: impl Fn(&Intent) -> io::Result<()>,
    mut done: impl FnMut(IntentId),
) -> Vec<Left> {
    let mut left: Vec<Left> = Vec::new();
    for (id, intent) in steps.into_iter().rev() {
        match undo(&intent) {
            Ok(()) if !left.iter().any(|left| intent.holds(&left.intent)) => done(id),
            undone => left.push(Left { id, intent, error: undone.err() }),
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::{Intent, IntentId};

    /// The log outlives the process that wrote it, so its format is fixed here.
    #[test]
    fn the_format_in_the_log_is_stable() {
        let cases = [
            (Intent::Dir { path: "/run/a".into() }, r#"{"kind":"dir","path":"/run/a"}"#),
            (
                Intent::Cgroup { path: "/sys/fs/cgroup/p/kata_x".into() },
                r#"{"kind":"cgroup","path":"/sys/fs/cgroup/p/kata_x"}"#,
            ),
            (
                Intent::Scope { unit: "a-b.scope".into(), socket: "/run/dbus/system_bus_socket".into() },
                r#"{"kind":"scope","unit":"a-b.scope","socket":"/run/dbus/system_bus_socket"}"#,
            ),
            (Intent::Mount { target: "/run/a/b".into() }, r#"{"kind":"mount","target":"/run/a/b"}"#),
            (
                Intent::Ingress { netns: "/run/netns/n".into(), interface: "eth0".into() },
                r#"{"kind":"ingress","netns":"/run/netns/n","interface":"eth0"}"#,
            ),
            (
                Intent::Limit { netns: "/run/netns/n".into(), interface: "eth0".into() },
                r#"{"kind":"limit","netns":"/run/netns/n","interface":"eth0"}"#,
            ),
            (
                Intent::Process { argv_token: "sandbox-x".into(), exe: "/usr/bin/qemu".into() },
                r#"{"kind":"process","argv_token":"sandbox-x","exe":"/usr/bin/qemu"}"#,
            ),
        ];
        for (intent, json) in cases {
            assert_eq!(serde_json::to_string(&intent).unwrap(), json);
            assert_eq!(serde_json::from_str::<Intent>(json).unwrap(), intent);
        }
        assert_eq!(serde_json::to_string(&IntentId(7)).unwrap(), "7");
    }
}
