//! Work on the host's files that nobody can call off once it runs, and the end of all of it.
//!
//! A request that is given up, as all are when the sandbox ends, leaves the thread that works for it at work. What that
//! would make after everything was undone would stay for ever.

use std::time::Duration;

use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::error::{Result, SandboxError as Error};
use crate::intent_log::IntentLog;

/// How long work that is under way may take to its end. A file system of the host that does not answer holds it up for
/// ever.
const STALLED_AFTER: Duration = Duration::from_secs(20);

/// Work that blocks, of one sandbox.
#[derive(Debug, Default)]
pub(crate) struct Underway(TaskTracker);

impl Underway {
    /// Runs `work` where blocking is allowed.
    ///
    /// # Errors
    /// It panicked, or the process ends.
    pub(crate) async fn join<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::result::Result<T, tokio::task::JoinError> {
        self.0.spawn_blocking(work).await
    }

    /// As [`Underway::join`], for work that fails as requests do.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.join(work).await.unwrap_or(Err(Error::Closed))
    }

    /// From now on nothing can be announced in `log`. Returns when nothing is under way that was announced before, or
    /// when it stalls: it can make one thing more at most.
    pub(crate) async fn end(&self, log: &IntentLog) {
        log.close();
        self.0.close();
        if timeout(STALLED_AFTER, self.0.wait()).await.is_err() {
            let works = self.0.len();
            tracing::warn!(works, "Work on files does not end: a file system of the host may hang");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::{Arc, mpsc};

    use kata_intent::{Intent, Intents};

    use super::{STALLED_AFTER, Underway};
    use crate::cleanup::replay;
    use crate::intent_log::IntentLog;

    /// A container that was being prepared when its sandbox ended could leave mounts behind.
    #[tokio::test]
    async fn what_is_being_made_when_everything_is_undone_is_undone_too() {
        let place = tempfile::tempdir().unwrap();
        let state = place.path().join("state");
        fs::create_dir(&state).unwrap();
        let log = Arc::new(IntentLog::open(&state).unwrap());
        let underway = Underway::default();
        let (announced, is_announced) = tokio::sync::oneshot::channel();
        let (go_on, goes_on) = mpsc::channel::<()>();
        let (in_time, late) = (place.path().join("in-time"), place.path().join("late"));
        let (making, makers_log) = ([in_time.clone(), late.clone()], Arc::clone(&log));
        let given_up = underway.run(move || {
            let [in_time, late] = making;
            makers_log.will(Intent::Dir { path: in_time.clone() }).unwrap();
            announced.send(()).unwrap();
            goes_on.recv().unwrap();
            fs::create_dir(in_time).unwrap();
            if makers_log.will(Intent::Dir { path: late.clone() }).is_ok() {
                fs::create_dir(late).unwrap();
            }
            Ok(())
        });
        tokio::select! {
            biased;
            _ = given_up => panic!("it waits"),
            told = is_announced => told.unwrap(),
        }
        let ending = async {
            underway.end(&log).await;
            replay(Arc::clone(&log), &state, &"s1".parse().unwrap(), Vec::new()).await.unwrap();
        };
        let going_on = async { go_on.send(()).unwrap() };
        // In this order: the end begins first.
        tokio::join!(biased; ending, going_on);
        assert!(!in_time.exists() && !late.exists() && !state.exists());
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_does_not_wait_for_ever_for_work_that_hangs() {
        let state = tempfile::tempdir().unwrap();
        let log = IntentLog::open(state.path()).unwrap();
        let underway = Underway::default();
        let (let_go, hangs) = mpsc::channel::<()>();
        let hung = underway.0.spawn_blocking(move || hangs.recv().is_err());
        // The clock does not run on by itself while something blocks.
        tokio::join!(biased; underway.end(&log), tokio::time::advance(STALLED_AFTER));
        assert!(log.will(Intent::Dir { path: "/run/x".into() }).is_err());
        drop(let_go);
        assert!(hung.await.unwrap());
    }
}
