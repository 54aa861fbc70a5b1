//! Tells what a process in a container can see: `kata-probe [SECTION…]`, without sections all but `calls`, `files` and `single-files`.
//! `kata-probe hold DIR` and `kata-probe meet DIR` are two ends of a test, `kata-probe user` tells the effective user's id,
//! `kata-probe huge FILE BYTES` maps a file of huge pages.
//!
//! One fact a line, its name and its value with a tab between them, so that the reports of two runtimes can be compared
//! name by name. What must differ between two kernels (times, numbers of mounts and inodes) is not told.
//!
//! `kata-probe watch PATH…` tells what happens to files instead, `kata-probe storage WHAT PATH…` how fast they are.

mod calls;
mod devices;
mod files;
mod huge;
mod mounts;
mod paths;
mod peers;
mod process;
mod report;
mod storage;
mod sys;
mod watch;

use std::io;
use std::path::Path;
use std::process::ExitCode;

use report::Report;

/// A section's name, and who writes it.
type Section = (&'static str, fn(&mut Report));

/// In the order in which they are told.
const SECTIONS: [Section; 7] = [
    ("process", process::tell),
    ("mounts", mounts::tell),
    ("devices", devices::tell),
    ("paths", paths::tell),
    ("calls", calls::tell),
    ("files", files::tell),
    ("single-files", files::tell_but_folders),
];

/// Take long, and are told only on request.
const ON_REQUEST: [&str; 3] = ["calls", "files", "single-files"];

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("watch", paths)) = wanted.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return match watch::run(paths) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    let mut report = Report::default();
    let told = tell(&mut report, &wanted.iter().map(String::as_str).collect::<Vec<_>>());
    if let Err(error) = &told {
        report.tell("failure", error);
    }
    match report.print().and(told) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn tell(report: &mut Report, wanted: &[&str]) -> io::Result<()> {
    match wanted {
        ["hold", dir] => return peers::hold(report, Path::new(dir)),
        ["meet", dir] => return peers::meet(report, Path::new(dir)),
        ["storage", wanted @ ..] => return storage::run(wanted),
        ["huge", path, bytes] => return huge::tell(report, path, bytes),
        ["user"] => report.tell("user", rustix::process::geteuid().as_raw()),
        _ => {}
    }
    for (name, tell) in SECTIONS {
        if wanted.contains(&name) || wanted.is_empty() && !ON_REQUEST.contains(&name) {
            tell(report);
        }
    }
    Ok(())
}
