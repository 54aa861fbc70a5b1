//! Finding and ending the processes that a sandbox started, by what they look like in `/proc`.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::time::Timespec;

/// How long a killed process may take to go; it holds on only while the kernel finishes something for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a process that was killed may take until it is seen as gone.
const GOING: Duration = Duration::from_secs(2);

/// Kills all processes of the executable `exe` that have an argument with `token` in it, and waits for their end.
///
/// # Errors
/// A process could not be killed, or does not end.
pub fn kill_all(token: &str, exe: &Path) -> io::Result<()> {
    for entry in fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw)
        else {
            continue;
        };
        if matches(&entry.path(), token, exe) {
            kill(pid, || matches(&entry.path(), token, exe))?;
        }
    }
    Ok(())
}

/// The processes of the executable `exe` that have an argument with `token` in it, and live.
///
/// # Errors
/// `/proc` cannot be listed.
pub fn find(token: &str, exe: &Path) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let pid: Option<u32> = entry.file_name().to_str().and_then(|name| name.parse().ok());
        found.extend(pid.filter(|_| matches(&entry.path(), token, exe)));
    }
    Ok(found)
}

/// Whether the process in `proc` (`/proc/<pid>`) is one of those. A process that is gone is not.
fn matches(proc: &Path, token: &str, exe: &Path) -> bool {
    let Ok(arguments) = fs::read(proc.join("cmdline")) else { return false };
    let token = token.as_bytes();
    let mut arguments = arguments.split(|b| *b == 0);
    let started_as = arguments.next().unwrap_or_default();
    if token.is_empty() || !arguments.any(|arg| has(arg, token)) {
        return false;
    }
    // A process with a root of its own may show another path as its executable than we know it by.
    started_as == exe.as_os_str().as_bytes() || runs(proc, exe)
}

fn runs(proc: &Path, exe: &Path) -> bool {
    let Ok(runs) = fs::read_link(proc.join("exe")) else { return false };
    // A program may be a link on the way to the executable that the kernel names.
    let exe = fs::canonicalize(exe).unwrap_or_else(|_| exe.to_owned());
    // An executable that was replaced since is shown as deleted.
    let runs = runs.as_os_str().as_bytes();
    runs.strip_suffix(b" (deleted)").unwrap_or(runs) == exe.as_os_str().as_bytes()
}

/// When the living process `pid` was started, in ticks since the host's boot: with the number, its identity.
pub fn start_ticks(pid: u32) -> Option<u64> {
    parse_start(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Field 22 of `/proc/<pid>/stat`, unless the process has ended and only waits to be reaped. The second field,
/// the command, may hold anything up to the last `)`.
fn parse_start(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let start = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(start)
}

/// Whether `token` is in `argument`, and not as part of a longer name: the token of sandbox `a` is not in an argument of
/// sandbox `ab`, and that of `db` not in one of `sandbox-db`. A path, which begins with `/`, may be part of a longer path.
fn has(argument: &[u8], token: &[u8]) -> bool {
    let part_of_name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let is_name = token.first().is_some_and(part_of_name);
    argument.windows(token.len()).enumerate().any(|(at, window)| {
        let before = argument[..at].last().filter(|_| is_name);
        let next = argument.get(at + token.len());
        window == token && !before.into_iter().chain(next).any(part_of_name)
    })
}

/// Whether no process has the number of which pidfd_open(2) says this. One that is still a session's or a process group's
/// is called invalid by older kernels, 6.1 for one.
fn is_gone(error: Errno) -> bool {
    matches!(error, Errno::SRCH | Errno::INVAL)
}

/// Kills one process. `still` is asked after a handle on it was taken: the number may have gone to another.
fn kill(pid: Pid, still: impl FnOnce() -> bool) -> io::Result<()> {
    let handle = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(error) if is_gone(error) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if !still() {
        return Ok(());
    }
    match pidfd_send_signal(&handle, Signal::KILL) {
        Ok(()) => {}
        Err(Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    match ends_within(&handle, PATIENCE)? {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::TimedOut, "it does not end although killed")),
    }
}

/// Waits until the processes that are in a cgroup now have ended, a moment for each. They are not killed.
///
/// # Errors
/// Its processes cannot be listed or waited for.
pub(crate) fn wait_for_members(cgroup: &Path) -> io::Result<()> {
    let listed = match fs::read_to_string(cgroup.join("cgroup.procs")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        listed => listed?,
    };
    for pid in listed.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw) {
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => drop(ends_within(&handle, GOING)?),
            Err(error) if is_gone(error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Waits for the end of a process.
fn ends_within(handle: &OwnedFd, patience: Duration) -> io::Result<bool> {
    let timeout = Timespec { tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
    loop {
        match poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&timeout)) {
            Err(Errno::INTR) => {}
            Ok(ready) => return Ok(ready > 0),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether the process with this number and start lives, and is not about to go: a killed process closes its
/// sockets, which its peers act on, before its locks are free and it is seen as gone.
pub fn lives_on(pid: u32, start: u64) -> bool {
    let Some(id) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    let Ok(handle) = pidfd_open(id, PidfdFlags::empty()) else { return false };
    if start_ticks(pid) != Some(start) {
        return false;
    }
    pid == std::process::id() || !ends_within(&handle, GOING).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::process::ExitStatusExt;
    use std::path::Path;
    use std::process::Command;

    use super::{has, kill_all, parse_start};

    #[test]
    fn the_start_time_is_found_behind_an_odd_command() {
        let rest = "1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 100 1";
        assert_eq!(parse_start(&format!("7 (a) (b c) S {rest}")), Some(4242));
        assert_eq!(parse_start(&format!("7 (a) Z {rest}")), None);
        assert_eq!(parse_start("7 (x"), None);
    }

    #[test]
    fn a_token_is_a_whole_name() {
        assert!(has(b"sandbox-a,debug-threads=on", b"sandbox-a"));
        assert!(has(b"/run/sandboxes/a/ro", b"/a"));
        assert!(has(b"sandbox-ab,sandbox-a", b"sandbox-a"));
        assert!(!has(b"sandbox-ab", b"sandbox-a"));
        assert!(!has(b"sandbox-a-b", b"sandbox-a"));
        assert!(!has(b"sandbox-sandbox-a,debug-threads=on", b"sandbox-a"), "the VM of a sandbox `sandbox-a`");
        assert!(!has(b"x.sandbox-a", b"sandbox-a"));
        assert!(!has(b"", b"sandbox-a"));
    }

    #[test]
    fn only_the_process_with_both_the_token_and_the_executable_ends() {
        let token = format!("sandbox-test-{}", std::process::id());
        let start = |token: &str| {
            let mut shell = Command::new("/bin/sh")
                .args(["-c", "echo; read line", token])
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            // It has its command line when it says something.
            shell.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
            shell
        };
        let mut victim = start(&token);
        let mut longer = start(&format!("{token}0"));
        kill_all(&token, Path::new("/bin/false")).unwrap();
        assert!(victim.try_wait().unwrap().is_none(), "another executable");
        kill_all(&token, Path::new("/usr/bin/../bin/sh")).unwrap();
        assert_eq!(victim.wait().unwrap().signal(), Some(9));
        assert!(longer.try_wait().unwrap().is_none(), "another sandbox");
        longer.kill().unwrap();
        longer.wait().unwrap();
        kill_all(&token, Path::new("/bin/sh")).unwrap();
    }
}
