//! Asks all shims for their figures, at the same time. Nothing is kept from one scrape to the next.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{timeout, timeout_at};

use crate::discovery::{Registry, Sandbox};
use crate::exposition::{Labels, Text, Told};
use crate::own::Own;
use crate::shim::{self, ShimError};

/// Shims that are asked at the same time, for all scrapes together.
const AT_ONCE: usize = 128;
/// Scrapes of all shims at the same time; the figures of each wait in memory until they are taken.
const SCRAPES: usize = 8;
/// A shim that has not answered in time is asked again after so long.
const GIVEN_UP: Duration = Duration::from_secs(60);

/// How long a scrape waits for a shim.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience(pub(crate) Duration);

/// What came of a scrape.
pub(crate) struct Scraped {
    /// Each sandbox that was asked, and its figures if it gave any.
    pub(crate) shims: Vec<(Sandbox, Option<Text>)>,
}

impl Scraped {
    /// The monitor's own figures, and what is to be merged behind them.
    pub(crate) fn into_parts(self, own: &Own) -> (String, Vec<Told>) {
        let labels: Vec<(Labels, bool)> =
            self.shims.iter().map(|(sandbox, text)| (sandbox.labels(), text.is_some())).collect();
        let up: Vec<_> = labels.iter().map(|(labels, up)| (labels, *up)).collect();
        let head = own.text(&up);
        let texts = self.shims.into_iter().map(|(_, text)| text);
        let told = labels
            .into_iter()
            .zip(texts)
            .filter_map(|((labels, _), text)| Some(Told { labels, text: text? }));
        (head, told.collect())
    }
}

/// Asks shims.
pub(crate) struct Scraper {
    registry: Arc<Registry>,
    own: Arc<Own>,
    turns: Arc<Semaphore>,
    places: Arc<Semaphore>,
    patience: Patience,
}

impl Scraper {
    /// Counts in `own`.
    pub(crate) fn new(registry: Arc<Registry>, own: Arc<Own>, patience: Patience) -> Self {
        let [turns, places] = [AT_ONCE, SCRAPES].map(|count| Arc::new(Semaphore::new(count)));
        Self { registry, own, turns, places, patience }
    }

    /// A place for a scrape of all, to be kept until its figures have been taken.
    pub(crate) async fn place(&self) -> Result<OwnedSemaphorePermit, NoFigures> {
        let place = timeout(self.patience.0, self.places.clone().acquire_owned()).await;
        place.ok().and_then(Result::ok).ok_or(NoFigures::Busy)
    }

    /// The figures of all sandboxes. `query` is passed on to each shim.
    pub(crate) async fn all(&self, query: &str) -> Scraped {
        let begun = Instant::now();
        let sandboxes = self.registry.named().await;
        let mut asked = JoinSet::new();
        for (number, sandbox) in sandboxes.values().cloned().enumerate() {
            let told = self.one(sandbox.clone(), query);
            asked.spawn(async move { (number, sandbox, told.await.ok()) });
        }
        let mut answers = asked.join_all().await;
        answers.sort_by_key(|(number, ..)| *number);
        let shims: Vec<_> = answers.into_iter().map(|(_, sandbox, text)| (sandbox, text)).collect();
        let failed = shims.iter().filter(|(_, text)| text.is_none()).count();
        self.own.scraped(begun.elapsed(), failed);
        Scraped { shims }
    }

    /// The figures of one.
    ///
    /// A shim that does not answer in time is waited for behind the scenes, and nobody else waits for it meanwhile: it has
    /// one request at a time, and delays one scrape of many. That is so, too, if the one who asked has gone before: a
    /// collector may be less patient than this program.
    pub(crate) fn one(
        &self,
        sandbox: Sandbox,
        query: &str,
    ) -> impl Future<Output = Result<Text, NoFigures>> + Send + use<> {
        let path = if query.is_empty() { "/metrics".to_owned() } else { format!("/metrics?{query}") };
        let (turns, registry, patience) = (self.turns.clone(), self.registry.clone(), self.patience.0);
        async move {
            if sandbox.stuck.load(Ordering::Relaxed) {
                return Err(NoFigures::Stuck);
            }
            let asked = tokio::spawn(ask(sandbox, path, turns, patience));
            asked.await.unwrap_or(Err(NoFigures::Slow(patience))).inspect_err(|error| error.report(&registry))
        }
    }
}

/// Asks a shim, and is to run to its end whoever still wants the answer.
async fn ask(
    sandbox: Sandbox,
    path: String,
    turns: Arc<Semaphore>,
    patience: Duration,
) -> Result<Text, NoFigures> {
    let end = tokio::time::Instant::now() + patience;
    let slow = |_| NoFigures::Slow(patience);
    let _turn = timeout_at(end, turns.acquire_owned()).await.map_err(slow)?;
    let socket = sandbox.socket();
    let mut asking = Box::pin(async move { shim::ask(&socket, &path).await });
    let answer = timeout_at(end, &mut asking).await.map_err(slow);
    let was_stuck = sandbox.stuck.swap(answer.is_err(), Ordering::Relaxed);
    if answer.is_err() && !was_stuck {
        tokio::spawn(async move {
            // What it answers is nobody's any more.
            let _ = timeout(GIVEN_UP, asking).await;
            sandbox.stuck.store(false, Ordering::Relaxed);
        });
    }
    Ok(Text::new(answer?.map_err(NoFigures::Shim)?))
}

/// A shim has given no figures.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoFigures {
    /// It has answered otherwise.
    #[error("The shim gives no figures: {0}")]
    Shim(#[source] ShimError),
    /// It has not answered.
    #[error("The shim has not answered within {0:?}")]
    Slow(Duration),
    /// Nobody has asked it.
    #[error("As many scrapes as may are being answered; try again later")]
    Busy,
    /// Nor has it before.
    #[error("The shim still owes the answer to an earlier request")]
    Stuck,
}

impl NoFigures {
    fn report(&self, registry: &Registry) {
        if matches!(self, Self::Shim(error) if error.is_dead()) {
            registry.suspect();
        }
    }
}
