//! The debug console: shells in the guest for its operator. There is none unless the kernel's command line asks for it
//! (`agent.debug_console`); then the agent listens on two ports. On [`ports::CONSOLE`] it speaks as
//! [`kata_protocol::console`] says; on upstream's a connection is the bare bytes of a terminal.
//!
//! Each console is a cgroup. When its shell ends, or its client goes away, nothing that ran in it is left.

mod bare;
mod messages;
mod native;
mod running;
mod shell;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use kata_protocol::console::Breach;
use kata_protocol::ports;
use kata_transport::{Incoming, Listener, Stream};
use tokio::sync::Semaphore;

use crate::cgroup::{CgroupError, Hierarchy};
use crate::reaper::Reaper;

/// Consoles at a time.
const MAX_CONSOLES: usize = 16;

/// There is no console.
#[derive(Debug, thiserror::Error)]
enum ConsoleError {
    /// The connection, or a stream of the shell's.
    #[error("The console's connection broke")]
    Connection(#[from] io::Error),
    /// The client speaks something else.
    #[error(transparent)]
    Breach(#[from] Breach),
    /// Nothing to run.
    #[error(
        "The guest has no shell; `kata-runtime exec` of this release brings one, or use a guest image with /bin/sh"
    )]
    NoShell,
    /// What the client brought.
    #[error("The shell is larger than {} MiB", kata_protocol::console::MAX_SHELL >> 20)]
    LargeShell,
    /// Something of the guest's.
    #[error("Cannot {0}")]
    Step(&'static str, #[source] io::Error),
    /// Its cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Too many.
    #[error("There are {MAX_CONSOLES} consoles in this guest already; leave one first")]
    Full,
}

/// What all consoles of the guest have in common.
#[derive(Debug)]
pub(crate) struct Consoles {
    reaper: Reaper,
    hierarchy: Option<Hierarchy>,
    places: Arc<Semaphore>,
    /// Names their cgroups.
    count: AtomicU32,
}

/// How a console is spoken.
#[derive(Clone, Copy, Debug)]
enum Manner {
    Native,
    Bare,
}

impl Consoles {
    /// None yet.
    pub(crate) fn new(reaper: Reaper, hierarchy: Option<Hierarchy>) -> Arc<Self> {
        Arc::new(Self {
            reaper,
            hierarchy,
            places: Arc::new(Semaphore::new(MAX_CONSOLES)),
            count: AtomicU32::new(0),
        })
    }

    /// Listens; on `port`, too, as upstream's clients expect. With 0 there is a shell on the guest's own console instead.
    pub(crate) async fn listen(
        self: Arc<Self>,
        listener: &Listener,
        port: u32,
    ) -> kata_transport::Result<()> {
        tracing::warn!("The debug console is open: the host can run any program in this guest");
        tokio::spawn(Arc::clone(&self).serve(listener.bind(ports::CONSOLE).await?, Manner::Native));
        if port == 0 {
            tokio::spawn(self.on_guests_console());
        } else {
            tokio::spawn(self.serve(listener.bind(port).await?, Manner::Bare));
        }
        Ok(())
    }

    async fn serve(self: Arc<Self>, mut incoming: Incoming, manner: Manner) {
        loop {
            match incoming.accept().await {
                Ok(accepted) => drop(tokio::spawn(Arc::clone(&self).converse(accepted.stream, manner))),
                Err(error) => {
                    tracing::debug!(%error, "No more consoles are opened");
                    return;
                }
            }
        }
    }

    async fn converse(self: Arc<Self>, stream: Stream, manner: Manner) {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| ConsoleError::Full);
        let ended = match manner {
            Manner::Native => self.native(stream, place).await,
            Manner::Bare => self.bare(stream, place).await,
        };
        if let Err(error) = ended {
            tracing::debug!(error = crate::report::chain(&error), "A console was broken off");
        }
    }
}
