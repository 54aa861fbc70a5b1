//! What this crate's tests share: a log in memory, and a mount namespace of one's own.

use std::io;
use std::sync::{Arc, Mutex};

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountPropagationFlags, mount_change};

use kata_intent::{Intent, IntentId, Intents};

/// An intent log that only remembers.
#[derive(Debug, Default)]
pub(crate) struct MemoryLog {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    open: Vec<(IntentId, Intent)>,
    broken: bool,
}

impl MemoryLog {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// What is announced and not struck out, in order.
    pub(crate) fn open(&self) -> Vec<Intent> {
        self.state.lock().unwrap().open.iter().map(|(_, intent)| intent.clone()).collect()
    }

    /// From now on nothing can be announced.
    pub(crate) fn break_down(&self) {
        self.state.lock().unwrap().broken = true;
    }
}

impl Intents for MemoryLog {
    fn will(&self, intent: Intent) -> io::Result<IntentId> {
        let mut state = self.state.lock().unwrap();
        if state.broken {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.next += 1;
        let id = IntentId(state.next);
        state.open.push((id, intent));
        Ok(id)
    }

    fn done(&self, id: IntentId) {
        self.state.lock().unwrap().open.retain(|(other, _)| *other != id);
    }
}

/// Runs `test` on a thread with a mount namespace of its own, from which nothing gets out; says so and does
/// nothing where the rights for that are missing.
pub(crate) fn in_private_mounts(test: impl FnOnce() + Send + 'static) {
    let body = move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNS) {
            eprintln!("skipped: no mount namespace of our own ({error})");
            return;
        }
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).expect("a namespace of our own can be made private");
        test();
    };
    if let Err(panic) = std::thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

/// The mount points below `dir` in this thread's namespace.
pub(crate) fn mounts_below(dir: &std::path::Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points.filter(|point| std::path::Path::new(point).starts_with(dir)).map(str::to_owned).collect()
}
