//! What may be asked of a process in which state: one table.

use std::fmt;

/// Where in its life a process is. A container's state is that of its first process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Being made; nothing can be asked of it yet.
    Creating,
    /// Made, not started.
    Created,
    /// Being started.
    Starting,
    /// Running.
    Running,
    /// Its container is frozen.
    Paused,
    /// Ended.
    Stopped,
    /// Being removed.
    Deleting,
}

/// What may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Start a process.
    Start,
    /// Add a process to a container.
    Exec,
    /// Send a signal.
    Kill,
    /// Forget a process; the first one takes its container along.
    Delete,
    /// Freeze a container.
    Pause,
    /// Thaw a container.
    Resume,
    /// Change a terminal's size.
    Resize,
    /// End a process's standard input.
    CloseIo,
    /// List a container's processes.
    Pids,
    /// Read a container's consumption.
    Stats,
    /// Change a container's limits.
    Update,
}

/// The table. Looking at a process and waiting for its end are always allowed.
const ALLOWED: [(Verb, &[Phase]); 11] = [
    (Verb::Start, &[Phase::Created]),
    (Verb::Exec, &[Phase::Created, Phase::Running]),
    (Verb::Kill, &[Phase::Created, Phase::Starting, Phase::Running, Phase::Paused]),
    (Verb::Delete, &[Phase::Created, Phase::Stopped]),
    (Verb::Pause, &[Phase::Running]),
    (Verb::Resume, &[Phase::Paused]),
    (Verb::Resize, &[Phase::Created, Phase::Starting, Phase::Running, Phase::Paused, Phase::Stopped]),
    (Verb::CloseIo, &[Phase::Created, Phase::Starting, Phase::Running, Phase::Paused, Phase::Stopped]),
    (Verb::Pids, &[Phase::Created, Phase::Running, Phase::Paused]),
    (Verb::Stats, &[Phase::Created, Phase::Running, Phase::Paused]),
    (Verb::Update, &[Phase::Created, Phase::Running, Phase::Paused]),
];

impl Phase {
    /// Whether `verb` may be asked in this state.
    #[must_use]
    pub fn allows(self, verb: Verb) -> bool {
        ALLOWED.iter().any(|(row, phases)| *row == verb && phases.contains(&self))
    }

    /// Whether the process has not ended, as far as the host knows.
    pub(crate) fn is_alive(self) -> bool {
        matches!(self, Self::Created | Self::Starting | Self::Running | Self::Paused)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "being created",
            Self::Created => "created but not started",
            Self::Starting => "being started",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Deleting => "being deleted",
        })
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Exec => "exec",
            Self::Kill => "kill",
            Self::Delete => "delete",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Resize => "resize the terminal",
            Self::CloseIo => "close the input",
            Self::Pids => "list processes",
            Self::Stats => "read statistics",
            Self::Update => "update",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{ALLOWED, Phase, Verb};

    #[test]
    fn each_verb_has_one_row() {
        for (verb, _) in ALLOWED {
            assert_eq!(ALLOWED.iter().filter(|(row, _)| *row == verb).count(), 1, "{verb}");
        }
    }

    #[test]
    fn nothing_is_asked_of_what_is_being_made_or_removed() {
        for (verb, _) in ALLOWED {
            assert!(!Phase::Creating.allows(verb), "{verb}");
            assert!(!Phase::Deleting.allows(verb), "{verb}");
        }
    }

    #[test]
    fn execs_need_a_container_that_can_run_them() {
        assert!(Phase::Running.allows(Verb::Exec));
        assert!(!Phase::Paused.allows(Verb::Exec));
        assert!(!Phase::Stopped.allows(Verb::Exec));
    }
}
