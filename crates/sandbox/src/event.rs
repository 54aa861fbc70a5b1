//! What a sandbox tells the outside by itself.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::command::Exit;
use crate::{ContainerId, ExecId};

/// Something happened that nobody asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A process ended, and its output is delivered (or will never be: see [`Event::VmDied`]). Comes once per
    /// process that was created (a container's first) or started (an added one).
    Exited {
        /// Its container.
        container: ContainerId,
        /// Its name, if it was added to the container.
        exec: Option<ExecId>,
        /// The process on the host that stood for it.
        pid: u32,
        /// How it ended.
        exit: Exit,
    },
    /// The guest's kernel killed a process of a container for want of memory, or the host's kernel the whole VM. The
    /// process's end is told beside it.
    OutOfMemory {
        /// The container.
        container: ContainerId,
    },
    /// The VM is gone, or never came up. Comes once, before the exits of all that ran in it.
    VmDied {
        /// Why.
        reason: Arc<str>,
    },
}

/// Gets a sandbox's events in the order in which they happen, until the sandbox's task ends.
#[derive(Debug)]
pub struct EventReceiver(pub(crate) mpsc::UnboundedReceiver<Event>);

impl EventReceiver {
    /// The next event; `None` when there will be no more. Dropping the future loses none.
    pub async fn recv(&mut self) -> Option<Event> {
        self.0.recv().await
    }
}
