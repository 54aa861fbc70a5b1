//! Work on the host's files that nobody can call off once it runs, and the end of all of it.
//!
//! A request that is given up, as all are when the sandbox ends, leaves the thread that works for it at work. What that
//! would make after everything was undone would stay for ever.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::cleanup::undo_ahead;
use crate::error::{Result, SandboxError as Error};
use crate::intent_log::IntentLog;

/// How long work that is under way usually takes to its end at most.
const SOON: Duration = Duration::from_secs(1);
/// How long it is waited for then. A file system of the host that does not answer holds it up for ever.
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
    ///
    /// Who asks for the end may not wait for long. So what there is by then is undone if it takes more than a moment; it
    /// stays in the log, as some of it may only be being made.
    pub(crate) async fn end(&self, log: &Arc<IntentLog>) {
        log.close();
        self.0.close();
        if timeout(SOON, self.0.wait()).await.is_ok() {
            return;
        }
        undo_ahead(Arc::clone(log)).await;
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
    use std::time::Duration;

    use kata_intent::{Intent, Intents};

    use super::Underway;
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

    /// Who asks for the end may kill this process before the stalled work is given up.
    #[tokio::test]
    async fn an_end_undoes_what_is_there_before_it_waits_for_work_that_hangs() {
        let place = tempfile::tempdir().unwrap();
        let log = Arc::new(IntentLog::open(place.path()).unwrap());
        let made = place.path().join("made");
        let id = log.will(Intent::Dir { path: made.clone() }).unwrap();
        fs::create_dir(&made).unwrap();
        let underway = Underway::default();
        let (let_go, hangs) = mpsc::channel::<()>();
        let gone = made.clone();
        let hung = underway.0.spawn_blocking(move || {
            while gone.exists() && hangs.recv_timeout(Duration::from_millis(1)).is_err() {}
        });
        underway.end(&log).await;
        drop(let_go);
        hung.await.unwrap();
        assert!(!made.exists());
        assert_eq!(log.pending().unwrap(), [(id, Intent::Dir { path: made })]);
        assert!(log.will(Intent::Dir { path: "/run/x".into() }).is_err());
    }
}
