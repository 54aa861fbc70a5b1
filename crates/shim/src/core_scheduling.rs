//! Core scheduling: a pod's processes share a core with nobody else, for hosts whose hyper-threads do not keep secrets from
//! each other.

use rustix::io::Errno;
use rustix::thread::{CoreSchedulingScope, create_core_scheduling_cookie};

/// The pod shares its cores with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SharedCores {
    /// No core has two threads.
    #[error("No core of this host has several hardware threads, so there is nothing to keep apart")]
    NoThreads,
    /// The kernel was built without.
    #[error("The host's kernel has no core scheduling: it needs CONFIG_SCHED_CORE (Linux 5.14)")]
    Unknown,
    /// Anything else.
    #[error("The host's kernel refuses core scheduling")]
    Refused(#[source] Errno),
}

/// Begins a group of its own with this process and all its threads. What they start is in it, too.
pub(crate) fn begin() -> Result<(), SharedCores> {
    let own = rustix::process::getpid();
    create_core_scheduling_cookie(own, CoreSchedulingScope::ThreadGroup).map_err(|errno| match errno {
        Errno::NODEV => SharedCores::NoThreads,
        Errno::INVAL => SharedCores::Unknown,
        other => SharedCores::Refused(other),
    })
}

#[cfg(test)]
mod tests {
    use rustix::thread::core_scheduling_cookie;

    use super::*;

    #[test]
    fn a_group_is_the_processs_own_or_the_host_has_none() {
        match begin() {
            Ok(()) => {
                let cookie = || {
                    let own = rustix::process::getpid();
                    core_scheduling_cookie(own, CoreSchedulingScope::Thread).expect("there is one")
                };
                let (first, _) = (cookie(), begin().expect("as before"));
                assert!(first != 0 && cookie() != first);
            }
            Err(why) => assert!(!matches!(why, SharedCores::Refused(_)), "{why}"),
        }
    }
}
