//! Who the process is, and what it may use.

use std::env;
use std::fs;

use rustix::fs::fstat;
use rustix::termios::{isatty, tcgetwinsize};

use crate::report::Report;
use crate::sys;

/// Lines of `/proc/self/status` that a runtime decides about.
const STATUS: [&str; 17] = [
    "Pid", "PPid", "Umask", "Uid", "Gid", "Groups", "NSpid", "NSsid", "NSpgid", "SigBlk", "SigIgn", "SigPnd",
    "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb",
];
/// More of them: what holds for programs it will start.
const FILTERS: [&str; 3] = ["NoNewPrivs", "Seccomp", "Seccomp_filters"];

pub(crate) fn tell(report: &mut Report) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for line in status.lines() {
        if let Some((name, value)) = line.split_once(':')
            && (STATUS.contains(&name) || FILTERS.contains(&name))
        {
            report.tell(format_args!("status {name}"), value.trim());
        }
    }
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    for line in limits.lines().skip(1) {
        let (name, value) = line.split_at_checked(26).unwrap_or((line, ""));
        report.tell(
            format_args!("limit {}", name.trim()),
            value.split_whitespace().collect::<Vec<_>>().join(" "),
        );
    }
    for file in ["oom_score_adj", "uid_map", "gid_map", "setgroups", "sessionid", "loginuid", "timerslack_ns"]
    {
        report.tell_result(
            format_args!("own {file}"),
            fs::read_to_string(format!("/proc/self/{file}")).map(|text| words(&text)),
        );
    }
    surroundings(report);
    scheduling(report);
    streams(report);
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn surroundings(report: &mut Report) {
    for (name, value) in env::vars() {
        report.tell(format_args!("variable {name}"), value);
    }
    report.tell("arguments", env::args().collect::<Vec<_>>().join(" "));
    report.tell_result("folder", env::current_dir().map(|path| path.display().to_string()));
    let host = rustix::system::uname();
    report.tell("host", host.nodename().to_string_lossy());
    report.tell("domain", host.domainname().to_string_lossy());
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    report.tell("processes", numbers.count());
}

fn scheduling(report: &mut Report) {
    report.tell_result("scheduler", sys::scheduler());
    report.tell_result("nice", sys::nice());
    report.tell_result("io priority", sys::io_priority().map(|value| format!("{value:#x}")));
    report.tell_result("personality", sys::personality().map(|value| format!("{value:#x}")));
}

/// What is open. The report itself goes to a pipe or a terminal in either case.
fn streams(report: &mut Report) {
    let open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    for entry in open {
        let number = entry.file_name();
        let target = fs::read_link(entry.path()).map(|path| path.display().to_string());
        // The listing of this very folder.
        if target.as_ref().is_ok_and(|target| target.ends_with("/fd")) {
            continue;
        }
        let kind = target.map(|target| target.split(":[").next().unwrap_or_default().to_owned());
        report.tell_result(format_args!("descriptor {}", number.to_string_lossy()), kind);
    }
    let streams = [
        ("stdin", rustix::stdio::stdin()),
        ("stdout", rustix::stdio::stdout()),
        ("stderr", rustix::stdio::stderr()),
    ];
    for (name, stream) in streams {
        report.tell(format_args!("{name} terminal"), isatty(stream));
        report.tell_result(
            format_args!("{name} owner"),
            fstat(stream).map(|found| found.st_uid).map_err(Into::into),
        );
    }
    if let Ok(size) = tcgetwinsize(rustix::stdio::stdout()) {
        report.tell("terminal size", format_args!("{}x{}", size.ws_col, size.ws_row));
    }
}
