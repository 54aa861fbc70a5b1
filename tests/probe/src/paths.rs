//! What is kept from containers, and what they can write.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

use crate::report::Report;

/// What runtimes mask.
const MASKED: [&str; 14] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/version",
    "/proc/cmdline",
];
/// What runtimes make read-only.
const WRITABLE: [&str; 8] = [
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/domainname",
    "/proc/sys/vm/drop_caches",
    "/proc/sysrq-trigger",
    "/proc/irq/default_smp_affinity",
    "/proc/self/oom_score_adj",
    "/proc/self/attr/exec",
    "/etc/passwd",
];
/// Folders in which a file is made.
const FOLDERS: [&str; 10] =
    ["/", "/tmp", "/dev", "/dev/shm", "/run", "/etc", "/sys", "/sys/fs/cgroup", "/proc", "/data"];
/// Settings that have a namespace.
const SETTINGS: [&str; 10] = [
    "kernel/hostname",
    "kernel/domainname",
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmmax",
    "kernel/shm_rmid_forced",
    "fs/mqueue/msg_max",
    "net/ipv4/ip_unprivileged_port_start",
];

pub(crate) fn tell(report: &mut Report) {
    for path in MASKED {
        report.tell_result(format_args!("masked {path}"), content(Path::new(path)));
    }
    for path in WRITABLE {
        let opened = OpenOptions::new().append(true).open(path).map(|_| "opens");
        report.tell_result(format_args!("write {path}"), opened);
    }
    for folder in FOLDERS {
        let file = Path::new(folder).join("probe-file");
        let made = File::create_new(&file).and_then(|_| fs::remove_file(&file)).map(|()| "makes files");
        report.tell_result(format_args!("folder {folder}"), made);
    }
    for setting in SETTINGS {
        let text = fs::read_to_string(format!("/proc/sys/{setting}"));
        report.tell_result(format_args!("setting {setting}"), text);
    }
    report.tell_result("root", fs::read_dir("/").map(names));
}

/// Whether something can be read there; not what.
fn content(path: &Path) -> io::Result<&'static str> {
    if fs::metadata(path)?.is_dir() {
        return Ok(if fs::read_dir(path)?.next().is_some() { "a folder" } else { "an empty folder" });
    }
    let read = File::open(path)?.read(&mut [0; 16])?;
    Ok(if read > 0 { "a file" } else { "an empty file" })
}

fn names(folder: fs::ReadDir) -> String {
    let mut names: Vec<String> =
        folder.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names.join(" ")
}
