//! What can be changed of the log while the server runs.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Registry, reload};

use super::console::Console;
use super::kept::Kept;

/// The words for levels, as in the configuration.
const LEVELS: [(&str, LevelFilter); 6] = [
    ("critical", LevelFilter::ERROR),
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
];

/// No level has such a name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no log level; say error, warn, info, debug or trace")]
pub(crate) struct LevelError(String);

/// A handle on the log of this process; cheap to clone.
#[derive(Clone)]
pub(crate) struct Control(Arc<Parts>);

struct Parts {
    level: reload::Handle<LevelFilter, Registry>,
    kept: Option<Arc<Kept>>,
    console: Mutex<Option<Arc<Console>>>,
}

impl Control {
    pub(super) fn new(level: reload::Handle<LevelFilter, Registry>, kept: Option<Arc<Kept>>) -> Self {
        Self(Arc::new(Parts { level, kept, console: Mutex::new(None) }))
    }

    /// The sandbox is there. From now on the guest's console is logged as well; a `quiet` guest's kernel writes only warnings
    /// there. Must be called inside a tokio runtime.
    pub(crate) fn attach(&self, state_dir: &Path, quiet: bool) {
        if let Some(kept) = &self.0.kept
            && let Err(error) = kept.settle(state_dir)
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "no log is kept with the sandbox");
        }
        let console = Console::follow(state_dir.to_owned(), quiet);
        *self.0.console.lock().unwrap_or_else(PoisonError::into_inner) = Some(console);
    }

    /// The level's name.
    pub(crate) fn level(&self) -> &'static str {
        let level = self.0.level.clone_current().unwrap_or(LevelFilter::INFO);
        LEVELS.iter().rev().find(|(_, row)| *row == level).map_or("off", |(name, _)| name)
    }

    /// Logs lines of this level and above from now on.
    ///
    /// # Errors
    /// There is no such level.
    pub(crate) fn set_level(&self, name: &str) -> Result<(), LevelError> {
        let name = if name == "warning" { "warn" } else { name };
        let found = LEVELS.iter().find(|(row, _)| *row == name);
        let (_, level) = found.ok_or_else(|| LevelError(name.to_owned()))?;
        // Fails only without a subscriber, and then there is no log.
        let _ = self.0.level.reload(*level);
        tracing::info!(to = name, "log level changed");
        if let Some(console) = &*self.0.console.lock().unwrap_or_else(PoisonError::into_inner) {
            console.level_changed();
        }
        Ok(())
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Control").field(&self.level()).finish()
    }
}

#[cfg(test)]
mod tests {
    use tracing::level_filters::LevelFilter;
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::reload;

    use super::{Control, LevelError};

    #[test]
    fn the_level_is_changed_while_it_is_in_use() {
        let (filter, handle) = reload::Layer::new(LevelFilter::INFO);
        let subscriber = tracing_subscriber::registry().with(filter);
        let control = Control::new(handle, None);
        tracing::subscriber::with_default(subscriber, || {
            assert_eq!((control.level(), tracing::enabled!(tracing::Level::DEBUG)), ("info", false));
            control.set_level("debug").unwrap();
            assert_eq!((control.level(), tracing::enabled!(tracing::Level::DEBUG)), ("debug", true));
            control.set_level("warning").unwrap();
            assert_eq!((control.level(), tracing::enabled!(tracing::Level::INFO)), ("warn", false));
            assert_eq!(control.set_level("loud"), Err(LevelError("loud".to_owned())));
        });
    }
}
