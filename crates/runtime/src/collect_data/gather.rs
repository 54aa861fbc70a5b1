//! What goes into the archive.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::global::Global;
use crate::{check, env, inspect, list, logs, sandboxes, version};

use super::Entry;

/// Files of the host that tell what it is.
const HOST_FILES: [&str; 10] = [
    "/etc/os-release",
    "/proc/version",
    "/proc/cmdline",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/modules",
    "/proc/filesystems",
    "/proc/self/cgroup",
    "/proc/pressure/memory",
    "/proc/sys/kernel/io_uring_disabled",
];

/// Files and directories with the configuration of container managers.
const MANAGERS: [&str; 6] = [
    "/etc/containerd/config.toml",
    "/etc/containerd/conf.d",
    "/etc/crio/crio.conf",
    "/etc/crio/crio.conf.d",
    "/etc/docker/daemon.json",
    "/etc/nerdctl/nerdctl.toml",
];

/// Programs that say their version.
const PROGRAMS: [&[&str]; 5] = [
    &["containerd", "--version"],
    &["crio", "--version"],
    &["runc", "--version"],
    &["uname", "-a"],
    &["lsmod"],
];

/// So many lines of the journal.
const JOURNAL: [&str; 8] =
    ["journalctl", "-t", "kata", "-n", "5000", "-o", "short-iso-precise", "--no-pager"];

/// Files that are larger are not what they are taken for.
const LONGEST: u64 = 4 << 20;

/// Everything.
///
/// # Errors
/// `only` is no sandbox.
pub(super) fn all(global: &Global, only: Option<&str>) -> anyhow::Result<Vec<Entry>> {
    let ids = match only {
        Some(id) => vec![sandboxes::full_id(&global.root, id)?],
        None => sandboxes::all(&global.root)?,
    };
    let mut entries = of_runtime(global);
    entries.extend(HOST_FILES.iter().filter_map(|path| file("host", Path::new(path))));
    entries.extend(MANAGERS.iter().flat_map(|path| files("manager", Path::new(path))));
    entries.extend(PROGRAMS.iter().filter_map(|words| said(&format!("host/{}.txt", words[0]), words)));
    entries.extend(said("journal.txt", &JOURNAL));
    for id in &ids {
        entries.extend(of_sandbox(global, id));
    }
    Ok(entries)
}

fn of_runtime(global: &Global) -> Vec<Entry> {
    let mut entries = vec![Entry::of_json("version.json", version::json())];
    entries.push(Entry::of_json("check.json", check::json(global)));
    match env::json(global) {
        Ok(environment) => entries.push(Entry::of_json("env.json", environment)),
        Err(error) => entries.push(Entry::of("env.error.txt", &format!("{error:#}\n"))),
    }
    if let Ok(list) = list::json(&global.root) {
        entries.push(Entry::of_json("list.json", list));
    }
    // The file may be what is wrong: so it is found without being understood.
    if let Some(path) = global.config_path() {
        entries.extend(file("configuration", &path));
        entries
            .extend(path.parent().into_iter().flat_map(|dir| files("configuration", &dir.join("config.d"))));
    }
    entries
}

fn of_sandbox(global: &Global, id: &str) -> Vec<Entry> {
    let dir = global.root.join(id);
    let place = format!("sandboxes/{id}");
    let mut entries = Vec::new();
    if let Ok(seen) = inspect::look(global, id) {
        for (container, bundle) in seen.bundles() {
            let spec = read(&bundle.join("config.json")).and_then(|text| serde_json::from_str(&text).ok());
            entries.extend(
                spec.map(|spec: Value| Entry::of_json(format!("{place}/{container}/config.json"), spec)),
            );
        }
        let inspected = serde_json::to_value(&seen).unwrap_or_default();
        entries.insert(0, Entry::of_json(format!("{place}/inspect.json"), inspected));
    }
    let timeline = read(&dir.join(kata_sandbox::timeline::TIMELINE_FILE));
    entries.extend(timeline.map(|text| Entry::of(format!("{place}/timeline.json"), &text)));
    let lines: String = logs::of(id, &dir).iter().map(|line| format!("{line}\n")).collect();
    entries.push(Entry::of(format!("{place}/logs.txt"), &lines));
    entries
}

/// The files in a directory, or the one of that name.
fn files(place: &str, path: &Path) -> Vec<Entry> {
    let Ok(inside) = fs::read_dir(path) else { return file(place, path).into_iter().collect() };
    let mut paths: Vec<PathBuf> = inside.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().filter_map(|path| file(place, path)).collect()
}

fn file(place: &str, path: &Path) -> Option<Entry> {
    let text = read(path)?;
    Some(Entry::of(format!("{place}{}", path.display()), &text))
}

fn read(path: &Path) -> Option<String> {
    let about = fs::metadata(path).ok()?;
    if !about.is_file() || about.len() > LONGEST {
        return None;
    }
    fs::read(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// What a program says, if it is there.
fn said(name: &str, words: &[&str]) -> Option<Entry> {
    let output = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let text = String::from_utf8_lossy(&output.ok()?.stdout).into_owned();
    Some(Entry::of(name, &text)).filter(|entry| entry.bytes > 0)
}
