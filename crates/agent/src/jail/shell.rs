//! The first steps of a console's shell, in the guest itself: `kata-agent container shell PROCS PROGRAM terminal|'' ARGUMENT…`.
//! Stdio is the shell's already.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::io;

use nix::sys::personality::{self, Persona};
use nix::unistd::execv;
use rustix::process::setsid;

use super::error::{Named, Result};
use super::{identity, sys};

/// As a shell says that a command cannot be run.
const NOT_EXECUTABLE: u8 = 126;

/// Becomes the shell, or returns an exit status.
pub(super) fn main(arguments: impl Iterator<Item = String>) -> u8 {
    let Err(error) = become_shell(arguments);
    eprintln!("kata-agent: {}", crate::report::chain(&error));
    NOT_EXECUTABLE
}

fn become_shell(mut arguments: impl Iterator<Item = String>) -> Result<Infallible> {
    let mut next = || arguments.next().unwrap_or_default();
    let (entrance, program, terminal) = (next(), next(), next());
    setsid().step("make a session")?;
    if !terminal.is_empty() {
        sys::control_terminal(io::stdin()).step("be controlled by the terminal")?;
    }
    if !entrance.is_empty() {
        fs::write(&entrance, "0").at("enter", &entrance)?;
    }
    // What is the agent's own: its rank for the OOM killer, its scheduling, its limits, its fixed addresses, its signals.
    fs::write("/proc/self/oom_score_adj", "0").step("be as likely to be killed as others")?;
    sys::schedule_as_usual().step("set the scheduling policy")?;
    identity::limit_files().step("set the usual limit of open files")?;
    personality::set(Persona::empty()).step("have random addresses")?;
    sys::restore_signals().step("reset signals")?;
    sys::close_others_on_exec().step("close descriptors")?;
    let words = ["sh".to_owned()].into_iter().chain(arguments);
    let words: Vec<CString> =
        words.map(CString::new).collect::<std::result::Result<_, _>>().step("take the words")?;
    let path = CString::new(program.as_str()).step("take the words")?;
    execv(&path, &words).at("run", &program)
}
