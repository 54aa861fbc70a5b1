//! The one place that waits for processes. As PID 1 the agent is the parent of every orphan of the guest.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{WaitOptions, wait};
use tokio::signal::unix::Signal;
use tokio::sync::watch;

/// Exit status of a process: its code, or 128 and the signal that ended it.
pub(crate) type ExitCode = i32;

/// Hands out exit statuses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reaper(Arc<Mutex<Registry>>);

#[derive(Debug, Default)]
struct Registry {
    /// Processes being made: whose statuses may arrive before anybody knows their ids.
    spawning: usize,
    unclaimed: HashMap<i32, ExitCode>,
    watched: HashMap<i32, watch::Sender<Option<ExitCode>>>,
}

/// While it lives, no status is lost. To be had before a process is made.
#[derive(Debug)]
pub(crate) struct Spawning(Reaper);

/// The status of one process, once it has ended.
#[derive(Clone, Debug)]
pub(crate) struct Exit(watch::Receiver<Option<ExitCode>>);

impl Exit {
    /// Waits for the end of the process.
    pub(crate) async fn wait(&mut self) -> ExitCode {
        match self.0.wait_for(Option::is_some).await {
            Ok(code) => code.unwrap_or_default(),
            // Without a registry nobody can know; the agent is ending.
            Err(_) => 128 + libc::SIGKILL,
        }
    }

    /// The status, if the process has ended.
    pub(crate) fn code(&self) -> Option<ExitCode> {
        *self.0.borrow()
    }
}

impl Reaper {
    /// Reaps whenever `signals` (SIGCHLD) says so. Never returns while signals come.
    pub(crate) async fn run(self, mut signals: Signal) {
        self.reap();
        while signals.recv().await.is_some() {
            self.reap();
        }
    }

    /// Keeps statuses from now on.
    pub(crate) fn expect(&self) -> Spawning {
        self.registry().spawning += 1;
        Spawning(self.clone())
    }

    fn reap(&self) {
        let options = WaitOptions::NOHANG | WaitOptions::from_bits_retain(libc::__WALL.cast_unsigned());
        // Signals are numbers here: those for real time have no names.
        while let Ok(Some((pid, status))) = wait(options) {
            let by_signal = status.terminating_signal().map(|signal| 128 + signal);
            if let Some(code) = status.exit_status().or(by_signal) {
                self.record(pid.as_raw_nonzero().get(), code);
            }
        }
    }

    fn record(&self, pid: i32, code: ExitCode) {
        let mut registry = self.registry();
        if let Some(sender) = registry.watched.remove(&pid) {
            sender.send_replace(Some(code));
        } else if registry.spawning > 0 {
            registry.unclaimed.insert(pid, code);
        }
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        // Every change is complete before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spawning {
    /// The end of process `pid`, which was made since.
    pub(crate) fn claim(&self, pid: i32) -> Exit {
        let mut registry = self.0.registry();
        if let Some(code) = registry.unclaimed.remove(&pid) {
            return Exit(watch::channel(Some(code)).1);
        }
        let (sender, receiver) = watch::channel(None);
        registry.watched.insert(pid, sender);
        Exit(receiver)
    }

    /// The same, of the only process that was made: what ends later is not kept for whoever gets its number.
    pub(crate) fn claim_only(self, pid: i32) -> Exit {
        self.claim(pid)
    }
}

#[cfg(test)]
impl Spawning {
    /// As if process `pid` had been reaped.
    pub(crate) fn ended(&self, pid: i32, code: ExitCode) {
        self.0.record(pid, code);
    }
}

impl Drop for Spawning {
    fn drop(&mut self) {
        let mut registry = self.0.registry();
        registry.spawning -= 1;
        if registry.spawning == 0 {
            registry.unclaimed.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use tokio::signal::unix::{SignalKind, signal};

    use super::*;

    /// nix knows no such signals: the status was lost, and who waited for it waited for ever.
    #[tokio::test]
    async fn the_end_by_a_real_time_signal_is_told() {
        let reaper = Reaper::default();
        let signals = signal(SignalKind::child()).expect("a runtime");
        let spawning = reaper.expect();
        let mut child =
            Command::new("/bin/sh").args(["-c", "kill -37 $$"]).spawn().expect("there is a shell");
        let mut exit = spawning.claim(child.id().cast_signed());
        tokio::spawn(reaper.clone().run(signals));
        assert_eq!(exit.wait().await, 128 + 37);
        assert!(child.wait().is_err(), "it has been waited for");
    }

    #[tokio::test]
    async fn a_status_that_comes_first_is_kept() {
        let reaper = Reaper::default();
        let spawning = reaper.expect();
        reaper.record(7, 3);
        assert_eq!(spawning.claim(7).wait().await, 3);
    }

    #[tokio::test]
    async fn a_status_that_comes_later_wakes_all_who_wait() {
        let reaper = Reaper::default();
        let mut exit = reaper.expect().claim(7);
        let mut other = exit.clone();
        assert_eq!(exit.code(), None);
        reaper.record(7, 137);
        assert_eq!((exit.wait().await, other.wait().await), (137, 137));
    }

    #[test]
    fn orphans_are_forgotten() {
        let reaper = Reaper::default();
        reaper.record(7, 0);
        assert!(reaper.registry().unclaimed.is_empty());
        let spawning = reaper.expect();
        reaper.record(8, 0);
        drop(spawning);
        assert!(reaper.registry().unclaimed.is_empty());
    }
}
