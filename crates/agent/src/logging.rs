//! The agent's log: one line per record, to the console.

use std::fmt;

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Registry, reload};

/// The time since the guest's start, as the kernel writes it on the same console: lines of both can be put in order.
struct KernelTime;

impl FormatTime for KernelTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let micros = crate::clock::since_boot();
        write!(writer, "[{:5}.{:06}] kata-agent:", micros / 1_000_000, micros % 1_000_000)
    }
}

/// What can be changed of the log while the agent runs.
#[derive(Clone, Debug)]
pub(crate) struct Control(reload::Handle<LevelFilter, Registry>);

/// Starts logging to stderr, which is the console when the agent is PID 1.
pub(crate) fn start(level: Level) -> Control {
    let (filter, handle) = reload::Layer::new(LevelFilter::from_level(level));
    let lines = tracing_subscriber::fmt::layer()
        .compact()
        .with_ansi(false)
        .with_target(false)
        .with_timer(KernelTime)
        .with_writer(std::io::stderr);
    // Fails only if there is one already, which then logs.
    let _ = tracing::subscriber::set_global_default(Registry::default().with(filter).with(lines));
    Control(handle)
}

impl Control {
    /// The level's name.
    pub(crate) fn level(&self) -> String {
        self.0.clone_current().unwrap_or(LevelFilter::OFF).to_string()
    }

    /// Logs lines of this level and above from now on.
    pub(crate) fn set_level(&self, level: Level) {
        // Fails only without a subscriber, and then there is no log.
        let _ = self.0.reload(LevelFilter::from_level(level));
    }
}
