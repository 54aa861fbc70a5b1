//! The guest's console in the log, line by line, as `vmconsole=`, which tools look for: all of it while the level is `debug`,
//! else what the guest's kernel and the agent warn of.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kata_sandbox::{CONSOLE_FILE, CONSOLE_FILE_OLD, LogReader, printable};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tracing::Level;

/// A line that is longer goes on as another.
const LONGEST_LINE: usize = 2048;
/// Whoever has power over the guest can write to its console: the host's log takes so many warnings in [`WHILE`].
const MOST: u32 = 100;
const WHILE: Duration = Duration::from_secs(600);

/// One line of the console as an event of a level, which must be known when this is compiled.
macro_rules! log_line {
    ($level:expr, $line:expr, $console:expr) => {
        tracing::event!(
            $level,
            vmconsole = $line,
            "console-protocol" = "file",
            "console-url" = %$console.dir.join(CONSOLE_FILE).display(),
            subsystem = "sandbox",
            "reading guest console"
        )
    };
}

/// A console log.
pub(super) struct Console {
    dir: PathBuf,
    /// The guest's kernel writes only what it warns of.
    quiet: bool,
    level_changed: Notify,
}

impl Console {
    /// Logs what is there and what comes, as the level wants it, as long as the file is there; the VMM may still have to
    /// make it in `dir`. Must be called inside a tokio runtime.
    pub(super) fn follow(dir: PathBuf, quiet: bool) -> Arc<Self> {
        let console = Arc::new(Self { dir, quiet, level_changed: Notify::new() });
        let followed = Arc::clone(&console);
        tokio::spawn(async move {
            if let Err(error) = followed.tell_all().await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the guest's console is not logged");
            }
        });
        console
    }

    /// At the level `debug` all is told that has not been, however old it is.
    pub(super) fn level_changed(&self) {
        self.level_changed.notify_one();
    }

    async fn tell_all(&self) -> io::Result<()> {
        let Some(changes) = Changes::of(&self.dir)? else { return Ok(()) };
        let mut all = Place::beginning(&self.dir);
        let mut warnings = all.clone();
        let mut allowance = Allowance::default();
        loop {
            if tracing::enabled!(Level::DEBUG) {
                all.read(|line| log_line!(Level::DEBUG, line, self))?;
                // Half a line goes on there, too.
                warnings.clone_from(&all);
            } else {
                warnings.read(|line| {
                    if is_warning(line, self.quiet) {
                        self.warn(line, &mut allowance);
                    }
                })?;
            }
            tokio::select! {
                there = changes.next() => if !there? { return Ok(()) },
                () = self.level_changed.notified() => {}
            }
        }
    }

    fn warn(&self, line: &str, allowance: &mut Allowance) {
        let taken = allowance.take(Instant::now());
        if taken > MOST {
            return;
        }
        log_line!(Level::WARN, line, self);
        if taken == MOST {
            tracing::warn!("the guest says more than is logged here; read it with `kata-runtime logs`");
        }
    }
}

/// Whether a line tells of something wrong: the agent says so, and a `quiet` kernel says nothing else.
fn is_warning(line: &str, quiet: bool) -> bool {
    let said = line.split_once("] ").map_or(line, |(_, said)| said);
    match said.strip_prefix("kata-agent:") {
        Some(said) => ["WARN", "ERROR"].iter().any(|level| said.trim_start().starts_with(level)),
        None => quiet,
    }
}

/// How far the console has been read.
#[derive(Clone)]
struct Place {
    log: LogReader,
    lines: Lines,
}

impl Place {
    fn beginning(dir: &Path) -> Self {
        Self { log: LogReader::of(dir, CONSOLE_FILE, CONSOLE_FILE_OLD), lines: Lines::default() }
    }

    /// The lines that have been added.
    fn read(&mut self, mut tell: impl FnMut(&str)) -> io::Result<()> {
        self.log.read(|piece| self.lines.take(piece, &mut tell))
    }
}

/// How many warnings there have been lately.
#[derive(Default)]
struct Allowance {
    since: Option<Instant>,
    taken: u32,
}

impl Allowance {
    /// One more; the number of this one.
    fn take(&mut self, now: Instant) -> u32 {
        if self.since.is_none_or(|since| now.duration_since(since) >= WHILE) {
            *self = Self { since: Some(now), taken: 0 };
        }
        self.taken = self.taken.saturating_add(1);
        self.taken
    }
}

/// Bytes that become lines.
#[derive(Clone, Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    fn take(&mut self, bytes: &[u8], mut tell: impl FnMut(&str)) {
        for mut part in bytes.split_inclusive(|byte| *byte == b'\n') {
            while !part.is_empty() {
                let (fits, more) = part.split_at(part.len().min(LONGEST_LINE - self.rest.len()));
                self.rest.extend_from_slice(fits);
                part = more;
                if self.rest.ends_with(b"\n") || self.rest.len() >= LONGEST_LINE {
                    self.end(&mut tell);
                }
            }
        }
    }

    fn end(&mut self, tell: &mut impl FnMut(&str)) {
        let line = printable(&String::from_utf8_lossy(&self.rest));
        self.rest.clear();
        let line = line.trim_end();
        if !line.is_empty() {
            tell(line);
        }
    }
}

mod sys {
    #![expect(unsafe_code, reason = "a descriptor's registration")]

    use std::io;
    use std::os::fd::OwnedFd;

    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    /// Ready when it can be read. Must be called inside a tokio runtime.
    pub(super) fn watched(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
        // SAFETY: An owned descriptor stays open, and the same, until it is dropped, which the result does last.
        let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
        registered.map_err(io::Error::from)
    }
}

/// Changes to the console's log in a directory. The directory is watched and not the file, which is renamed when it is full.
struct Changes {
    watch: AsyncFd<OwnedFd>,
}

impl Changes {
    /// From now on; nothing if the directory has gone.
    fn of(dir: &Path) -> io::Result<Option<Self>> {
        let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let what = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::ONLYDIR;
        match inotify::add_watch(&watch, dir, what) {
            Err(Errno::NOENT) => Ok(None),
            added => added
                .map(|_| ())
                .map_err(io::Error::from)
                .and_then(|()| Ok(Some(Self { watch: sys::watched(watch)? }))),
        }
    }

    /// Waits for some; false when the log or its directory has gone.
    async fn next(&self) -> io::Result<bool> {
        loop {
            let mut ready = self.watch.readable().await?;
            let news = self.take()?;
            ready.clear_ready();
            match news {
                News::Changed => return Ok(true),
                News::Gone => return Ok(false),
                News::None => {}
            }
        }
    }

    fn take(&self) -> io::Result<News> {
        let mut space = [std::mem::MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(self.watch.get_ref(), &mut space);
        let mut news = News::None;
        loop {
            match events.next() {
                Ok(event) => news = news.max(News::of(event.events(), event.file_name())),
                Err(Errno::WOULDBLOCK) => return Ok(news),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// What one look at a directory brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum News {
    None,
    Changed,
    Gone,
}

impl News {
    fn of(events: ReadFlags, name: Option<&CStr>) -> Self {
        let is_log = name.is_some_and(|name| name.to_bytes() == CONSOLE_FILE.as_bytes());
        match () {
            // The directory, which is not watched any more.
            () if events.contains(ReadFlags::IGNORED) => Self::Gone,
            () if is_log && events.contains(ReadFlags::DELETE) => Self::Gone,
            // Some were lost: anything may have changed.
            () if is_log || events.contains(ReadFlags::QUEUE_OVERFLOW) => Self::Changed,
            () => Self::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, Instant};

    use kata_sandbox::{CONSOLE_FILE, CONSOLE_FILE_OLD};

    use super::{Allowance, Changes, LONGEST_LINE, Lines, Place, WHILE, is_warning};

    fn told(pieces: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut told) = (Lines::default(), Vec::new());
        for piece in pieces {
            lines.take(piece, |line| told.push(line.to_owned()));
        }
        told
    }

    #[test]
    fn pieces_become_lines_without_control_sequences() {
        assert_eq!(
            told(&[b"[ 0.1] a", b"b\r\n\n\x1b[31mred", b"\x1b[0m\n[ 0.2] unfini"]),
            ["[ 0.1] ab", "red"]
        );
    }

    #[test]
    fn a_line_without_an_end_is_told_in_parts() {
        let long = vec![b'x'; LONGEST_LINE + 10];
        let lengths = |pieces: &[&[u8]]| told(pieces).iter().map(String::len).collect::<Vec<_>>();
        assert_eq!(lengths(&[&long, b"\n"]), [LONGEST_LINE, 10]);
        assert_eq!(lengths(&[&long[10..], b"\nnext\n"]), [LONGEST_LINE, 4]);
        // As many bytes as are read at a time were one line.
        assert_eq!(lengths(&[&[b'x'; 4 * LONGEST_LINE]]), [LONGEST_LINE; 4]);
    }

    #[test]
    fn a_warning_is_what_the_agent_calls_so_and_all_that_a_quiet_kernel_says() {
        assert!(is_warning("[    1.000000] kata-agent:  WARN A hook failed container=a", false));
        assert!(is_warning("[    1.000000] kata-agent: ERROR The VM cannot be switched off", false));
        assert!(!is_warning("[    1.000000] kata-agent:  INFO A container runs, WARN", true));
        assert!(is_warning("[    1.000000] Memory cgroup out of memory: Killed process 7", true));
        assert!(is_warning("thread 'main' panicked at src/main.rs:1:1:", true));
        assert!(!is_warning("[    0.000000] Linux version 6.1", false));
    }

    #[test]
    fn warnings_are_counted_anew_after_a_while() {
        let (mut allowance, begin) = (Allowance::default(), Instant::now());
        assert_eq!([0, 1, 599].map(|s| allowance.take(begin + Duration::from_secs(s))), [1, 2, 3]);
        assert_eq!([WHILE, WHILE * 3].map(|after| allowance.take(begin + after)), [1, 1]);
    }

    #[tokio::test]
    async fn a_log_is_watched_from_when_it_is_made_until_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CONSOLE_FILE);
        let changes = Changes::of(dir.path()).unwrap().unwrap();
        let made = async {
            fs::write(dir.path().join("other"), "").unwrap();
            tokio::task::yield_now().await;
            fs::write(&path, "").unwrap();
        };
        let (there, ()) = tokio::join!(changes.next(), made);
        assert!(there.unwrap());
        fs::write(&path, "more").unwrap();
        assert!(changes.next().await.unwrap());
        fs::remove_file(&path).unwrap();
        assert!(!changes.next().await.unwrap());
    }

    #[tokio::test]
    async fn a_log_that_is_full_is_read_on_in_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CONSOLE_FILE);
        let changes = Changes::of(dir.path()).unwrap().unwrap();
        let (mut place, mut told) = (Place::beginning(dir.path()), Vec::new());
        for (n, text) in ["one\ntw", "o\nthree\n", "four\n"].into_iter().enumerate() {
            if n > 0 {
                fs::rename(&path, dir.path().join(CONSOLE_FILE_OLD)).unwrap();
            }
            fs::write(&path, text).unwrap();
            assert!(changes.next().await.unwrap());
            place.read(|line| told.push(line.to_owned())).unwrap();
        }
        assert_eq!(told, ["one", "two", "three", "four"]);
    }

    #[tokio::test]
    async fn nothing_is_awaited_in_a_directory_that_goes() {
        let dir = tempfile::tempdir().unwrap();
        let changes = Changes::of(dir.path()).unwrap().unwrap();
        let gone = async { fs::remove_dir(dir.path()).unwrap() };
        let (there, ()) = tokio::join!(changes.next(), gone);
        assert!(!there.unwrap());
        assert!(Changes::of(dir.path()).unwrap().is_none());
    }
}
