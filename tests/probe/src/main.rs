//! Tells what a process in a container can see: `kata-probe [SECTION…]`, without sections all but `calls`.
//!
//! One fact a line, its name and its value with a tab between them, so that the reports of two runtimes can be compared
//! name by name. What must differ between two kernels (times, numbers of mounts and inodes) is not told.
//!
//! `kata-probe watch PATH…` tells what happens to files instead.

mod calls;
mod devices;
mod mounts;
mod paths;
mod process;
mod report;
mod sys;
mod watch;

use std::process::ExitCode;

use report::Report;

/// A section's name, and who writes it.
type Section = (&'static str, fn(&mut Report));

/// In the order in which they are told.
const SECTIONS: [Section; 5] = [
    ("process", process::tell),
    ("mounts", mounts::tell),
    ("devices", devices::tell),
    ("paths", paths::tell),
    ("calls", calls::tell),
];

/// Takes long, and is told only on request.
const ON_REQUEST: &str = "calls";

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
    for (name, tell) in SECTIONS {
        let asked_for = wanted.iter().any(|wanted| wanted == name);
        if asked_for || wanted.is_empty() && name != ON_REQUEST {
            tell(&mut report);
        }
    }
    match report.print() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
