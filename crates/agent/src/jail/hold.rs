//! A process that becomes no workload but stays, so that its namespaces do (`container/holder.rs`).

use std::convert::Infallible;

use nix::sys::signal::{SigSet, Signal};
use rustix::process::{WaitOptions, wait};

use super::FAILED;
use super::sys;

/// Holds its namespaces until it is killed. It is the first process of its pid namespace, to whom the orphans in it come.
/// Nothing of the guest stays open in it, and it stays closed to others, even to those that share its namespaces: it has
/// not become another program.
pub(super) fn hold() -> i32 {
    match sys::close_others().map_err(drop).and_then(|()| reap_for_ever().map_err(drop)) {
        Ok(never) => match never {},
        Err(()) => FAILED,
    }
}

fn reap_for_ever() -> nix::Result<Infallible> {
    let mut ended = SigSet::empty();
    ended.add(Signal::SIGCHLD);
    ended.thread_block()?;
    loop {
        while matches!(wait(WaitOptions::NOHANG), Ok(Some(_))) {}
        ended.wait()?;
    }
}
