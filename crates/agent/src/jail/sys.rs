//! The one system call of the jail that has no safe wrapper.
#![expect(unsafe_code, reason = "changing a signal's disposition is unsafe in general; the default never is")]

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Gives SIGPIPE back its default action, which the Rust runtime took away and `execve` would pass on.
pub(super) fn restore_sigpipe() -> nix::Result<()> {
    let action = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler is installed, so no code can run in signal context.
    unsafe { sigaction(Signal::SIGPIPE, &action) }.map(|_| ())
}
