//! `kata-probe watch PATH…`: what inotify(7) says of changes, one event a line, until a file `end` is made.
//!
//! A line has the watched path, the kinds of the event, its name, for a rename its number among those seen, and of names
//! that tests know what can be read right then. Events that are equal to the one before are told once, as it depends on
//! the moment whether the kernel joins them. A directory that is made is watched, too, if it is not hidden.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

/// Kinds by name.
const KINDS: [(ReadFlags, &str); 13] = [
    (ReadFlags::CREATE, "create"),
    (ReadFlags::MODIFY, "modify"),
    (ReadFlags::CLOSE_WRITE, "close"),
    (ReadFlags::ATTRIB, "attrib"),
    (ReadFlags::MOVED_FROM, "from"),
    (ReadFlags::MOVED_TO, "to"),
    (ReadFlags::DELETE, "delete"),
    (ReadFlags::DELETE_SELF, "delete-self"),
    (ReadFlags::MOVE_SELF, "move-self"),
    (ReadFlags::IGNORED, "ignored"),
    (ReadFlags::QUEUE_OVERFLOW, "overflow"),
    (ReadFlags::UNMOUNT, "unmount"),
    (ReadFlags::ISDIR, "dir"),
];

struct Watching {
    inotify: OwnedFd,
    places: HashMap<i32, PathBuf>,
    renames: Vec<u32>,
    last: String,
}

/// Watches until told to end.
pub(crate) fn run(paths: &[String]) -> io::Result<()> {
    let inotify = inotify::init(CreateFlags::CLOEXEC)?;
    let mut watching = Watching { inotify, places: HashMap::new(), renames: Vec::new(), last: String::new() };
    for path in paths {
        watching.add(Path::new(path))?;
    }
    say("ready")?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    loop {
        let mut events = Vec::new();
        let mut reader = Reader::new(&watching.inotify, &mut buffer);
        while events.is_empty() || !reader.is_buffer_empty() {
            let event = reader.next()?;
            let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
            events.push((event.wd(), event.events(), event.cookie(), name.unwrap_or_default()));
        }
        for (place, kinds, cookie, name) in events {
            if name == "end" && kinds.contains(ReadFlags::CREATE) {
                return Ok(());
            }
            watching.tell(place, kinds, cookie, &name)?;
        }
    }
}

impl Watching {
    fn add(&mut self, path: &Path) -> io::Result<()> {
        let kinds =
            WatchFlags::ALL_EVENTS & !(WatchFlags::OPEN | WatchFlags::ACCESS | WatchFlags::CLOSE_NOWRITE);
        let place = inotify::add_watch(&self.inotify, path, kinds)?;
        self.places.insert(place, path.to_owned());
        Ok(())
    }

    fn tell(&mut self, place: i32, kinds: ReadFlags, cookie: u32, name: &str) -> io::Result<()> {
        let path = self.places.get(&place).cloned().unwrap_or_default();
        let names: Vec<&str> =
            KINDS.iter().filter(|(kind, _)| kinds.contains(*kind)).map(|(_, name)| *name).collect();
        let line = format!("{}\t{}\t{name}{}", path.display(), names.join("+"), self.rename(cookie));
        let read = match name {
            "config" if kinds.contains(ReadFlags::CLOSE_WRITE) => Some(path.join("config")),
            "config" | "..data" if kinds.contains(ReadFlags::MOVED_TO) => Some(path.join("config")),
            "" if kinds.contains(ReadFlags::CLOSE_WRITE) => Some(path.clone()),
            _ => None,
        };
        if kinds.contains(ReadFlags::CREATE | ReadFlags::ISDIR) && !name.starts_with('.') {
            self.add(&path.join(name))?;
        }
        if self.last == line {
            return Ok(());
        }
        self.last.clone_from(&line);
        match read {
            Some(file) => say(&format!("{line}\t{}", fs::read_to_string(file)?.trim_end())),
            None => say(&line),
        }
    }

    /// The number of a rename among those seen.
    fn rename(&mut self, cookie: u32) -> String {
        if cookie == 0 {
            return String::new();
        }
        let known = self.renames.iter().position(|known| *known == cookie);
        let number = known.unwrap_or_else(|| {
            self.renames.push(cookie);
            self.renames.len() - 1
        });
        format!("\t{number}")
    }
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
