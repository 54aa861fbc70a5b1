//! Who a process is, and what it may use: user, capabilities, limits.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use kata_protocol::oci;
use rustix::fs::{Gid, Uid, fchown, fstat};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit, umask};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities, set_no_new_privs,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::error::{JailError, Named, Result};
use super::seccomp::Filter;

const DEFAULT_MASK: u32 = 0o022;
const OOM_SCORE: &str = "/proc/self/oom_score_adj";

const LIMITS: [(&str, Resource); 16] = [
    ("RLIMIT_AS", Resource::As),
    ("RLIMIT_CORE", Resource::Core),
    ("RLIMIT_CPU", Resource::Cpu),
    ("RLIMIT_DATA", Resource::Data),
    ("RLIMIT_FSIZE", Resource::Fsize),
    ("RLIMIT_LOCKS", Resource::Locks),
    ("RLIMIT_MEMLOCK", Resource::Memlock),
    ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
    ("RLIMIT_NICE", Resource::Nice),
    ("RLIMIT_NOFILE", Resource::Nofile),
    ("RLIMIT_NPROC", Resource::Nproc),
    ("RLIMIT_RSS", Resource::Rss),
    ("RLIMIT_RTPRIO", Resource::Rtprio),
    ("RLIMIT_RTTIME", Resource::Rttime),
    ("RLIMIT_SIGPENDING", Resource::Sigpending),
    ("RLIMIT_STACK", Resource::Stack),
];

/// Sets how likely this process, and what it makes, is killed when memory runs out. Needs the guest's `/proc`.
pub(super) fn score(process: &oci::Process) -> Result<()> {
    set_oom_score(process.OOMScoreAdj).step("set oomScoreAdj")
}

/// Open files that a process may have unless it raises that itself, within the agent's limit, or its specification says
/// otherwise: what `select` can take.
const USUAL_FILES: u64 = 1024;

/// Limits open files as usual.
pub(super) fn limit_files() -> rustix::io::Result<()> {
    let agents = getrlimit(Resource::Nofile);
    if agents.current.is_some_and(|files| files <= USUAL_FILES) {
        return Ok(());
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(USUAL_FILES), ..agents })
}

/// Sets the limits of a process, or of this one.
pub(super) fn limit(pid: Option<Pid>, process: &oci::Process) -> Result<()> {
    for limit in &process.Rlimits {
        let Some((_, resource)) = LIMITS.iter().find(|(name, _)| *name == limit.Type) else {
            return Err(JailError::Refused(format!(
                "There is no limit {:?}; remove it from process.rlimits",
                limit.Type
            )));
        };
        let bound = |value: u64| (value != u64::MAX).then_some(value);
        let rlimit = Rlimit { current: bound(limit.Soft), maximum: bound(limit.Hard) };
        prlimit(pid, *resource, rlimit).at("set the limit", &limit.Type)?;
    }
    Ok(())
}

/// The agent's own protection is not inherited. Zero also stands for "not given", so it need not be possible.
fn set_oom_score(score: i64) -> io::Result<()> {
    let text = score.to_string();
    if fs::read_to_string(OOM_SCORE)?.trim() == text {
        return Ok(());
    }
    match fs::write(OOM_SCORE, text) {
        Err(error) if score == 0 && error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result,
    }
}

/// Becomes the user of the process, with exactly its capabilities. Standard input and output are given to that user,
/// as far as they can be.
///
/// Without `noNewPrivileges` a filter of system calls needs a capability that goes here, so it is set first, and must
/// let the rest pass, as under runc. Otherwise it comes back, to be set as late as possible.
pub(super) fn assume(process: &oci::Process, filter: Option<Filter>) -> Result<Option<Filter>> {
    let user = process.User.get_or_default();
    let (uid, gid) = (Uid::from_raw(user.UID), Gid::from_raw(user.GID));
    own_stdio(uid);
    umask(rustix::fs::Mode::from_raw_mode(user.Umask.unwrap_or(DEFAULT_MASK)));
    let sets = Sets::of(&process.Capabilities)?;
    let later = match filter {
        Some(filter) if !process.NoNewPrivileges => {
            filter.install().step("set the seccomp filter")?;
            None
        }
        later => later,
    };
    sets.bound().step("drop capabilities")?;
    let groups: BTreeSet<u32> = user.AdditionalGids.iter().copied().collect();
    let groups: Vec<Gid> = groups.into_iter().map(Gid::from_raw).collect();
    set_keep_capabilities(true)
        .and_then(|()| set_thread_groups(&groups))
        .and_then(|()| set_thread_res_gid(gid, gid, gid))
        .and_then(|()| set_thread_res_uid(uid, uid, uid))
        .and_then(|()| set_keep_capabilities(false))
        .step("become the user of the process")?;
    sets.apply().step("set the capabilities of the process")?;
    if process.NoNewPrivileges {
        set_no_new_privs(true).step("forbid new privileges")?;
    }
    Ok(later)
}

/// So that a program that is not root can open `/dev/stderr`. What is shared with others (`/dev/null`) stays theirs.
fn own_stdio(uid: Uid) {
    let streams = (rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr());
    for stream in [streams.0, streams.1, streams.2] {
        let device = fstat(stream).is_ok_and(|found| found.st_uid != uid.as_raw() && found.st_rdev == 0);
        if device {
            // Refused on a read-only file system, where it would not help either.
            let _ = fchown(stream, Some(uid), None);
        }
    }
}

struct Sets {
    bounding: CapabilitySet,
    ambient: CapabilitySet,
    sets: CapabilitySets,
}

impl Sets {
    /// None given is none at all.
    fn of(given: &oci::LinuxCapabilities) -> Result<Self> {
        let sets = CapabilitySets {
            effective: read(&given.Effective)?,
            permitted: read(&given.Permitted)?,
            inheritable: read(&given.Inheritable)?,
        };
        Ok(Self { bounding: read(&given.Bounding)?, ambient: read(&given.Ambient)?, sets })
    }

    /// Drops what the process may never have; needs a capability itself, so it comes first.
    fn bound(&self) -> rustix::io::Result<()> {
        for bit in 0..u64::BITS {
            let capability = CapabilitySet::from_bits_retain(1 << bit);
            if self.bounding.contains(capability) {
                continue;
            }
            match remove_capability_from_bounding_set(capability) {
                Ok(()) => {}
                // The kernel knows no more.
                Err(rustix::io::Errno::INVAL) => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    fn apply(&self) -> rustix::io::Result<()> {
        set_capabilities(None, self.sets)?;
        clear_ambient_capability_set()?;
        self.ambient.iter().try_for_each(|capability| configure_capability_in_ambient_set(capability, true))
    }
}

/// Names as `CAP_CHOWN`.
fn read(names: &[String]) -> Result<CapabilitySet> {
    let mut set = CapabilitySet::empty();
    for name in names {
        let known = name.strip_prefix("CAP_").and_then(CapabilitySet::from_name);
        set |= known.ok_or_else(|| {
            JailError::Refused(format!(
                "There is no capability {name:?}; remove it from process.capabilities"
            ))
        })?;
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::{CapabilitySet, read};

    #[test]
    fn capabilities_are_read_by_their_names() {
        let names = ["CAP_KILL".to_owned(), "CAP_CHOWN".to_owned()];
        assert_eq!(read(&names).expect("known"), CapabilitySet::KILL | CapabilitySet::CHOWN);
    }

    #[test]
    fn an_unknown_capability_is_named() {
        let error = read(&["CAP_FLY".to_owned()]).expect_err("there is none");
        assert!(error.to_string().contains("CAP_FLY"));
    }
}
