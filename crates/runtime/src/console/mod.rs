//! Consoles in guests: how one is reached, and how it is spoken.
//!
//! Our shim gives a stream to our agent (`/console` of the management socket), whatever carries it. Of another shim, or
//! another agent, no more is known than an address: there upstream's bare console is spoken ([`crate::exec`]).

mod session;
mod shell;

use std::path::PathBuf;

use clap::Args;
use hyper::upgrade::Upgraded;
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use kata_protocol::ports::DEBUG_CONSOLE;
use kata_sandbox::CONSOLE_PROTOCOL;

use crate::global::Global;
use crate::management::{CallError, Sandbox};

pub(crate) use session::{Ends, run};
pub(crate) use shell::ShellSource;

/// The endpoint of the management socket.
const PATH: &str = "/console";

/// Which console.
#[derive(Debug, Args)]
pub(crate) struct ConsoleArgs {
    /// Vsock port of the console of an agent that is not ours; another one than 1026 is always connected to directly
    #[arg(short = 'p', long, default_value_t = DEBUG_CONSOLE, value_name = "PORT")]
    pub(crate) kata_debug_port: u32,

    /// The container manager's namespace that the sandbox must be in (containerd: k8s.io for pods; CRI-O: default); else
    /// any, as an id is unique on a host
    #[arg(long, value_name = "NS")]
    pub(crate) runtime_namespace: Option<String>,

    /// A static shell of this host for a guest that has none; else a static busybox, if the host has one
    #[arg(long, value_name = "FILE")]
    pub(crate) shell: Option<PathBuf>,
}

/// A way into a guest.
pub(crate) enum Way {
    /// To our agent.
    Own(TokioIo<Upgraded>),
    /// Where the agent is, as its shim writes it.
    Other(String),
}

/// The sandbox is not in the namespace that was given.
#[derive(Debug, thiserror::Error)]
#[error(
    "The sandbox {id} is in the namespace {there:?}, not in {wanted:?}; leave out --runtime-namespace, or give that one"
)]
struct WrongNamespace {
    id: String,
    there: String,
    wanted: String,
}

impl ConsoleArgs {
    /// The sandbox whose id is, or alone begins with, `id`.
    pub(crate) fn sandbox(&self, id: &str, global: &Global) -> anyhow::Result<Sandbox> {
        Sandbox::find(&global.root, id)
    }

    /// The way into its guest.
    pub(crate) async fn reach(&self, sandbox: &Sandbox) -> anyhow::Result<Way> {
        if let Some(wanted) = &self.runtime_namespace {
            check_namespace(sandbox, wanted).await?;
        }
        if self.kata_debug_port == DEBUG_CONSOLE {
            match sandbox.upgrade(PATH, CONSOLE_PROTOCOL).await? {
                Ok(stream) => return Ok(Way::Own(TokioIo::new(stream))),
                // A shim, or an agent, that does not know it.
                Err((StatusCode::NOT_FOUND | StatusCode::NOT_IMPLEMENTED, _)) => {}
                Err((_, words)) => return Err(CallError::Refused { words }.into()),
            }
        }
        let url = sandbox.answer(Method::GET, "/agent-url", Vec::new()).await?;
        Ok(Way::Other(String::from_utf8_lossy(&url).trim().to_owned()))
    }
}

/// The shim was told its namespace.
async fn check_namespace(sandbox: &Sandbox, wanted: &str) -> anyhow::Result<()> {
    let Some(server) = sandbox.server().await? else { return Ok(()) };
    let words = std::fs::read(format!("/proc/{server}/cmdline")).unwrap_or_default();
    match namespace(&words) {
        Some(there) if there != wanted => {
            let (id, wanted) = (sandbox.id().to_owned(), wanted.to_owned());
            Err(WrongNamespace { id, there, wanted }.into())
        }
        _ => Ok(()),
    }
}

/// The value of `-namespace` on a command line of `/proc`.
fn namespace(cmdline: &[u8]) -> Option<String> {
    let mut words = cmdline.split(|byte| *byte == 0);
    words.find(|word| matches!(*word, b"-namespace" | b"--namespace"))?;
    words.next().map(|word| String::from_utf8_lossy(word).into_owned())
}

#[cfg(test)]
mod tests {
    use super::namespace;

    #[test]
    fn a_shims_namespace_is_on_its_command_line() {
        let words = b"/bin/containerd-shim-kata-v2\0-namespace\0k8s.io\0-id\0abc\0";
        assert_eq!(namespace(words).as_deref(), Some("k8s.io"));
        assert_eq!(namespace(b"/bin/other\0-id\0x\0"), None);
    }
}
