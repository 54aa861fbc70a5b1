//! The command line of upstream's `kata-ctl`, for a program of that name (a link to this one): where it differs from
//! `kata-runtime`'s, its words are written as ours. What is the same in both passes as it is.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The name.
const NAME: &str = "kata-ctl";

/// `kata-ctl check` has a word where `kata-runtime check` has a flag.
const CHECKS: [(&str, &str); 6] = [
    ("all", ""),
    ("no-network-checks", "--no-network-checks"),
    ("check-version-only", "--check-version-only"),
    ("only-list-releases", "--only-list-releases"),
    ("include-all-releases", "--include-all-releases"),
    ("list", "--verbose"),
];

/// The flags that stand for the words after `direct-volume <command>`.
const VOLUMES: [(&str, &[&str]); 4] = [
    ("add", &["--volume-path", "--mount-info"]),
    ("remove", &["--volume-path"]),
    ("stats", &["--volume-path"]),
    ("resize", &["--volume-path", "--size"]),
];

/// Options of all subcommands that have a value.
const WITH_VALUE: [&str; 6] = ["--config", "--kata-config", "--log", "--log-format", "--log-level", "--root"];

/// Programs of their own here.
const PROGRAMS: [(&str, &str); 2] = [("monitor", "kata-monitor"), ("log-parser", "kata-log-parser")];

/// The words of this process, as `kata-runtime` takes them. May become another program.
pub(crate) fn translated(words: Vec<OsString>) -> Vec<OsString> {
    let called = words.first().map(PathBuf::from).unwrap_or_default();
    if called.file_name().is_none_or(|name| name != NAME) {
        return words;
    }
    let words = as_ours(words);
    if let Some((program, rest)) = elsewhere(&words) {
        let error = Command::new(beside(program)).args(rest).exec();
        eprintln!("{NAME}: Cannot start {program}: {error}; install it beside {NAME}");
        std::process::exit(1);
    }
    words
}

/// The same program's directory; the path variable if that is not known.
fn beside(program: &str) -> PathBuf {
    let own = std::env::current_exe().ok();
    let found = own.as_deref().and_then(Path::parent).map(|dir| dir.join(program));
    found.filter(|path| path.exists()).unwrap_or_else(|| program.into())
}

/// Which program a command is, and its arguments.
fn elsewhere(words: &[OsString]) -> Option<(&'static str, Vec<OsString>)> {
    let at = subcommand(words)?;
    let (name, program) = PROGRAMS.iter().find(|(name, _)| words[at] == *name)?;
    let mut rest = words[at + 1..].to_vec();
    if *name == "monitor" && rest.first().is_some_and(|word| !word.to_string_lossy().starts_with('-')) {
        rest.insert(0, "--listen-address".into());
    }
    Some((program, rest))
}

/// Whether the next word is this option's value.
fn takes_value(word: &OsStr) -> bool {
    WITH_VALUE.iter().any(|option| word == *option)
}

/// Where the subcommand stands: the first word that is no option, and no option's value.
fn subcommand(words: &[OsString]) -> Option<usize> {
    let mut at = 1;
    while let Some(word) = words.get(at).and_then(|word| word.to_str()) {
        match word {
            word if takes_value(OsStr::new(word)) => at += 2,
            word if word.starts_with('-') => at += 1,
            _ => return Some(at),
        }
    }
    None
}

fn as_ours(words: Vec<OsString>) -> Vec<OsString> {
    let mut words = global_options(words);
    let Some(at) = subcommand(&words) else { return words };
    let rest = words.split_off(at + 1);
    match words[at].to_str() {
        Some("check") => {
            let flag = |word: &OsString| CHECKS.iter().find(|(name, _)| word == name).map(|(_, flag)| *flag);
            words.extend(rest.into_iter().filter_map(|word| match flag(&word) {
                Some("") => None,
                Some(flag) => Some(flag.into()),
                None => Some(word),
            }));
        }
        Some("direct-volume") => words.extend(volume(rest)),
        Some("env") => {
            words.push("--kata-ctl".into());
            words.extend(rest);
        }
        _ => words.extend(rest),
    }
    words
}

/// `-l LEVEL` and `-j`, before the subcommand, as ours are spelled.
fn global_options(words: Vec<OsString>) -> Vec<OsString> {
    let mut ours = Vec::new();
    let mut words = words.into_iter();
    let mut before = true;
    ours.extend(words.next());
    while let Some(word) = words.next() {
        let is_option = word.to_string_lossy().starts_with('-');
        match word.to_str() {
            Some("-l") if before => {
                ours.push("--log-level".into());
                ours.extend(words.next());
            }
            Some("-j" | "--json-logging") if before => ours.extend(["--log-format".into(), "json".into()]),
            Some(_) if before && takes_value(&word) => {
                ours.push(word);
                ours.extend(words.next());
            }
            _ => {
                before &= is_option;
                ours.push(word);
            }
        }
    }
    ours
}

/// Each word that is no option gets the flag of its place; with the flags written out nothing changes.
fn volume(words: Vec<OsString>) -> Vec<OsString> {
    let mut words = words.into_iter();
    let Some(command) = words.next() else { return Vec::new() };
    let flags = VOLUMES.iter().find(|(name, _)| command == *name).map_or(&[] as &[&str], |(_, flags)| flags);
    let rest: Vec<OsString> = words.collect();
    let mut ours = vec![command];
    if rest.iter().any(|word| flags.iter().any(|flag| word.to_string_lossy().starts_with(flag))) {
        ours.extend(rest);
        return ours;
    }
    let (mut flags, mut rest) = (flags.iter(), rest.into_iter());
    while let Some(word) = rest.next() {
        if takes_value(&word) {
            ours.push(word);
            ours.extend(rest.next());
            continue;
        }
        let is_option = word.to_string_lossy().starts_with('-');
        let flag = if is_option { None } else { flags.next() };
        ours.extend(flag.map(OsString::from));
        ours.push(word);
    }
    ours
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::{as_ours, elsewhere, translated};

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn words_that_differ_are_written_as_ours() {
        for (theirs, ours) in [
            ("kata-ctl check all", "kata-ctl check"),
            ("kata-ctl check no-network-checks", "kata-ctl check --no-network-checks"),
            ("kata-ctl check list", "kata-ctl check --verbose"),
            ("kata-ctl -l debug -j check all", "kata-ctl --log-level debug --log-format json check"),
            (
                "kata-ctl direct-volume add /v {}",
                "kata-ctl direct-volume add --volume-path /v --mount-info {}",
            ),
            (
                "kata-ctl direct-volume resize /v 8Gi",
                "kata-ctl direct-volume resize --volume-path /v --size 8Gi",
            ),
            (
                "kata-ctl direct-volume stats /v --root /r",
                "kata-ctl direct-volume stats --volume-path /v --root /r",
            ),
            (
                "kata-ctl direct-volume stats --volume-path /v",
                "kata-ctl direct-volume stats --volume-path /v",
            ),
            ("kata-ctl env --json", "kata-ctl env --kata-ctl --json"),
            ("kata-ctl exec -p 1026 abc -- ls -l", "kata-ctl exec -p 1026 abc -- ls -l"),
        ] {
            assert_eq!(as_ours(words(theirs)), words(ours));
        }
    }

    #[test]
    fn other_programs_are_named_with_their_arguments() {
        let (program, rest) = elsewhere(&words("kata-ctl monitor 127.0.0.1:1")).unwrap();
        assert_eq!((program, rest), ("kata-monitor", words("--listen-address 127.0.0.1:1")));
        assert_eq!(elsewhere(&words("kata-ctl check")), None);
    }

    #[test]
    fn under_its_own_name_the_program_takes_its_words_as_they_are() {
        let plain = words("kata-runtime check all");
        assert_eq!(translated(plain.clone()), plain);
    }
}
