//! Ctrl-C and termination: the program that is being run ends, which is an error where it was called, and everything
//! that was made so far is undone on the way out. A second signal kills it, a third one ends this process at once.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, bail};
use rustix::process::{Pid, Signal, getpgid, getpgrp, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Signals belong to the process, and so does their number.
static ASKED: AtomicU32 = AtomicU32::new(0);

/// Begins to listen.
pub(crate) fn install() -> Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            match ASKED.fetch_add(1, Ordering::Relaxed) {
                0 => tell_children(Signal::TERM),
                1 => tell_children(Signal::KILL),
                _ => std::process::exit(128 + signal),
            }
        }
    });
    Ok(())
}

/// An error once somebody wants this process to end: nothing new is begun.
pub(crate) fn check() -> Result<()> {
    if ASKED.load(Ordering::Relaxed) > 0 {
        bail!("Interrupted");
    }
    Ok(())
}

/// Children in a process group of their own, such as containerd, are ended in their time.
fn tell_children(signal: Signal) {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    for thread in threads {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        let children =
            children.split_whitespace().filter_map(|child| child.parse().ok().and_then(Pid::from_raw));
        for child in children.filter(|child| getpgid(Some(*child)) == Ok(getpgrp())) {
            // It may have ended by itself meanwhile.
            let _ = kill_process(child, signal);
        }
    }
}
