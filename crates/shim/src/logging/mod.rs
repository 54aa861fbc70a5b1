//! Where the server's log goes: containerd's `log` FIFO in the bundle (containerd copies it into its own
//! log) and the journal. Neither may ever hold the server up.

mod fifo;
mod journal;
mod logfmt;

use std::path::Path;

use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use self::fifo::LogFifo;
use self::journal::Journal;
use self::logfmt::Fields;

/// The FIFO's name in the bundle, fixed by containerd.
const FIFO_NAME: &str = "log";

/// Sends this process's log to containerd and the journal. A panic is logged, then ends the process: half a
/// sandbox must not go on.
pub(crate) fn start(bundle: &Path, sandbox: &str, level: LevelFilter) {
    let output = Output::new(sandbox, LogFifo::open(&bundle.join(FIFO_NAME)).ok(), Journal::open().ok());
    let subscriber = tracing_subscriber::registry().with(output.with_filter(level));
    // Fails only if there is a subscriber already, and then that one is as good.
    let _ = tracing::subscriber::set_global_default(subscriber);
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let reason = panic.payload_as_str().unwrap_or("unknown");
        tracing::error!(place, reason, "Panic: this is a bug, please report it");
        std::process::abort();
    }));
}

/// Formats each event once, with the fields of the spans around it, for both destinations.
struct Output {
    sandbox: String,
    fifo: Option<LogFifo>,
    journal: Option<Journal>,
}

impl Output {
    fn new(sandbox: &str, fifo: Option<LogFifo>, journal: Option<Journal>) -> Self {
        Self { sandbox: sandbox.to_owned(), fifo, journal }
    }
}

impl<S> Layer<S> for Output
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.extend(outer);
            }
        }
        event.record(&mut fields);
        fields.add_missing("sandbox", &self.sandbox);
        let level = *event.metadata().level();
        if let Some(fifo) = &self.fifo {
            fifo.write(logfmt::line(std::time::SystemTime::now(), level, &fields));
        }
        if let Some(journal) = &self.journal {
            journal.write(level, &fields);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;

    use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
    use tracing_subscriber::layer::SubscriberExt;

    use super::{LogFifo, Output};

    /// Reads what the FIFO holds now.
    fn drain(path: &std::path::Path) -> String {
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap();
        let mut reader = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).unwrap();
        let mut bytes = vec![0; 1 << 17];
        let count = reader.read(&mut bytes).unwrap_or(0);
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    }

    #[test]
    fn a_log_without_a_reader_never_blocks_and_is_read_by_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let output = Output::new("pod1", Some(LogFifo::open(&path).unwrap()), None);
        let subscriber = tracing_subscriber::registry().with(output);
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("rpc", rpc = "Create", container = "web");
            span.in_scope(|| tracing::info!(pid = 7, "container created"));
            let first = drain(&path);
            assert!(first.starts_with("time=\""), "{first}");
            assert!(
                first.ends_with(
                    "level=info msg=\"container created\" rpc=Create container=web pid=7 sandbox=pod1\n"
                ),
                "{first}"
            );
            // Nobody reads: far more than a pipe holds is written, and the test still ends.
            for number in 0..10_000 {
                tracing::warn!(number, "nobody listens");
            }
            let kept = drain(&path);
            assert!(kept.lines().count() > 100);
            assert!(kept.ends_with('\n'), "only whole lines are kept");
            // A reader is back: the next line says how many were lost.
            tracing::warn!("somebody listens");
            let after = drain(&path);
            assert!(after.contains("lines of the log were lost"), "{after}");
            assert!(after.contains("somebody listens"), "{after}");
        });
    }
}
