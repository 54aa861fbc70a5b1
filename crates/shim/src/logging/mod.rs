//! Where the server's log goes: containerd's `log` FIFO in the bundle (containerd copies it into its own
//! log) and the journal; on a host without a journal, a file of bounded size in the sandbox's state directory, too. None of
//! them may ever hold the server up.

mod console;
mod control;
mod fifo;
mod format;
mod journal;
mod kept;
mod logfmt;

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use kata_config::LogFormat;
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, reload};

pub(crate) use self::control::Control;
use self::fifo::LogFifo;
use self::journal::Journal;
use self::kept::Kept;
use self::logfmt::Fields;

/// The FIFO's name in the bundle, fixed by containerd.
const FIFO_NAME: &str = "log";

/// Who writes, on each line: `kata-log-parser` and upstream's tools look for these.
const NAME: &str = "containerd-shim-kata-v2";
const SOURCE: &str = "shim";

/// What is logged, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Manner {
    /// Lines of this level and above.
    pub(crate) level: LevelFilter,
    /// A line's form.
    pub(crate) format: LogFormat,
}

/// Sends this process's log to its places. A panic is logged, then ends the process: half a sandbox must not go on.
pub(crate) fn start(bundle: &Path, sandbox: &str, manner: Manner) -> Control {
    let mut output = Output::new(sandbox, LogFifo::open(&bundle.join(FIFO_NAME)).ok(), Journal::open().ok());
    output.format = manner.format;
    // The journal keeps what it gets.
    let kept = output.journal.is_none().then(|| Arc::new(Kept::default()));
    output.kept.clone_from(&kept);
    let (level, handle) = reload::Layer::new(manner.level);
    let subscriber = tracing_subscriber::registry().with(output.with_filter(level));
    // Fails only if there is a subscriber already, and then that one is as good.
    let _ = tracing::subscriber::set_global_default(subscriber);
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let reason = panic.payload_as_str().unwrap_or("unknown");
        tracing::error!(place, reason, "Panic: this is a bug, please report it");
        std::process::abort();
    }));
    Control::new(handle, kept)
}

/// Formats each event once, with the fields of the spans around it, for all destinations.
struct Output {
    sandbox: String,
    pid: String,
    format: LogFormat,
    fifo: Option<LogFifo>,
    journal: Option<Journal>,
    kept: Option<Arc<Kept>>,
}

impl Output {
    fn new(sandbox: &str, fifo: Option<LogFifo>, journal: Option<Journal>) -> Self {
        let (sandbox, pid) = (sandbox.to_owned(), std::process::id().to_string());
        Self { sandbox, pid, format: LogFormat::default(), fifo, journal, kept: None }
    }

    /// Says whose line it is.
    fn sign(&self, fields: &mut Fields) {
        for (name, value) in
            [("sandbox", self.sandbox.as_str()), ("name", NAME), ("pid", &self.pid), ("source", SOURCE)]
        {
            fields.add_missing(name, value);
        }
    }

    fn lost(&self, count: u64, now: SystemTime) -> String {
        let mut fields = Fields::default();
        fields.push("message", format!("{count} lines of the log were lost"));
        self.sign(&mut fields);
        format::line(self.format, now, Level::WARN, &fields)
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
        self.sign(&mut fields);
        let (level, now) = (*event.metadata().level(), SystemTime::now());
        let mut line = format::line(self.format, now, level, &fields);
        if let Some(journal) = &self.journal {
            journal.write(level, &line, &fields);
        }
        if let Some(kept) = &self.kept {
            kept.write(&line);
        }
        if let Some(fifo) = &self.fifo {
            if line.len() > fifo::WHOLE {
                line = format::short(self.format, now, level, &mut fields, fifo::WHOLE);
            }
            fifo.write(line, |count| self.lost(count, now));
        }
    }
}

#[cfg(test)]
mod importers;
#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;

    use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
    use tracing_subscriber::layer::SubscriberExt;

    use super::{LogFifo, LogFormat, Output};

    /// Reads what the FIFO holds now.
    fn drain(path: &std::path::Path) -> String {
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap();
        let mut reader = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).unwrap();
        let mut bytes = vec![0; 1 << 17];
        let count = reader.read(&mut bytes).unwrap_or(0);
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    }

    /// Lines of more than 4,096 bytes were cut to what is no JSON, and that some were lost was told as logfmt.
    #[test]
    fn every_line_is_json_if_that_is_the_form() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let mut output = Output::new("pod1", Some(LogFifo::open(&path).unwrap()), None);
        output.format = LogFormat::Json;
        let subscriber = tracing_subscriber::registry().with(output);
        let text = tracing::subscriber::with_default(subscriber, || {
            for _ in 0..100 {
                tracing::warn!(error = "x\"".repeat(5000), "a long story");
            }
            let before = drain(&path);
            tracing::warn!("somebody listens");
            before + &drain(&path)
        });
        assert!(text.contains("lines of the log were lost") && text.contains("a long story"), "{text}");
        for line in text.lines() {
            let value: serde_json::Value = serde_json::from_str(line).expect(line);
            assert!(value["time"].is_string() && value["sandbox"] == "pod1", "{line}");
        }
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
                    "level=info msg=\"container created\" rpc=Create container=web pid=7 sandbox=pod1 \
                     name=containerd-shim-kata-v2 source=shim\n"
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
