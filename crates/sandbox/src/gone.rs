//! The news that the sandbox has ended, for everybody who waits for something from it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::error::SandboxError as Error;

/// How long the real reason may take to arrive after a sign that something is wrong.
pub(crate) const NEWS_PATIENCE: Duration = Duration::from_millis(500);

/// Why the sandbox has ended; `None` while it lives.
type Reason = Option<Arc<str>>;

/// The announcing end.
#[derive(Debug)]
pub(crate) struct Announcer(watch::Sender<Reason>);

/// The listening end. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Gone(watch::Receiver<Reason>);

pub(crate) fn channel() -> (Announcer, Gone) {
    let (sender, receiver) = watch::channel(None);
    (Announcer(sender), Gone(receiver))
}

impl Announcer {
    /// Announces the end. The first reason stays.
    pub(crate) fn announce(&self, reason: &Arc<str>) {
        self.0.send_if_modified(|now| {
            let first = now.is_none();
            now.get_or_insert_with(|| Arc::clone(reason));
            first
        });
    }
}

impl Gone {
    /// Resolves when the sandbox has ended, with the error for whoever still wants something of it.
    pub(crate) async fn wait(&self) -> Error {
        let mut receiver = self.0.clone();
        match receiver.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(reason)) => Error::Gone { reason: Arc::clone(reason) },
            _ => Error::Closed,
        }
    }

    /// `work`, unless the sandbox ends before.
    pub(crate) async fn unless<T>(&self, work: impl Future<Output = T>) -> Result<T, Error> {
        tokio::select! {
            biased;
            result = work => Ok(result),
            error = self.wait() => Err(error),
        }
    }
}
