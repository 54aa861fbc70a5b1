//! Who makes a change: the guest, whose hand on the host is virtiofsd, or somebody else.
//!
//! inotify gives events in their order and does not say who causes them. fanotify says that, and joins events of one file,
//! so that their order is lost. The same files are watched with both.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::sys;

/// Bytes that are read at once.
const READ_AT_ONCE: usize = 16 * 1024;
/// `struct fanotify_event_metadata` of linux/fanotify.h.
const METADATA: usize = 24;
/// `struct fanotify_event_info_header` and the id of the file system.
const INFO_HEADER: usize = 4 + 8;
/// `handle_bytes` and `handle_type` of `struct file_handle`.
const HANDLE_HEADER: usize = 8;
const INFO_FID: u8 = 1;
const INFO_DFID_NAME: u8 = 2;

/// A file, as its file system identifies it: the handle with its header.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct FileKey(pub(crate) Vec<u8>);

/// What happened to a name in a directory, or with an empty name to a file itself.
type Happened = (FileKey, Vec<u8>);

/// Kinds of events (their bits), by who caused them.
#[derive(Debug, Default, Clone, Copy)]
struct By {
    guest: u64,
    others: u64,
}

#[derive(Debug)]
pub(super) struct Causes {
    pub(super) events: OwnedFd,
    daemon: u32,
    /// What the last reading brought, and the one before: of one change the two kinds of events do not come at once.
    now: HashMap<Happened, By>,
    before: HashMap<Happened, By>,
}

impl Causes {
    /// `daemon` is virtiofsd; it works in a child of its own.
    pub(super) fn new(daemon: u32) -> io::Result<Self> {
        let events = sys::fanotify()?;
        Ok(Self { events, daemon, now: HashMap::new(), before: HashMap::new() })
    }

    /// Learns about a file from now on.
    pub(super) fn add(&self, file: &OwnedFd, is_directory: bool) -> io::Result<FileKey> {
        let handle = sys::file_handle(file.as_fd())?;
        sys::fanotify_add(self.events.as_fd(), file.as_fd(), is_directory)?;
        Ok(FileKey(handle))
    }

    /// The kernel need not keep the file in memory any more, nor count it as root's.
    pub(super) fn remove(&self, file: &OwnedFd) {
        // It has let go of one that is deleted by itself.
        sys::fanotify_remove(self.events.as_fd(), file.as_fd()).ok();
    }

    /// Takes all that has happened; to be called after the events were read that it is about.
    pub(super) fn read(&mut self) {
        self.before = std::mem::take(&mut self.now);
        let mut is_guests = HashMap::new();
        let mut buffer = vec![0; READ_AT_ONCE];
        while let Ok(length @ 1..) = rustix::io::read(&self.events, &mut buffer[..]) {
            for (mask, pid, happened) in parse(&buffer[..length]) {
                let by_guest = *is_guests.entry(pid).or_insert_with(|| works_for(pid, self.daemon));
                let by = self.now.entry(happened).or_default();
                let kinds = if by_guest { &mut by.guest } else { &mut by.others };
                *kinds |= mask;
            }
        }
    }

    /// Whether the guest, and nobody else, has done this. In doubt it has not: an event too many does less harm than one
    /// too few.
    pub(super) fn is_guests(&self, file: &FileKey, name: &[u8], mask: u32) -> bool {
        let kind = u64::from(mask) & u64::from(nix::libc::IN_ALL_EVENTS);
        let happened = (file.clone(), name.to_vec());
        let said = |by: &&By| (by.guest | by.others) & kind != 0;
        let by = self.now.get(&happened).filter(said).or_else(|| self.before.get(&happened));
        by.is_some_and(|by| by.guest & kind != 0 && by.others & kind == 0)
    }
}

/// Whether `pid` is the daemon or its child.
fn works_for(pid: i32, daemon: u32) -> bool {
    let parent = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field, a name in parentheses, may hold anything.
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    u32::try_from(pid).is_ok_and(|pid| pid == daemon) || parent() == Some(daemon)
}

/// The events in `bytes`: kinds, process, and what it happened to; one event may name both a file and its place.
fn parse(mut bytes: &[u8]) -> Vec<(u64, i32, Happened)> {
    let mut all = Vec::new();
    while let Some((event, rest)) = number(bytes, 0).and_then(|length| bytes.split_at_checked(length)) {
        let (Some(mask), Some(pid)) = (array(event, 8), array(event, 20)) else { break };
        let (mask, pid) = (u64::from_ne_bytes(mask), i32::from_ne_bytes(pid));
        let mut infos = event.get(METADATA..).unwrap_or_default();
        while let Some(length) = array(infos, 2).map(u16::from_ne_bytes).map(usize::from) {
            let Some((info, others)) = infos.split_at_checked(length.max(INFO_HEADER)) else { break };
            all.extend(named(info).map(|happened| (mask, pid, happened)));
            infos = others;
        }
        bytes = rest;
    }
    all
}

fn named(info: &[u8]) -> Option<Happened> {
    let length = number(info, INFO_HEADER)?.checked_add(HANDLE_HEADER)?;
    let (handle, rest) = info.get(INFO_HEADER..)?.split_at_checked(length)?;
    let name = match info.first() {
        Some(&INFO_FID) => &[][..],
        Some(&INFO_DFID_NAME) => rest.split(|byte| *byte == 0).next()?,
        _ => return None,
    };
    // A directory names itself so.
    let name = if name == b"." { &[] } else { name };
    Some((FileKey(handle.to_vec()), name.to_vec()))
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let length = usize::try_from(u32::from_ne_bytes(array(bytes, at)?)).ok()?;
    // An event of no length would never end.
    (at != 0 || length >= METADATA).then_some(length)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}
