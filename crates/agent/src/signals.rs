//! Signals by their numbers: those for real time have no names, and stop what runs systemd (`SIGRTMIN+3`).

use std::io;

use crate::sys;

/// The last of Linux's signals.
const LAST: i32 = 64;

/// A signal of Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signal(i32);

impl Signal {
    /// What cannot be refused.
    pub(crate) const KILL: Self = Self(libc::SIGKILL);

    /// The terminal is gone.
    pub(crate) const HUP: Self = Self(libc::SIGHUP);
    /// What was stopped goes on.
    pub(crate) const CONT: Self = Self(libc::SIGCONT);

    /// The signal of this number, if there is one.
    pub(crate) fn new(number: u32) -> Option<Self> {
        i32::try_from(number).ok().filter(|number| (1..=LAST).contains(number)).map(Self)
    }

    /// Sends it to a process.
    pub(crate) fn send(self, pid: i32) -> io::Result<()> {
        sys::kill(pid, self.0)
    }

    /// Sends it to all processes of a group.
    pub(crate) fn send_to_group(self, group: i32) -> io::Result<()> {
        sys::kill(-group, self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::Signal;

    #[test]
    fn there_are_64_signals() {
        assert_eq!(Signal::new(9), Some(Signal::KILL));
        assert!(Signal::new(64).is_some());
        for number in [0, 65, u32::MAX] {
            assert_eq!(Signal::new(number), None);
        }
    }

    #[test]
    fn a_signal_for_real_time_arrives() {
        let mut sleeper = Command::new("/bin/sleep").arg("1000").spawn().expect("coreutils");
        Signal::new(37).expect("there is one").send(sleeper.id().cast_signed()).expect("it lives");
        assert_eq!(sleeper.wait().expect("a child").signal(), Some(37));
    }
}
