//! What containerd knows of each process, and in which order it is told.
//!
//! containerd relies on an order per container: create, start, exit, delete; of other processes: added,
//! started, exit; and the exit of a container's first process last of all exits. The sandbox reports ends as
//! they happen, on a queue of its own, so an end can be known before the answer that begins it: such an end
//! is held here until its turn. Nothing in here waits, so the lock is never held for long.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::events::{self, Ended, Event};
use crate::publisher::Publisher;
use crate::stdio::{Input, Names, Output, Slot, StdinHold};

/// Between two lacks of memory of a container that are told.
const LACKS: Duration = Duration::from_secs(1);

/// 128 + SIGKILL.
const KILLED: u32 = 137;

/// A process: the container's id, and the exec's (empty for the container's first process).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// The container.
    pub(crate) container: String,
    /// The exec, or empty.
    pub(crate) exec: String,
}

impl Key {
    /// Of ids as they come in requests.
    #[must_use]
    pub(crate) fn new(container: &str, exec: &str) -> Self {
        Self { container: container.to_owned(), exec: exec.to_owned() }
    }
}

/// What a process was created with, for `State`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Its container's bundle.
    pub(crate) bundle: String,
    /// Its streams.
    pub(crate) names: Names,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// `Create` or `Exec` has not answered yet.
    Creating,
    /// Made, and not started.
    Ready,
    /// `Start` has not answered yet.
    Starting,
    /// Runs, or did.
    Started,
}

/// Where a process's streams go when they are opened, at its start.
#[derive(Default)]
pub(crate) struct Slots {
    /// For its input.
    pub(crate) stdin: Option<Slot<Input>>,
    /// For its output.
    pub(crate) stdout: Option<Slot<Output>>,
    /// For its errors.
    pub(crate) stderr: Option<Slot<Output>>,
}

/// A process's input.
#[derive(Debug)]
enum Stdin {
    /// Open, or not opened yet.
    Open(Option<StdinHold>),
    /// `CloseIO` was called.
    Closed,
}

struct Entry {
    facts: Facts,
    stdin: Stdin,
    slots: Slots,
    phase: Phase,
    pid: u32,
    ended: Option<Ended>,
    told: bool,
    /// When a lack of memory was last told.
    lack_told: Option<Instant>,
}

/// All processes of a sandbox that containerd knows.
pub(crate) struct Ledger {
    entries: Mutex<HashMap<Key, Entry>>,
    /// Whether there is any.
    used: watch::Sender<bool>,
    publisher: Publisher,
}

impl Ledger {
    /// An empty one, which tells through `publisher`.
    #[must_use]
    pub(crate) fn new(publisher: Publisher) -> Self {
        Self { entries: Mutex::default(), used: watch::Sender::new(false), publisher }
    }

    /// Before the sandbox is asked to make a process. False: there is one of that name.
    #[must_use]
    pub(crate) fn begin(&self, key: Key, facts: Facts) -> bool {
        let mut entries = self.lock();
        if entries.contains_key(&key) {
            return false;
        }
        let phase = Phase::Creating;
        let (stdin, slots) = (Stdin::Open(None), Slots::default());
        entries.insert(
            key,
            Entry { facts, stdin, slots, phase, pid: 0, ended: None, told: false, lack_told: None },
        );
        self.used.send_replace(true);
        true
    }

    /// Keeps its input from ending before `CloseIO`, which may have been called by now.
    pub(crate) fn hold(&self, key: &Key, hold: StdinHold) {
        if let Some(Entry { stdin: Stdin::Open(held), .. }) = self.lock().get_mut(key) {
            *held = Some(hold);
        }
    }

    /// Keeps the slots of its streams until it is started.
    pub(crate) fn keep_slots(&self, key: &Key, slots: Slots) {
        if let Some(entry) = self.lock().get_mut(key) {
            entry.slots = slots;
        }
    }

    /// Takes the slots back; they are empty if they were taken before.
    pub(crate) fn take_slots(&self, key: &Key) -> Slots {
        self.lock().get_mut(key).map(|entry| std::mem::take(&mut entry.slots)).unwrap_or_default()
    }

    /// The sandbox could not make it.
    pub(crate) fn abandon(&self, key: &Key) {
        let mut entries = self.lock();
        entries.remove(key);
        self.used.send_replace(!entries.is_empty());
    }

    /// Whether there is any process, as it changes.
    pub(crate) fn used(&self) -> watch::Receiver<bool> {
        self.used.subscribe()
    }

    /// It is made; tells `event`. containerd knows it as `pid` (0: not yet).
    pub(crate) fn created(&self, key: &Key, pid: u32, event: Event) {
        self.advance(key, Phase::Ready, Some((pid, event)));
    }

    /// Before the sandbox is asked to start it.
    pub(crate) fn starting(&self, key: &Key) {
        if let Some(entry) = self.lock().get_mut(key)
            && entry.phase == Phase::Ready
        {
            entry.phase = Phase::Starting;
        }
    }

    /// It runs; tells `event`, and its end if that is known by now.
    pub(crate) fn started(&self, key: &Key, pid: u32, event: Event) {
        self.advance(key, Phase::Started, Some((pid, event)));
    }

    /// It could not be started; one that runs goes on.
    pub(crate) fn start_failed(&self, key: &Key) {
        if self.lock().get(key).is_some_and(|entry| entry.phase == Phase::Starting) {
            self.advance(key, Phase::Ready, None);
        }
    }

    /// The sandbox says that it ended. True: it is not told yet, because other processes of the container
    /// have not ended; [`release`](Self::release) tells it anyway.
    #[must_use]
    pub(crate) fn ended(&self, key: &Key, ended: Ended) -> bool {
        let mut entries = self.lock();
        if let Some(entry) = entries.get_mut(key) {
            entry.ended.get_or_insert(ended);
        }
        self.tell(&mut entries, &key.container, false);
        entries.get(key).is_some_and(|entry| !entry.told && entry.phase == Phase::Started)
    }

    /// Tells the end of a container although other processes of it have not ended.
    pub(crate) fn release(&self, container: &str) {
        self.tell(&mut self.lock(), container, true);
    }

    /// The sandbox has forgotten it; tells what is not told yet. `ended` is what the sandbox says of its end.
    /// Answers with the process id that containerd knew.
    pub(crate) fn deleted(&self, key: &Key, mut ended: Ended) -> u32 {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(key) else { return ended.pid };
        ended.pid = entry.pid;
        // An end that the sandbox has not reported yet must still come before the deletion.
        if entry.phase == Phase::Started {
            entry.ended.get_or_insert(ended);
        }
        let init = key.exec.is_empty();
        if init {
            end_execs(&mut entries, &key.container, &ended);
        }
        self.tell(&mut entries, &key.container, init);
        entries.remove(key);
        if init {
            entries.retain(|other, _| other.container != key.container);
            self.publisher.publish(events::delete(&key.container, &ended));
        } else {
            // It may have been the last one that its container's own end waited for.
            self.tell(&mut entries, &key.container, false);
        }
        self.used.send_replace(!entries.is_empty());
        ended.pid
    }

    /// Lets the process's input end. False: there is no such process.
    #[must_use]
    pub(crate) fn close_stdin(&self, key: &Key) -> bool {
        self.lock().get_mut(key).map(|entry| entry.stdin = Stdin::Closed).is_some()
    }

    /// What a process was created with.
    #[must_use]
    pub(crate) fn facts(&self, key: &Key) -> Option<Facts> {
        self.lock().get(key).map(|entry| entry.facts.clone())
    }

    /// The process id that containerd knows; 0 for none.
    #[must_use]
    pub(crate) fn pid(&self, key: &Key) -> u32 {
        self.lock().get(key).map_or(0, |entry| entry.pid)
    }

    /// The containers whose ends are not known.
    #[must_use]
    pub(crate) fn living(&self) -> Vec<Key> {
        let entries = self.lock();
        let living = entries.iter().filter(|(key, entry)| key.exec.is_empty() && entry.ended.is_none());
        living.map(|(key, _)| key.clone()).collect()
    }

    /// Whether no container is known.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn advance(&self, key: &Key, phase: Phase, told: Option<(u32, Event)>) {
        let mut entries = self.lock();
        let entry = entries.get_mut(key);
        if let Some(entry) = entry {
            entry.phase = phase;
            if let Some((pid, _)) = told {
                entry.pid = pid;
            }
        }
        if let Some((_, event)) = told {
            self.publisher.publish(event);
        }
        self.tell(&mut entries, &key.container, false);
    }

    /// A process of a container was killed for want of memory; told if containerd knows the container. A guest may say so as often as
    /// it likes: only one time in [`LACKS`] is told. False: it is not.
    #[must_use]
    pub(crate) fn out_of_memory(&self, container: &str) -> bool {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(&Key::new(container, "")) else { return false };
        if entry.lack_told.is_some_and(|last| last.elapsed() < LACKS) {
            return false;
        }
        entry.lack_told = Some(Instant::now());
        self.publisher.publish(events::out_of_memory(container));
        true
    }

    /// Tells the ends in this container whose turn has come: of processes that nobody is starting; the
    /// container's own after all others, unless `force`.
    fn tell(&self, entries: &mut HashMap<Key, Entry>, container: &str, force: bool) {
        let mut running = false;
        let mut init = None;
        for (key, entry) in entries.iter_mut().filter(|(key, _)| key.container == container) {
            if key.exec.is_empty() {
                init = Some(entry);
                continue;
            }
            self.tell_one(key, entry);
            running |= !entry.told && matches!(entry.phase, Phase::Starting | Phase::Started);
        }
        if let Some(entry) = init
            && (force || !running)
        {
            self.tell_one(&Key::new(container, ""), entry);
        }
    }

    fn tell_one(&self, key: &Key, entry: &mut Entry) {
        let settled = matches!(entry.phase, Phase::Ready | Phase::Started);
        if let Some(ended) = entry.ended.filter(|_| settled && !entry.told) {
            entry.told = true;
            let pid = if entry.pid == 0 { ended.pid } else { entry.pid };
            let ended = Ended { pid, ..ended };
            self.publisher.publish(events::exit(&key.container, &key.exec, &ended));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Entry>> {
        self.entries.lock().expect("a panic ends the process, so nobody left the lock poisoned")
    }
}

/// With their container its other processes end; the sandbox's report of that may come too late for them to be told.
fn end_execs(entries: &mut HashMap<Key, Entry>, container: &str, with: &Ended) {
    let of_container =
        entries.iter_mut().filter(|(key, _)| key.container == container && !key.exec.is_empty());
    for (_, entry) in of_container.filter(|(_, entry)| entry.phase == Phase::Started) {
        entry.ended.get_or_insert(Ended { pid: entry.pid, status: KILLED, ..*with });
    }
}

#[cfg(test)]
mod tests;
