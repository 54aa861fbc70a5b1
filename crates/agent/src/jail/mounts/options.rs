//! Mount options of the OCI runtime specification (`config.md`, "Linux mount options") as what the kernel is told.

use crate::jail::sys::MountChange;

/// What an option means.
#[derive(Clone, Copy)]
enum Meaning {
    /// Attributes that are set, after others were cleared.
    Attributes { set: u64, clear: u64 },
    /// How mounts pass on below.
    Propagation(u64),
    /// A bind mount, and whether it takes those below with it.
    Bind { recursive: bool },
    /// A flag of the file system itself.
    Flag,
    /// What the kernel does anyway.
    Nothing,
    /// Not to be had.
    Refused,
}

use Meaning::{Attributes, Bind, Flag, Nothing, Propagation, Refused};

const fn set(set: u64) -> Meaning {
    Attributes { set, clear: 0 }
}

const fn clear(clear: u64) -> Meaning {
    Attributes { set: 0, clear }
}

const fn access_time(set: u64) -> Meaning {
    Attributes { set, clear: libc::MOUNT_ATTR__ATIME }
}

/// All but those with an `r` in front, which mean the same for all mounts below.
const OPTIONS: [(&str, Meaning); 36] = [
    ("ro", set(libc::MOUNT_ATTR_RDONLY)),
    ("rw", clear(libc::MOUNT_ATTR_RDONLY)),
    ("nosuid", set(libc::MOUNT_ATTR_NOSUID)),
    ("suid", clear(libc::MOUNT_ATTR_NOSUID)),
    ("nodev", set(libc::MOUNT_ATTR_NODEV)),
    ("dev", clear(libc::MOUNT_ATTR_NODEV)),
    ("noexec", set(libc::MOUNT_ATTR_NOEXEC)),
    ("exec", clear(libc::MOUNT_ATTR_NOEXEC)),
    ("noatime", access_time(libc::MOUNT_ATTR_NOATIME)),
    ("strictatime", access_time(libc::MOUNT_ATTR_STRICTATIME)),
    ("relatime", access_time(libc::MOUNT_ATTR_RELATIME)),
    ("atime", access_time(libc::MOUNT_ATTR_RELATIME)),
    ("norelatime", access_time(libc::MOUNT_ATTR_STRICTATIME)),
    ("nostrictatime", access_time(libc::MOUNT_ATTR_RELATIME)),
    ("nodiratime", set(libc::MOUNT_ATTR_NODIRATIME)),
    ("diratime", clear(libc::MOUNT_ATTR_NODIRATIME)),
    ("nosymfollow", set(libc::MOUNT_ATTR_NOSYMFOLLOW)),
    ("symfollow", clear(libc::MOUNT_ATTR_NOSYMFOLLOW)),
    ("shared", Propagation(libc::MS_SHARED)),
    ("slave", Propagation(libc::MS_SLAVE)),
    ("private", Propagation(libc::MS_PRIVATE)),
    ("unbindable", Propagation(libc::MS_UNBINDABLE)),
    ("bind", Bind { recursive: false }),
    ("rbind", Bind { recursive: true }),
    ("sync", Flag),
    ("dirsync", Flag),
    ("lazytime", Flag),
    ("iversion", Flag),
    ("mand", Flag),
    ("async", Nothing),
    ("defaults", Nothing),
    ("nomand", Nothing),
    ("loud", Nothing),
    ("silent", Nothing),
    ("idmap", Refused),
    ("tmpcopyup", Refused),
];

/// An option that cannot be honoured.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the mount option {0} is not supported; leave it out")]
pub(in crate::jail) struct Unsupported(String);

/// The options of one mount.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::jail) struct Options<'a> {
    /// Of this mount; its propagation too.
    pub(in crate::jail) own: MountChange,
    /// Of this mount and all below it.
    pub(in crate::jail) all: MountChange,
    /// Nothing new is mounted but what is there already.
    pub(in crate::jail) bind: Option<bool>,
    /// For the file system: names, most with a value.
    pub(in crate::jail) data: Vec<(&'a str, Option<&'a str>)>,
}

impl<'a> Options<'a> {
    /// Reads them in their order: later ones win.
    pub(in crate::jail) fn read(options: &'a [String]) -> Result<Self, Unsupported> {
        let mut read = Self::default();
        for option in options {
            match find(option) {
                Some((recursive, meaning)) => read.take(option, recursive, meaning)?,
                None => read.data.push(match option.split_once('=') {
                    Some((name, value)) => (name, Some(value)),
                    None => (option, None),
                }),
            }
        }
        Ok(read)
    }

    /// How mounts pass on in it, or below: `MS_SHARED`, …, or 0.
    pub(in crate::jail) fn propagation(&self) -> u64 {
        if self.all.propagation == 0 { self.own.propagation } else { self.all.propagation }
    }

    fn take(&mut self, option: &'a str, recursive: bool, meaning: Meaning) -> Result<(), Unsupported> {
        let change = if recursive { &mut self.all } else { &mut self.own };
        match meaning {
            Attributes { set, clear } => {
                change.set = change.set & !clear | set;
                change.clear = change.clear & !set | clear;
            }
            Propagation(kind) => change.propagation = kind,
            Bind { recursive } => self.bind = Some(recursive),
            Flag => self.data.push((option, None)),
            Nothing => {}
            Refused => return Err(Unsupported(option.to_owned())),
        }
        Ok(())
    }
}

/// How mounts pass on below (`MS_SHARED`, …) by the option's name, and whether for all below.
pub(in crate::jail) fn propagation(name: &str) -> Option<(u64, bool)> {
    match find(name)? {
        (recursive, Propagation(kind)) => Some((kind, recursive)),
        _ => None,
    }
}

/// What an option means, and whether for all below.
fn find(option: &str) -> Option<(bool, Meaning)> {
    let known = |name: &str| OPTIONS.iter().find(|(known, _)| *known == name).map(|(_, meaning)| *meaning);
    if let Some(meaning) = known(option) {
        return Some((false, meaning));
    }
    match known(option.strip_prefix('r')?)? {
        meaning @ (Attributes { .. } | Propagation(_) | Refused) => Some((true, meaning)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{MountChange, Options, Unsupported, propagation};

    fn texts(options: &[&str]) -> Vec<String> {
        options.iter().map(|option| (*option).to_owned()).collect()
    }

    #[test]
    fn flags_are_attributes_and_the_rest_is_for_the_file_system() {
        let options = texts(&["nosuid", "strictatime", "mode=755", "newinstance", "size=65536k"]);
        let read = Options::read(&options).expect("known");
        assert_eq!(read.own.set, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_STRICTATIME);
        assert_eq!(read.own.clear, libc::MOUNT_ATTR__ATIME);
        let data = [("mode", Some("755")), ("newinstance", None), ("size", Some("65536k"))];
        assert_eq!(read.data, data);
    }

    #[test]
    fn the_later_of_two_options_wins() {
        let options = texts(&["ro", "rw", "relatime", "noatime"]);
        let read = Options::read(&options).expect("known");
        assert_eq!(read.own.set, libc::MOUNT_ATTR_NOATIME);
        assert_eq!(read.own.clear, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR__ATIME);
    }

    #[test]
    fn options_for_all_below_begin_with_r() {
        let options = texts(&["rbind", "rro", "rslave"]);
        let read = Options::read(&options).expect("known");
        assert_eq!(read.bind, Some(true));
        let all = MountChange { set: libc::MOUNT_ATTR_RDONLY, clear: 0, propagation: libc::MS_SLAVE };
        assert_eq!((read.all, read.own), (all, MountChange::default()));
    }

    #[test]
    fn the_propagation_of_a_root_is_named_like_the_option() {
        assert_eq!(propagation("rshared"), Some((libc::MS_SHARED, true)));
        assert_eq!(propagation("private"), Some((libc::MS_PRIVATE, false)));
        assert_eq!((propagation("ro"), propagation("rbind"), propagation("x")), (None, None, None));
    }

    #[test]
    fn what_cannot_be_honoured_is_refused() {
        let options = texts(&["tmpcopyup"]);
        assert_eq!(Options::read(&options), Err(Unsupported("tmpcopyup".to_owned())));
    }
}
