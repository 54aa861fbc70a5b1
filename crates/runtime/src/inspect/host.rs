//! What the host knows of a sandbox: `/proc`, its cgroups, the bundles.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use kata_sandbox::{Announced, Intent};
use kata_storage::processes;
use serde::Serialize;
use serde_json::Value;

/// Files that say nothing about a VM.
const UNREMARKABLE: [&str; 4] = ["/dev/null", "/dev/urandom", "/dev/random", "/dev/zero"];

/// Limits and figures of a cgroup, in both versions.
const CGROUP_FILES: [&str; 10] = [
    "memory.max",
    "memory.current",
    "cpu.max",
    "cpu.weight",
    "pids.max",
    "pids.current",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "cpu.cfs_quota_us",
    "cpu.shares",
];

/// A process of the sandbox on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct HostProcess {
    pub(super) pid: u32,
    pub(super) name: String,
    pub(super) resident_kib: u64,
    pub(super) threads: u64,
}

/// Something that was mounted for the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Mount {
    pub(super) target: PathBuf,
    /// Type and source; absent if it is not there (yet).
    pub(super) what: Option<String>,
}

/// A cgroup of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Cgroup {
    pub(super) path: PathBuf,
    /// Limits and figures, by the names of their files.
    pub(super) values: BTreeMap<&'static str, String>,
}

/// The limits in a container's `config.json`, as they stand there.
pub(super) type Limits = BTreeMap<String, Value>;

/// The shim, the VMM and its daemons.
pub(super) fn processes(log: &Announced) -> Vec<HostProcess> {
    let daemons = log.intents.iter().filter_map(|intent| match intent {
        Intent::Process { argv_token, exe } => processes::find(argv_token, exe).ok(),
        _ => None,
    });
    let mut pids: Vec<u32> = log.owner.into_iter().chain(daemons.flatten()).collect();
    pids.sort_unstable();
    pids.dedup();
    pids.into_iter().filter_map(process).collect()
}

fn process(pid: u32) -> Option<HostProcess> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim).unwrap_or_default()
    };
    let number = |name| field(name).trim_end_matches("kB").trim().parse().unwrap_or(0);
    // The whole name: the kernel's is cut off after 15 letters.
    let program = fs::read_link(format!("/proc/{pid}/exe")).ok();
    let program =
        program.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let name = program.unwrap_or_else(|| field("Name").to_owned());
    Some(HostProcess { pid, name, resident_kib: number("VmRSS"), threads: number("Threads") })
}

/// Files and devices that a process has open, each once.
pub(super) fn open_files(pid: u32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let links = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    let paths = links.map(|link| link.display().to_string());
    let mut paths: Vec<String> =
        paths.filter(|path| path.starts_with('/') && !UNREMARKABLE.contains(&path.as_str())).collect();
    paths.sort();
    paths.dedup();
    paths
}

/// What was mounted, as this process sees it.
pub(super) fn mounts(intents: &[Intent]) -> Vec<Mount> {
    // Names need not be text.
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let table = String::from_utf8_lossy(&table);
    let what = |target: &Path| {
        let target = target.to_string_lossy();
        let line = table.lines().rev().find(|line| line.split(' ').nth(4) == Some(&target))?;
        let mut about = line.split_once(" - ")?.1.split(' ');
        Some(format!("{} of {}", about.next()?, about.next()?))
    };
    let targets = intents.iter().filter_map(|intent| match intent {
        Intent::Mount { target } => Some(target),
        _ => None,
    });
    targets.map(|target| Mount { target: target.clone(), what: what(target) }).collect()
}

/// The cgroups that the sandbox made.
pub(super) fn cgroups(intents: &[Intent]) -> Vec<Cgroup> {
    let all: Vec<_> = intents
        .iter()
        .filter_map(|intent| match intent {
            Intent::Cgroup { path } => Some(path),
            _ => None,
        })
        .collect();
    // What holds another is for all sandboxes.
    let is_own = |path: &&PathBuf| !all.iter().any(|other| other != path && other.starts_with(path));
    let paths = all.iter().copied().filter(is_own);
    let read = |path: &PathBuf| {
        let text =
            |name: &&'static str| Some((*name, fs::read_to_string(path.join(name)).ok()?.trim().to_owned()));
        Cgroup { path: path.clone(), values: CGROUP_FILES.iter().filter_map(text).collect() }
    };
    paths.map(read).collect()
}

/// The limits of a bundle; none if it cannot be read. Rules of devices are long, and no limits.
pub(super) fn limits(bundle: &Path) -> Limits {
    let spec = fs::read(bundle.join("config.json")).unwrap_or_default();
    let mut spec: Value = serde_json::from_slice(&spec).unwrap_or_default();
    let resources = spec.pointer_mut("/linux/resources").map(Value::take);
    let Some(Value::Object(resources)) = resources else { return Limits::new() };
    resources.into_iter().filter(|(name, value)| name != "devices" && !is_empty(value)).collect()
}

fn is_empty(value: &Value) -> bool {
    value.is_null()
        || value.as_array().is_some_and(Vec::is_empty)
        || value.as_object().is_some_and(serde_json::Map::is_empty)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use kata_sandbox::Intent;

    use super::{limits, mounts, open_files, process};

    #[test]
    fn a_process_has_its_whole_name_and_some_memory() {
        let own = process(std::process::id()).unwrap();
        assert!(own.name.starts_with("kata_runtime") && own.resident_kib > 0 && own.threads > 0, "{own:?}");
    }

    #[test]
    fn open_files_are_found_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display().to_string();
        assert!(open_files(std::process::id()).contains(&path));
    }

    #[test]
    fn what_is_mounted_is_told_from_what_is_not() {
        let intent = |target: &str| Intent::Mount { target: target.into() };
        let found = mounts(&[intent("/proc"), intent("/nowhere")]);
        assert_eq!(found[0].what.as_deref(), Some("proc of proc"));
        assert_eq!(found[1].what, None);
    }

    #[test]
    fn limits_are_those_of_the_bundle() {
        let dir = tempfile::tempdir().unwrap();
        assert!(limits(dir.path()).is_empty());
        let spec =
            r#"{"linux":{"resources":{"memory":{"limit":5},"devices":[{"allow":false}],"pids":null}}}"#;
        fs::write(dir.path().join("config.json"), spec).unwrap();
        let limits = limits(dir.path());
        assert_eq!((limits.len(), limits["memory"]["limit"].as_u64()), (1, Some(5)));
    }
}
