//! The last step in the workload's process: finding the executable and becoming it, with the messages that users know
//! from runc.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use kata_protocol::oci::{LinuxPersonality, Process, Spec};
use nix::errno::Errno;
use nix::sys::personality::{self, Persona};
use nix::sys::signal::SigSet;
use nix::unistd::execve;
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, openat};

use super::seccomp::Filter;
use super::sys;

/// Where executables are looked for when the process has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const HOME: &str = "HOME=";
/// Bytes that are read of a list of users.
const LONGEST_LIST: u64 = 1 << 20;

/// Exit statuses of a shell for a command that is not there, and for one that cannot be run.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

/// Why the executable cannot be run, and the exit status that says so.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unrunnable {
    pub(super) message: String,
    pub(super) status: i32,
}

/// Whether the process can be, before anybody waits for it.
pub(super) fn check(spec: &Spec) -> Result<(), Unrunnable> {
    let process = &*spec.Process;
    persona(spec.Linux.Personality.as_ref()).map_err(not_found)?;
    let found = arguments(process).and_then(|arguments| find(&arguments[0], &search_path(process)));
    found.map(drop).map_err(not_found)
}

/// Becomes the workload, under a filter of system calls, if one is left.
pub(super) fn become_workload(spec: &Spec, filter: Option<Filter>) -> Result<Infallible, Unrunnable> {
    let process = &*spec.Process;
    let arguments = arguments(process).map_err(not_found)?;
    let path = find(&arguments[0], &search_path(process)).map_err(not_found)?;
    let failed = |errno: Errno| {
        let status = if errno == Errno::ENOENT { NOT_FOUND } else { NOT_EXECUTABLE };
        let message = format!("exec {}: {}", path.display(), lower(errno.desc()));
        Unrunnable { message, status }
    };
    let executable = c_string(path.as_os_str().as_encoded_bytes()).map_err(not_found)?;
    let arguments = c_strings(arguments).map_err(not_found)?;
    let environment = c_strings(&environment(process)).map_err(not_found)?;
    sys::restore_signals().map_err(|error| Unrunnable {
        message: format!("exec: signals cannot be reset: {error}"),
        status: NOT_EXECUTABLE,
    })?;
    SigSet::empty().thread_set_mask().map_err(failed)?;
    personality::set(persona(spec.Linux.Personality.as_ref()).map_err(not_found)?).map_err(failed)?;
    if let Some(filter) = filter {
        filter.install().map_err(|error| Unrunnable {
            message: format!("exec: the seccomp filter cannot be set: {error}"),
            status: NOT_EXECUTABLE,
        })?;
    }
    execve(&executable, &arguments, &environment).map_err(failed)
}

fn not_found(message: String) -> Unrunnable {
    Unrunnable { message, status: NOT_FOUND }
}

/// What the workload's kernel looks like to it (OCI `config-linux.md`, "Personality"). Its addresses are random again; see
/// [`fix_addresses_of_children`].
fn persona(wanted: Option<&LinuxPersonality>) -> Result<Persona, String> {
    /// `PER_LINUX32` of linux/personality.h.
    const LINUX32: Persona = Persona::from_bits_retain(8);
    let Some(wanted) = wanted else { return Ok(Persona::empty()) };
    if let Some(flag) = wanted.Flags.first() {
        return Err(format!("There is no flag {flag:?}; remove it from linux.personality"));
    }
    match wanted.Domain.as_str() {
        "LINUX" => Ok(Persona::empty()),
        "LINUX32" => Ok(LINUX32),
        other => Err(format!("There is no domain {other:?}; correct linux.personality")),
    }
}

/// Lets every jail be loaded at the same addresses: an emulated CPU (TCG) translates code anew for each address at
/// which it appears, which makes the start of a process three times as long.
pub(crate) fn fix_addresses_of_children() -> nix::Result<()> {
    let persona = personality::get()?;
    personality::set(persona | Persona::ADDR_NO_RANDOMIZE).map(|_| ())
}

fn c_strings(texts: &[String]) -> Result<Vec<CString>, String> {
    texts.iter().map(|text| c_string(text.as_bytes())).collect()
}

fn c_string(bytes: &[u8]) -> Result<CString, String> {
    CString::new(bytes).map_err(|_| "exec: an argument contains a NUL byte".to_owned())
}

fn arguments(process: &Process) -> Result<&[String], String> {
    match process.Args.first() {
        None => Err("exec: the process has no arguments; set process.args".to_owned()),
        Some(name) if name.is_empty() => Err("exec: \"\": executable file not found in $PATH".to_owned()),
        Some(_) => Ok(&process.Args),
    }
}

/// The process's variables, with a home.
fn environment(process: &Process) -> Vec<String> {
    let mut variables = process.Env.clone();
    if !variables.iter().any(|variable| variable.len() > HOME.len() && variable.starts_with(HOME)) {
        variables.retain(|variable| variable != HOME);
        let users = list_of_users().unwrap_or_default();
        let uid = process.User.get_or_default().UID;
        variables.push(format!("{HOME}{}", home(&users, uid)));
    }
    variables
}

/// The container's list. It is the image's, which may have put something in its place that nobody comes back from.
fn list_of_users() -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = File::from(openat(CWD, "/etc/passwd", flags, Mode::empty())?);
    let mut text = String::new();
    if file.metadata()?.is_file() {
        file.take(LONGEST_LIST).read_to_string(&mut text)?;
    }
    Ok(text)
}

/// The home of a user according to the container's own list. The C library is not asked: it would load what the
/// container calls a module for the name service.
fn home(users: &str, uid: u32) -> &str {
    let uid = uid.to_string();
    let entry = users.lines().map(|line| line.split(':')).find(|fields| fields.clone().nth(2) == Some(&uid));
    entry.and_then(|mut fields| fields.nth(5)).filter(|home| !home.is_empty()).unwrap_or("/")
}

fn search_path(process: &Process) -> String {
    let path = process.Env.iter().rev().find_map(|entry| entry.strip_prefix("PATH="));
    path.unwrap_or(DEFAULT_PATH).to_owned()
}

/// The file that `name` stands for.
fn find(name: &str, search_path: &str) -> Result<PathBuf, String> {
    if name.contains('/') {
        return match executable(Path::new(name)) {
            Ok(()) => Ok(name.into()),
            Err(Errno::ENOENT) => Err(format!("exec: {name:?}: stat {name}: no such file or directory")),
            Err(errno) => Err(format!("exec: {name:?}: {}", lower(errno.desc()))),
        };
    }
    let mut denied = None;
    for directory in search_path.split(':') {
        let candidate = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(errno @ (Errno::EACCES | Errno::EISDIR)) => denied = denied.or(Some(errno)),
            Err(_) => {}
        }
    }
    match denied {
        Some(Errno::EACCES) => Err(format!("exec: {name:?}: permission denied")),
        _ => Err(format!("exec: {name:?}: executable file not found in $PATH")),
    }
}

fn executable(path: &Path) -> Result<(), Errno> {
    let metadata = std::fs::metadata(path).map_err(|error| errno_of(&error))?;
    if metadata.is_dir() {
        return Err(Errno::EISDIR);
    }
    accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
        .map_err(|errno| Errno::from_raw(errno.raw_os_error()))
}

fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}

/// Error texts inside a sentence start small, as everywhere in this field.
fn lower(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_found_by_the_users_number() {
        let users = "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1000::/home/bob:/bin/sh\nodd:x:7\n";
        assert_eq!(
            (home(users, 1000), home(users, 0), home(users, 7), home("", 0)),
            ("/home/bob", "/root", "/", "/")
        );
    }

    #[test]
    fn a_name_is_searched_in_the_path() {
        assert_eq!(find("sh", "/nowhere:/bin").as_deref(), Ok(Path::new("/bin/sh")));
    }

    #[test]
    fn a_missing_name_is_reported_like_runc() {
        assert_eq!(
            find("nope", "/bin:/usr/bin").expect_err("there is none"),
            "exec: \"nope\": executable file not found in $PATH"
        );
    }

    #[test]
    fn a_missing_path_is_reported_like_runc() {
        assert_eq!(
            find("/no/such", "/bin").expect_err("there is none"),
            "exec: \"/no/such\": stat /no/such: no such file or directory"
        );
    }

    #[test]
    fn a_file_that_is_not_executable_is_denied() {
        assert_eq!(find("/etc/passwd", "").expect_err("is data"), "exec: \"/etc/passwd\": permission denied");
    }

    #[test]
    fn a_directory_is_no_executable() {
        assert_eq!(find("/etc", "").expect_err("is a directory"), "exec: \"/etc\": is a directory");
    }
}
