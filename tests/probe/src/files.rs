//! What a file system does: names, contents, attributes, locks and folders, each check in a folder of its own.

mod attributes;
mod content;
mod folders;
mod locks;
mod names;
mod rights;
mod xattrs;

use std::fs;
use std::io;
use std::path::Path;

use crate::report::Report;

/// Told for each of them that is there: the root, and what a test mounts.
const PLACES: [(&str, &str); 3] = [("root", "/"), ("volume", "/data"), ("memory", "/dev/shm")];

/// What a check finds out in an empty folder.
type Check = fn(&Path) -> io::Result<String>;
/// Checks by name.
type Checks = &'static [(&'static str, Check)];

/// Those that do not need folders of many entries, which take long on a slow file system.
const BUT_FOLDERS: [Checks; 6] =
    [names::CHECKS, content::CHECKS, attributes::CHECKS, rights::CHECKS, xattrs::CHECKS, locks::CHECKS];

pub(crate) fn tell(report: &mut Report) {
    tell_of_places(report, &BUT_FOLDERS.into_iter().chain([folders::CHECKS]));
}

pub(crate) fn tell_but_folders(report: &mut Report) {
    tell_of_places(report, &BUT_FOLDERS.into_iter());
}

fn tell_of_places(report: &mut Report, checks: &(impl Iterator<Item = Checks> + Clone)) {
    for (name, place) in PLACES {
        if Path::new(place).is_dir() {
            tell_of(report, name, &Path::new(place).join("probe-files"), checks.clone());
        }
    }
}

fn tell_of(report: &mut Report, place: &str, folder: &Path, checks: impl Iterator<Item = Checks>) {
    for (number, (name, check)) in checks.flatten().enumerate() {
        let own = folder.join(number.to_string());
        let told = fs::create_dir_all(&own).and_then(|()| check(&own));
        report.tell_result(format_args!("{place}: {name}"), told);
    }
    let removed = fs::remove_dir_all(folder).map(|()| "yes");
    report.tell_result(format_args!("{place}: all can be removed"), removed);
}

/// What became of something that returns nothing.
fn outcome<E: Into<io::Error>>(result: Result<(), E>) -> String {
    match result.map_err(Into::into) {
        Ok(()) => "done".to_owned(),
        Err(error) => crate::report::reason(&error),
    }
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| crate::report::reason(&error))
}
