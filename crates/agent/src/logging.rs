//! The agent's log: one line per record, to the console.

use tracing::Level;
use tracing_subscriber::fmt::time::uptime;

/// Starts logging to stderr, which is the console when the agent is PID 1.
pub(crate) fn start(level: Level) {
    let subscriber = tracing_subscriber::fmt()
        .compact()
        .with_ansi(false)
        .with_target(false)
        .with_timer(uptime())
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .finish();
    // Fails only if there is one already, which then logs.
    let _ = tracing::subscriber::set_global_default(subscriber);
}
