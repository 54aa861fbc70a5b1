//! The sandbox's intent log: what is about to be made on the host, written down before it is made.
//!
//! `intents` in the state directory is a file of JSON lines that is only appended to: `{"will": {"id", "intent"}}`
//! before a thing is made, `{"done": id}` after it was undone. Each line is one `write`, so the death of the
//! writer can tear the last line only; and a torn line stands for something that was not made yet. The file
//! is on tmpfs: it must survive the death of this process, not of the host.
//!
//! `{"poststop": {"id", "hooks"}}` stands for hooks that must run once, after everything else is undone. They are
//! struck out before they run: after a crash between the two nobody runs them again.
//!
//! A log that has grown begins anew: what is pending is written once more, and what stood before is given back to the file
//! system, so that the file begins with a hole. Somebody who dies between the two leaves lines that are there twice, which
//! count once. Inode, lock and time of birth stay.
//!
//! Whoever writes or replays the file has it locked (`flock`), and a line says who owns the sandbox. A locked file
//! of a living owner is a sandbox in use. With a dead owner the lock will soon be free: another clean-up has it, or
//! a child that the owner was just starting (a lock passes on to children until they `exec`).

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kata_intent::{Intent, IntentId, Intents};
use rustix::fs::{FallocateFlags, FlockOperation, SeekFrom, fallocate, flock, seek};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use kata_storage::processes;

use crate::hooks::Poststop;

/// The name of the intent log in the state directory.
pub const INTENTS_FILE: &str = "intents";

/// After so many bytes a log begins anew.
const RENEWED_AFTER: usize = 256 << 10;

/// Far more intents than a log ever gets.
const MAX_ID: u64 = u64::MAX / 2;

/// One line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// This is about to be made.
    Will { id: IntentId, intent: Intent },
    /// These hooks shall run when their container is gone.
    Poststop { id: IntentId, hooks: Poststop },
    /// This has been undone, or is about to run.
    Done(IntentId),
    /// This process owns the sandbox. Its socket is not undone with the sandbox: it may serve on.
    Owner {
        pid: u32,
        start_ticks: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        socket: Option<PathBuf>,
    },
}

/// An open, locked intent log.
#[derive(Debug)]
pub(crate) struct IntentLog {
    file: File,
    next: AtomicU64,
    end: Mutex<End>,
}

/// The end of the file. Whoever writes holds it: what a renewal has read must be all there is until it has written.
#[derive(Debug, Default)]
struct End {
    /// Whether the last line was written in part only.
    is_torn: bool,
    /// Bytes since the log began anew.
    written: usize,
    /// Whether nothing more is to be made.
    is_closed: bool,
    /// The hooks that somebody here has begun to run.
    run: HashSet<IntentId>,
}

/// The log of a sandbox whose owner has died, locked.
pub(crate) struct Abandoned {
    pub(crate) log: IntentLog,
    /// Where the owner listened.
    pub(crate) socket: Option<PathBuf>,
}

/// The log belongs to a living process, or cannot be used.
#[derive(Debug)]
pub(crate) enum OpenError {
    Locked,
    Io(io::Error),
}

impl IntentLog {
    /// Opens the log of a state directory, making it if there is none, and locks it.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, OpenError> {
        let file = options().create(true).mode(0o600).open(state_dir.join(INTENTS_FILE));
        let log = Self::on(file.map_err(OpenError::Io)?);
        log.lock()?;
        log.begin().map_err(OpenError::Io)?;
        Ok(log)
    }

    /// Opens and locks a log whose owner has died. `None` if somebody holds it, a living owner or another clean-up; or
    /// if it has no owner yet, as at the very beginning of a sandbox.
    pub(crate) fn open_abandoned(state_dir: &Path) -> io::Result<Option<Abandoned>> {
        let file = match options().open(state_dir.join(INTENTS_FILE)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let log = Self::on(file);
        // An owner keeps its lock as long as it lives.
        let owner = lines(&log.begin()?).find_map(|line| match line {
            Line::Owner { socket, .. } => Some(socket),
            _ => None,
        });
        Ok(owner.filter(|_| !log.is_removed()).map(|socket| Abandoned { log, socket }))
    }

    fn on(file: File) -> Self {
        Self { file, next: AtomicU64::new(0), end: Mutex::default() }
    }

    /// Prepares for appending. Returns what stands in it.
    fn begin(&self) -> io::Result<String> {
        let text = self.text()?;
        if !text.is_empty() && !text.ends_with('\n') {
            // Seals a torn line off from what is appended now.
            self.append(&mut self.end(), b"\n")?;
        }
        self.next.store(next_id(&text), Ordering::Relaxed);
        Ok(text)
    }

    /// Whether another clean-up has finished while this one waited for the lock: the directory that has its name now,
    /// if there is one, is another sandbox's.
    pub(crate) fn is_removed(&self) -> bool {
        self.file.metadata().is_ok_and(|found| found.nlink() == 0)
    }

    fn lock(&self) -> Result<(), OpenError> {
        match flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(OpenError::Io(error.into())),
        }
        if has_living_owner(&self.text().map_err(OpenError::Io)?) {
            return Err(OpenError::Locked);
        }
        flock(&self.file, FlockOperation::LockExclusive).map_err(|error| OpenError::Io(error.into()))
    }

    /// Nothing more can be announced: what is pending is about to be undone.
    pub(crate) fn close(&self) {
        self.end().is_closed = true;
    }

    /// This process owns the sandbox from now on, and listens on `socket`.
    pub(crate) fn own(&self, socket: Option<PathBuf>) -> io::Result<()> {
        let pid = std::process::id();
        let start_ticks = processes::start_ticks(pid).unwrap_or(0);
        self.write(&Line::Owner { pid, start_ticks, socket })
    }

    /// What was announced and not struck out, in the order in which it was announced.
    pub(crate) fn pending(&self) -> io::Result<Vec<(IntentId, Intent)>> {
        Ok(parse(&self.text()?).intents)
    }

    /// The hooks that were announced and not struck out, likewise.
    pub(crate) fn pending_hooks(&self) -> io::Result<Vec<(IntentId, Poststop)>> {
        Ok(parse(&self.text()?).hooks)
    }

    /// Announces hooks, to be struck out right before they run.
    pub(crate) fn will_run(&self, hooks: Poststop) -> io::Result<IntentId> {
        let id = self.number();
        self.write(&Line::Poststop { id, hooks })?;
        Ok(id)
    }

    /// Strikes out hooks. Only who is told `true` may run them: else they would run twice, or again on replay.
    pub(crate) fn runs(&self, id: IntentId) -> io::Result<bool> {
        let mut end = self.end();
        if end.run.contains(&id) {
            return Ok(false);
        }
        self.write_at(&mut end, &Line::Done(id))?;
        end.run.insert(id);
        Ok(true)
    }

    fn number(&self) -> IntentId {
        IntentId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn text(&self) -> io::Result<String> {
        text(&self.file)
    }

    fn write(&self, line: &Line) -> io::Result<()> {
        self.write_at(&mut self.end(), line)
    }

    fn write_at(&self, end: &mut End, line: &Line) -> io::Result<()> {
        if end.is_closed && matches!(line, Line::Will { .. } | Line::Poststop { .. }) {
            return Err(io::Error::other("all that the sandbox has made is being undone"));
        }
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        self.append(end, &bytes)
    }

    fn end(&self) -> MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One `write` at the end of the file, on tmpfs.
    fn append(&self, end: &mut End, bytes: &[u8]) -> io::Result<()> {
        self.append_at(end, bytes)?;
        if end.written >= RENEWED_AFTER {
            end.written = 0;
            if let Err(error) = self.renew(end) {
                // It is as good as before, and longer.
                tracing::debug!(%error, "The intent log does not begin anew");
            }
        }
        Ok(())
    }

    fn append_at(&self, end: &mut End, bytes: &[u8]) -> io::Result<()> {
        // A torn line ends here, and is no line.
        let separator: &[u8] = if end.is_torn { b"\n" } else { b"" };
        let line = [separator, bytes].concat();
        let written = (&self.file).write(&line)?;
        end.written += written;
        if written > 0 {
            end.is_torn = written < line.len();
        }
        match written == line.len() {
            true => Ok(()),
            false => Err(io::Error::new(
                io::ErrorKind::WriteZero,
                "The intent log is full; is there space on /run?",
            )),
        }
    }

    /// Writes once more what is pending, and gives back what stood before.
    fn renew(&self, end: &mut End) -> io::Result<()> {
        let before = self.file.metadata()?.len();
        // Whoever reads meanwhile may see a line that the hole cuts off: it ends here.
        let mut bytes = b"\n".to_vec();
        for line in still_true(&self.text()?) {
            serde_json::to_writer(&mut bytes, &line)?;
            bytes.push(b'\n');
        }
        self.append_at(end, &bytes)?;
        end.written = 0;
        Ok(fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, before)?)
    }
}

/// What stands in a log, behind the hole that it may begin with.
pub(crate) fn text(file: &File) -> io::Result<String> {
    loop {
        let length = file.metadata()?.len();
        let start = match seek(file, SeekFrom::Data(0)) {
            Ok(start) => start.min(length),
            // There is nothing but a hole.
            Err(Errno::NXIO) => length,
            // This file system knows no holes.
            Err(_) => 0,
        };
        let mut bytes = vec![0; usize::try_from(length - start).unwrap_or(0)];
        std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, start)?;
        // It may have begun anew meanwhile, with all that counts behind what was read.
        if file.metadata()?.len() == length {
            // The hole ends within a page.
            return Ok(String::from_utf8_lossy(&bytes).trim_start_matches('\0').to_owned());
        }
    }
}

impl Intents for IntentLog {
    fn will(&self, intent: Intent) -> io::Result<IntentId> {
        let id = self.number();
        self.write(&Line::Will { id, intent })?;
        Ok(id)
    }

    fn done(&self, id: IntentId) {
        if let Err(error) = self.write(&Line::Done(id)) {
            // Undone once more on replay, which does no harm.
            tracing::debug!(%error, "An intent could not be struck out");
        }
    }
}

/// To read and to append, never through a link.
fn options() -> OpenOptions {
    let nofollow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).expect("the flag is a small constant");
    let mut options = OpenOptions::new();
    options.append(true).read(true).custom_flags(nofollow);
    options
}

/// A line that does not parse was torn by the writer's death: what it would have announced was never made.
fn lines(text: &str) -> impl Iterator<Item = Line> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok())
}

/// What stands in a log and is not struck out. Of two with one number, which only a damaged log has, both count, unless they
/// are the same.
#[derive(Default)]
struct Pending {
    intents: Vec<(IntentId, Intent)>,
    hooks: Vec<(IntentId, Poststop)>,
}

fn parse(text: &str) -> Pending {
    let mut pending = Pending::default();
    for line in lines(text) {
        match line {
            Line::Will { id, intent } => add(&mut pending.intents, (id, intent)),
            Line::Poststop { id, hooks } => add(&mut pending.hooks, (id, hooks)),
            Line::Done(done) => {
                pending.intents.retain(|(id, _)| *id != done);
                pending.hooks.retain(|(id, _)| *id != done);
            }
            Line::Owner { .. } => {}
        }
    }
    pending
}

fn add<T: PartialEq>(all: &mut Vec<T>, one: T) {
    if !all.contains(&one) {
        all.push(one);
    }
}

/// The lines of a log that still say something, each once: owners first, as everybody looks for them.
fn still_true(text: &str) -> Vec<Line> {
    let mut owners = Vec::new();
    for line in lines(text) {
        if let Line::Owner { pid, start_ticks, socket } = line {
            add(&mut owners, (pid, start_ticks, socket));
        }
    }
    let Pending { intents, hooks } = parse(text);
    let owners =
        owners.into_iter().map(|(pid, start_ticks, socket)| Line::Owner { pid, start_ticks, socket });
    let intents = intents.into_iter().map(|(id, intent)| Line::Will { id, intent });
    let hooks = hooks.into_iter().map(|(id, hooks)| Line::Poststop { id, hooks });
    owners.chain(intents).chain(hooks).collect()
}

fn has_living_owner(text: &str) -> bool {
    owners(text).any(|(pid, start_ticks)| processes::lives_on(pid, start_ticks))
}

/// What stands in a sandbox's intent log now, for those who look at it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Announced {
    /// The process that owns the sandbox, if it lives.
    pub owner: Option<u32>,
    /// What was announced and is not undone, in that order.
    pub intents: Vec<Intent>,
}

impl Announced {
    /// Reads the log in a state directory, whoever has it locked.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub fn read(state_dir: &Path) -> io::Result<Self> {
        let text = text(&File::open(state_dir.join(INTENTS_FILE))?)?;
        let alive = |(pid, start): &(u32, u64)| processes::start_ticks(*pid) == Some(*start);
        let owner = owners(&text).find(alive).map(|(pid, _)| pid);
        let intents = parse(&text).intents.into_iter().map(|(_, intent)| intent).collect();
        Ok(Self { owner, intents })
    }
}

/// The processes that the log says own its sandbox: their numbers, and when they were started.
pub(crate) fn owners(text: &str) -> impl Iterator<Item = (u32, u64)> {
    lines(text).filter_map(|line| match line {
        Line::Owner { pid, start_ticks, .. } => Some((pid, start_ticks)),
        _ => None,
    })
}

/// Numbers that no log reaches are damage, and not gone on from: there would be none left.
fn next_id(text: &str) -> u64 {
    let ids = lines(text).filter_map(|line| match line {
        Line::Will { id, .. } | Line::Poststop { id, .. } if id.0 <= MAX_ID => Some(id.0 + 1),
        _ => None,
    });
    ids.max().unwrap_or(0)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use kata_intent::{Intent, Intents};
    use proptest::prelude::*;

    use super::{Announced, INTENTS_FILE, IntentLog, OpenError, RENEWED_AFTER, text};
    use crate::hooks::{Hooks, Poststop};

    /// While a test starts a process, the child has the locks of all other tests for a moment.
    pub(crate) fn without_forks() -> MutexGuard<'static, ()> {
        static FORKS: Mutex<()> = Mutex::new(());
        FORKS.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dir(name: &str) -> Intent {
        Intent::Dir { path: format!("/run/{name}").into() }
    }

    #[test]
    fn a_log_is_read_by_others_while_it_is_in_use() {
        let state = tempfile::tempdir().unwrap();
        let log = IntentLog::open(state.path()).unwrap();
        log.own(None).unwrap();
        let first = log.will(dir("a")).unwrap();
        log.will(dir("b")).unwrap();
        log.done(first);
        let expected = Announced { owner: Some(std::process::id()), intents: vec![dir("b")] };
        assert_eq!(Announced::read(state.path()).unwrap(), expected);
    }

    #[test]
    fn what_is_announced_and_not_struck_out_is_pending() {
        let state = tempfile::tempdir().unwrap();
        let log = IntentLog::open(state.path()).unwrap();
        let first = log.will(dir("a")).unwrap();
        let second = log.will(dir("b")).unwrap();
        log.done(first);
        assert_eq!(log.pending().unwrap(), [(second, dir("b"))]);
        drop(log);
        let log = IntentLog::open(state.path()).unwrap();
        let third = log.will(dir("c")).unwrap();
        assert!(third > second, "ids are not used twice");
        assert_eq!(log.pending().unwrap(), [(second, dir("b")), (third, dir("c"))]);
    }

    /// `/run` was full for a moment: what was announced next was never undone.
    #[test]
    fn a_line_that_was_written_in_part_costs_no_other() {
        let state = tempfile::tempdir().unwrap();
        let log = IntentLog::open(state.path()).unwrap();
        (&log.file).write_all(br#"{"will":{"id":7"#).unwrap();
        log.end.lock().unwrap().is_torn = true;
        let [first, second] = ["a", "b"].map(|name| log.will(dir(name)).unwrap());
        assert_eq!(log.pending().unwrap(), [(first, dir("a")), (second, dir("b"))]);
    }

    fn some_hooks() -> Poststop {
        let hooks = serde_json::json!({ "poststop": [{ "path": "/bin/true" }] });
        let spec = serde_json::json!({ "ociVersion": "1.2.0", "hooks": hooks });
        let spec = serde_json::from_value(spec).unwrap();
        let id = "c".parse().unwrap();
        Hooks::of(&id, std::path::Path::new("/run"), &spec).poststop(&id).unwrap()
    }

    /// It grew by a few kilobytes with each restart of a container, as long as the pod was there.
    #[test]
    fn a_log_that_has_grown_begins_anew_with_what_counts() {
        let _alone = without_forks();
        let state = tempfile::tempdir().unwrap();
        let log = IntentLog::open(state.path()).unwrap();
        log.own(Some("/run/socket".into())).unwrap();
        let stays = log.will(dir("stays")).unwrap();
        let hooks = log.will_run(some_hooks()).unwrap();
        for number in 0..20_000 {
            log.done(log.will(dir(&format!("comes-and-goes-{number}"))).unwrap());
        }
        assert!(text(&log.file).unwrap().len() <= 2 * RENEWED_AFTER, "of more than a megabyte");
        let last = log.will(dir("last")).unwrap();
        let expected = [(stays, dir("stays")), (last, dir("last"))];
        assert_eq!(log.pending().unwrap(), expected);
        let announced = Announced::read(state.path()).unwrap();
        assert_eq!(announced.owner, Some(std::process::id()));
        assert!(matches!(IntentLog::open(state.path()), Err(OpenError::Locked)));
        drop(log);
        let log = IntentLog::open(state.path()).unwrap();
        assert_eq!(log.pending().unwrap(), expected);
        assert_eq!(log.pending_hooks().unwrap(), [(hooks, some_hooks())]);
        assert!(log.will(dir("new")).unwrap() > last);
    }

    /// Hooks would run twice.
    #[test]
    fn what_a_death_while_it_begins_anew_leaves_twice_counts_once() {
        let state = tempfile::tempdir().unwrap();
        let log = IntentLog::open(state.path()).unwrap();
        let stays = log.will(dir("stays")).unwrap();
        let hooks = log.will_run(some_hooks()).unwrap();
        let again = std::fs::read(state.path().join(INTENTS_FILE)).unwrap();
        (&log.file).write_all(&again).unwrap();
        assert_eq!(log.pending().unwrap(), [(stays, dir("stays"))]);
        assert_eq!(log.pending_hooks().unwrap(), [(hooks, some_hooks())]);
        log.done(stays);
        log.runs(hooks).unwrap();
        assert!(log.pending().unwrap().is_empty() && log.pending_hooks().unwrap().is_empty());
    }

    #[test]
    fn a_living_owner_locks_others_out() {
        let _alone = without_forks();
        let state = tempfile::tempdir().unwrap();
        let log = IntentLog::open(state.path()).unwrap();
        log.own(None).unwrap();
        assert!(matches!(IntentLog::open(state.path()), Err(OpenError::Locked)));
        drop(log);
        IntentLog::open(state.path()).unwrap();
    }

    /// The clean-up of a killed shim found its sandbox in use: the connection was closed before the lock was free.
    #[test]
    fn an_owner_that_is_about_to_go_is_waited_for() {
        let _alone = without_forks();
        let state = tempfile::tempdir().unwrap();
        let log = IntentLog::open(state.path()).unwrap();
        let mut owner = std::process::Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        let pid = owner.id();
        let start_ticks = kata_storage::processes::start_ticks(pid).unwrap();
        log.write(&super::Line::Owner { pid, start_ticks, socket: None }).unwrap();
        let path = state.path().to_owned();
        let other = std::thread::spawn(move || IntentLog::open(&path).map(drop).is_ok());
        owner.kill().unwrap();
        owner.wait().unwrap();
        drop(log);
        assert!(other.join().unwrap());
    }

    #[test]
    fn the_lock_of_a_dead_owner_is_waited_for() {
        let state = tempfile::tempdir().unwrap();
        let log = IntentLog::open(state.path()).unwrap();
        log.write(&super::Line::Owner { pid: u32::MAX, start_ticks: 1, socket: None }).unwrap();
        let path = state.path().to_owned();
        let other = std::thread::spawn(move || IntentLog::open(&path).map(drop).is_ok());
        drop(log);
        assert!(other.join().unwrap());
    }

    #[test]
    fn the_lines_are_stable() {
        let state = tempfile::tempdir().unwrap();
        let log = IntentLog::open(state.path()).unwrap();
        let id = log.will(dir("a")).unwrap();
        log.done(id);
        let text = std::fs::read_to_string(state.path().join(INTENTS_FILE)).unwrap();
        let will = r#"{"will":{"id":0,"intent":{"kind":"dir","path":"/run/a"}}}"#;
        assert_eq!(text, format!("{will}\n{{\"done\":0}}\n"));
    }

    /// The number after the largest there is was 0, which an intent had: that one was forgotten.
    #[test]
    fn a_damaged_number_costs_no_other_intent() {
        let state = tempfile::tempdir().unwrap();
        let will = |id: u64, name: &str| {
            format!(r#"{{"will":{{"id":{id},"intent":{{"kind":"dir","path":"/run/{name}"}}}}}}"#)
        };
        let lines = [will(0, "a"), will(u64::MAX, "b"), will(0, "c"), String::new()];
        std::fs::write(state.path().join(INTENTS_FILE), lines.join("\n")).unwrap();
        let log = IntentLog::open(state.path()).unwrap();
        let new = log.will(dir("d")).unwrap();
        let pending = log.pending().unwrap();
        assert_eq!(
            pending.iter().map(|(_, intent)| intent.clone()).collect::<Vec<_>>(),
            ["a", "b", "c", "d"].map(dir)
        );
        log.done(new);
        assert_eq!(log.pending().unwrap(), pending[..3]);
    }

    proptest! {
        /// The log is cut at any byte: every whole line counts, the torn one does not, and appending works.
        #[test]
        fn a_torn_line_costs_nothing_else(count in 1_usize..8, cut in 0_usize..600) {
            let state = tempfile::tempdir().unwrap();
            let log = IntentLog::open(state.path()).unwrap();
            let mut ids = Vec::new();
            for n in 0..count {
                ids.push((log.will(dir(&n.to_string())).unwrap(), dir(&n.to_string())));
            }
            drop(log);
            let path = state.path().join(INTENTS_FILE);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes.truncate(cut);
            let whole = bytes.split_inclusive(|b| *b == b'\n').filter(|line| serde_json::from_slice::<super::Line>(line).is_ok()).count();
            std::fs::write(&path, &bytes).unwrap();

            let log = IntentLog::open(state.path()).unwrap();
            prop_assert_eq!(&log.pending().unwrap()[..], &ids[..whole]);
            let late = log.will(dir("late")).unwrap();
            prop_assert_eq!(log.pending().unwrap().pop(), Some((late, dir("late"))));
        }
    }
}
