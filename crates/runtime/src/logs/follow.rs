//! `--follow`: woken by the kernel when a file changes, until the directory goes.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::files::Files;
use super::{journal, print, sorted};

/// The directory cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("Cannot watch {}; has the sandbox just ended?", path.display())]
pub(super) struct WatchError {
    path: PathBuf,
    source: Errno,
}

/// Changes in a directory.
pub(super) struct Changes {
    watch: OwnedFd,
    dir: PathBuf,
}

impl Changes {
    /// From now on.
    pub(super) fn of(dir: &Path) -> Result<Self, WatchError> {
        let wrong = |source| WatchError { path: dir.to_owned(), source };
        let watch = inotify::init(CreateFlags::CLOEXEC).map_err(wrong)?;
        let what = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::ONLYDIR;
        inotify::add_watch(&watch, dir, what).map_err(wrong)?;
        // The directory's own end is told late, when nobody has a file of it open any more.
        let parent = dir.parent().unwrap_or(dir);
        inotify::add_watch(&watch, parent, WatchFlags::DELETE | WatchFlags::ONLYDIR).map_err(wrong)?;
        Ok(Self { watch, dir: dir.to_owned() })
    }

    /// Waits; false when the directory has gone, or whoever reads what is printed (`| grep -m 1 …`).
    fn next(&self) -> Result<bool, Errno> {
        let printed = rustix::stdio::stdout();
        let mut both = [PollFd::new(&self.watch, PollFlags::IN), PollFd::new(&printed, PollFlags::empty())];
        match poll(&mut both, None) {
            Err(Errno::INTR) => return Ok(true),
            polled => polled?,
        };
        if both[1].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
            return Ok(false);
        }
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(&self.watch, &mut space);
        events.next()?;
        while !events.is_buffer_empty() {
            events.next()?;
        }
        Ok(self.dir.exists())
    }
}

/// Prints what comes.
pub(super) fn run(id: &str, files: &mut Files, changes: &Changes, json: bool) -> anyhow::Result<()> {
    let tell = move |line| {
        // A reader that has gone is noticed by the next line of the files.
        let _ = print(&[line], json);
    };
    let _journal = if files.has_shim_log() { None } else { journal::follow(id, tell) };
    while changes.next()? {
        print(&sorted(files.new_lines()), json)?;
    }
    // What came with the end.
    print(&sorted(files.new_lines()), json)?;
    Ok(())
}
