//! Which sandboxes there are, and which pods they are.
//!
//! A sandbox is known as soon as its management socket is there, and until its directory is gone. The container manager
//! names the pods; it may do so late, or never for what is no pod. Some time after a new sandbox has come, those are
//! dropped that the manager does not know and whose shim is dead: nobody has removed their directories.

mod watch;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch as channel};
use tokio::time::{Instant, timeout_at};

use crate::cri::{Manager, Pod, Pods};
use crate::exposition::Labels;
use crate::shim;
use watch::Place;
pub(crate) use watch::Watch;

/// How long after it was seen first a sandbox is asked about at each scrape, if the manager does not name it.
const NAMED_WITHIN: Duration = Duration::from_secs(600);
/// A manager that could not be asked is left alone for so long.
const REST: Duration = Duration::from_secs(5);

/// A sandbox.
#[derive(Debug, Clone)]
pub(crate) struct Sandbox {
    /// Its id.
    pub(crate) id: Arc<str>,
    place: Place,
    /// As the manager names it.
    pub(crate) pod: Option<Pod>,
    /// It has not answered in time, and is still being waited for.
    pub(crate) stuck: Arc<AtomicBool>,
    seen: Instant,
    /// When it was seen first.
    pub(crate) since: SystemTime,
}

impl Sandbox {
    /// Its labels in every figure.
    pub(crate) fn labels(&self) -> Labels {
        let pod = self.pod.as_ref().map(|pod| [pod.uid.as_str(), &pod.name, &pod.namespace]);
        Labels::new(&self.id, pod)
    }

    /// Its state directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.place.dir
    }

    /// Its management socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.place.socket()
    }

    /// Whether it is the same, and not a later one in its place.
    pub(crate) fn has_life_of(&self, other: &Self) -> bool {
        self.place == other.place
    }
}

/// All that are known, in the order of their ids.
pub(crate) type Sandboxes = BTreeMap<Arc<str>, Sandbox>;

/// A sandbox came, or went.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Started(Sandbox),
    Exited(Sandbox),
    /// Its directory is left, and its shim is dead.
    ShimDied(Sandbox),
}

impl Change {
    /// What it happened to.
    pub(crate) fn sandbox(&self) -> &Sandbox {
        let (Self::Started(sandbox) | Self::Exited(sandbox) | Self::ShimDied(sandbox)) = self;
        sandbox
    }

    /// The event's name.
    pub(crate) fn event(&self) -> &'static str {
        match self {
            Self::Started(_) => "started",
            Self::Exited(_) => "exited",
            Self::ShimDied(_) => "shim-died",
        }
    }
}

/// Who is told of changes.
pub(crate) type Teller = Box<dyn Fn(Change) + Send + Sync>;

/// What is known.
pub(crate) struct Registry {
    manager: Manager,
    state: Mutex<State>,
    /// For those who follow it.
    known: channel::Sender<Arc<Sandboxes>>,
    sync: Notify,
    teller: Teller,
}

#[derive(Default)]
struct State {
    known: Sandboxes,
    /// Left by a dead shim.
    dead: BTreeMap<Arc<str>, Place>,
    /// Until then the manager is not asked again.
    resting: Option<Instant>,
}

impl Registry {
    /// Nothing is known yet.
    pub(crate) fn new(manager: Manager, teller: Teller) -> Self {
        let known = channel::Sender::default();
        Self { manager, state: Mutex::default(), known, sync: Notify::new(), teller }
    }

    /// What is known now.
    pub(crate) fn sandboxes(&self) -> Arc<Sandboxes> {
        self.known.borrow().clone()
    }

    /// Tells when that has changed.
    pub(crate) fn follow(&self) -> channel::Receiver<Arc<Sandboxes>> {
        self.known.subscribe()
    }

    /// The same with the names that the manager has for those that have none yet; it is asked only if there are such.
    pub(crate) async fn named(&self) -> Arc<Sandboxes> {
        if self.wants_names()
            && let Some(pods) = self.ask().await
        {
            self.name(&pods);
        }
        self.sandboxes()
    }

    /// Has the dead dropped soon: somebody does not answer.
    pub(crate) fn suspect(&self) {
        self.sync.notify_one();
    }

    fn wants_names(&self) -> bool {
        let state = self.lock();
        let rested = state.resting.is_none_or(|until| until <= Instant::now());
        let nameless = |one: &Sandbox| one.pod.is_none() && one.seen.elapsed() < NAMED_WITHIN;
        rested && state.known.values().any(nameless)
    }

    async fn ask(&self) -> Option<Pods> {
        match self.manager.pods().await {
            Ok(pods) => {
                self.lock().resting = None;
                Some(pods)
            }
            Err(error) => {
                let first = self.lock().resting.replace(Instant::now() + REST).is_none();
                let error = &error as &dyn std::error::Error;
                if first {
                    tracing::warn!(error, "pods have no names");
                } else {
                    tracing::debug!(error, "pods have no names still");
                }
                None
            }
        }
    }

    fn name(&self, pods: &Pods) {
        let mut state = self.lock();
        for (id, sandbox) in &mut state.known {
            if let Some(pod) = pods.get(&**id) {
                sandbox.pod = Some(pod.clone());
            }
        }
        self.tell(&state);
    }

    /// Takes over what is in the directories; true: there is a new one.
    fn update(&self, found: BTreeMap<String, Place>) -> bool {
        let mut state = self.lock();
        let mut changes = Vec::new();
        state.dead.retain(|id, place| found.get(&**id) == Some(place));
        let gone = state.known.extract_if(.., |id, sandbox| found.get(&**id) != Some(&sandbox.place));
        changes.extend(gone.map(|(_, sandbox)| Change::Exited(sandbox)));
        for (id, place) in found {
            let id: Arc<str> = id.into();
            if state.known.contains_key(&id) || state.dead.contains_key(&id) {
                continue;
            }
            let (seen, since) = (Instant::now(), SystemTime::now());
            let sandbox = Sandbox { id: id.clone(), place, pod: None, stuck: Arc::default(), seen, since };
            changes.push(Change::Started(sandbox.clone()));
            state.known.insert(id, sandbox);
        }
        self.tell(&state);
        drop(state);
        let new = changes.iter().any(|change| matches!(change, Change::Started(_)));
        changes.into_iter().for_each(&self.teller);
        new
    }

    /// Drops the dead. Who only has not come to the manager's list yet is not dead. If the manager cannot be asked, whoever
    /// does not get an answer of a sandbox will have this done again.
    async fn sync(&self) {
        let Some(pods) = self.ask().await else { return };
        self.name(&pods);
        for sandbox in self.sandboxes().values().filter(|sandbox| !pods.contains_key(&*sandbox.id)) {
            if shim::is_dead(&sandbox.socket()).await {
                self.drop_dead(sandbox);
            }
        }
    }

    fn drop_dead(&self, sandbox: &Sandbox) {
        let mut state = self.lock();
        let same = |there: &Sandbox| there.place == sandbox.place;
        if state.known.get(&sandbox.id).is_some_and(same) {
            state.known.remove(&sandbox.id);
            state.dead.insert(sandbox.id.clone(), sandbox.place.clone());
            self.tell(&state);
            drop(state);
            tracing::info!(
                sandbox = &*sandbox.id,
                "dropped: its shim is dead and the container manager has no such pod"
            );
            (self.teller)(Change::ShimDied(sandbox.clone()));
        }
    }

    fn tell(&self, state: &State) {
        self.known.send_replace(Arc::new(state.known.clone()));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the registry true, until the directories cannot be watched any more. The dead are dropped `delay` after a new
/// sandbox has come.
pub(crate) async fn run(registry: Arc<Registry>, mut watch: Watch, delay: Duration) -> io::Result<()> {
    let mut sync_at: Option<Instant> = None;
    loop {
        if registry.update(watch.look()?) {
            sync_at = Some(Instant::now() + delay);
        }
        let quiet = Instant::now() + Duration::from_secs(3600);
        tokio::select! {
            changed = timeout_at(sync_at.unwrap_or(quiet), watch.changed()) => match changed {
                Ok(changed) => changed?,
                Err(_) if sync_at.is_none() => {}
                // The manager may take its time; what comes meanwhile shall be known at once.
                Err(_) => {
                    sync_at = None;
                    let registry = registry.clone();
                    tokio::spawn(async move { registry.sync().await });
                }
            },
            () = registry.sync.notified() => sync_at = sync_at.or(Some(Instant::now() + delay)),
        }
    }
}
