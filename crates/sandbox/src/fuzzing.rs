//! What the fuzz targets in `fuzz/` call. Behind the feature `fuzzing`, and no interface for anybody else.

use std::io;
use std::path::Path;

use kata_intent::{Intent, IntentId, Intents};
use kata_protocol::kata;

pub use crate::agent::fuzzing::{pids, refusal, started, stats, upstream_stats};

use crate::intent_log::{IntentLog, OpenError};
use crate::timeline::{Moment, Recorder, Timeline};
use crate::{ContainerId, ExecId, SandboxId};

/// Name of the intent log in a state directory.
pub const INTENTS_FILE: &str = crate::intent_log::INTENTS_FILE;

/// The intent log of a state directory.
#[derive(Debug)]
pub struct Log(IntentLog);

impl Log {
    /// Opens it.
    ///
    /// # Errors
    /// The system's; a log in use is busy.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        match IntentLog::open(state_dir) {
            Ok(log) => Ok(Self(log)),
            Err(OpenError::Locked) => Err(io::ErrorKind::ResourceBusy.into()),
            Err(OpenError::Io(error)) => Err(error),
        }
    }

    /// What is to be undone.
    ///
    /// # Errors
    /// The system's.
    pub fn pending(&self) -> io::Result<Vec<(IntentId, Intent)>> {
        self.0.pending()
    }

    /// Announces.
    ///
    /// # Errors
    /// The system's.
    pub fn will(&self, intent: Intent) -> io::Result<IntentId> {
        self.0.will(intent)
    }

    /// Strikes out.
    pub fn done(&self, id: IntentId) {
        self.0.done(id);
    }
}

/// The timeline of a sandbox whose guest has told these phases.
#[must_use]
pub fn timeline(phases: &[kata::Phase]) -> Timeline {
    let recorder = Recorder::new("fuzzed", Path::new("/nonexistent"), None);
    recorder.guest(phases, Moment::now());
    recorder.snapshot()
}

/// The guest's console as it is shown to the user.
#[must_use]
pub fn console(text: &str) -> String {
    crate::console::printable(text)
}

/// Whether this names a sandbox, a container, a process.
#[must_use]
pub fn ids(id: &str) -> [bool; 3] {
    [id.parse::<SandboxId>().is_ok(), id.parse::<ContainerId>().is_ok(), id.parse::<ExecId>().is_ok()]
}
