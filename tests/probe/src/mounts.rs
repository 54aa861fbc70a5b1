//! What is mounted where, and how.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::report::Report;

/// Options of a file system that a specification can set.
const CHOSEN: [&str; 9] =
    ["size", "mode", "nr_inodes", "uid", "gid", "ptmxmode", "newinstance", "hidepid", "ro"];

pub(crate) fn tell(report: &mut Report) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut order = Vec::new();
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        let ([_, _, _, _, point, options, tags @ ..], [kind, _, own]) = (&left[..], &right[..]) else {
            continue;
        };
        order.push((*point).to_owned());
        let name = |what: &str| format!("mount {point} {what}");
        report.tell(name("type"), kind);
        report.tell(name("options"), sorted(options));
        report.tell(name("passes on"), tags.iter().any(|tag| tag.starts_with("shared:")));
        report.tell(name("receives"), tags.iter().any(|tag| tag.starts_with("master:")));
        report.tell_result(
            name("root"),
            fs::metadata(point).map(|root| format!("{}:{} {:o}", root.uid(), root.gid(), root.mode())),
        );
        if matches!(*kind, "tmpfs" | "devpts" | "proc") {
            let chosen =
                own.split(',').filter(|option| CHOSEN.contains(&option.split('=').next().unwrap_or(option)));
            report.tell(name("file system's options"), chosen.collect::<Vec<_>>().join(","));
        }
    }
    report.tell("mounts in their order", order.join(" "));
}

fn sorted(options: &str) -> String {
    let mut options: Vec<&str> = options.split(',').collect();
    options.sort_unstable();
    options.join(",")
}
