//! Where the time of a start goes: named spans of monotonic time, on the host and in the guest.
//!
//! `timeline.json` in the sandbox's state directory holds one [`Timeline`] as JSON, written anew (by rename)
//! whenever a milestone is reached.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use kata_protocol::kata;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use kata_storage::processes;

use crate::spans::Traced;

/// Name of the file in the state directory.
pub const TIMELINE_FILE: &str = "timeline.json";

/// Names of the host's spans and marks, in the order of an ordinary start.
pub mod phase {
    /// From the start of the shim's process until the sandbox is launched: configuration, bundle.
    pub const PREPARE: &str = "process and configuration";
    /// Making the shared directory and starting its daemon.
    pub const SHARE: &str = "virtiofsd started";
    /// Making the shared directory where the VMM itself shows it.
    pub const SHARE_WITHOUT_DAEMON: &str = "shared directory made";
    /// Looking at the pod's network and connecting its interfaces.
    pub const NETWORK: &str = "network connected";
    /// Starting the VMM's process.
    pub const VMM: &str = "vmm spawned";
    /// From the VMM's start until its control channel answers.
    pub const CONTROL: &str = "vmm control ready";
    /// From the VMM's start until the agent announced itself: firmware, kernel, agent.
    pub const BOOT: &str = "guest boot until the agent is up";
    /// Preparing a container's files on the host.
    pub const FILES: &str = "container files";
    /// The batched request, from sending it (the guest may still boot) until its answer.
    pub const START_SANDBOX: &str = "StartSandbox";
    /// The request that starts the workload.
    pub const STARTED: &str = "container started";
}

/// On which side a span was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The host.
    Host,
    /// The guest; its clock is mapped onto the host's, so these times are right to about a millisecond.
    Guest,
}

/// A named stretch of time, in microseconds since [`Timeline::origin_us`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// What happened; the host's names are in [`phase`].
    pub name: String,
    /// Where.
    pub side: Side,
    /// Its beginning.
    pub start_us: u64,
    /// Its end; equal to the beginning for a mark.
    pub end_us: u64,
}

/// A sandbox's start, phase by phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    /// The sandbox's id.
    pub sandbox: String,
    /// Zero of all spans, in microseconds of the host's `CLOCK_BOOTTIME`: when the sandbox's process started
    /// (known to the kernel's tick, 10 ms).
    pub origin_us: u64,
    /// Which VMM runs the guest (`qemu`), once it was started.
    pub vmm: Option<String>,
    /// Which accelerator (`kvm`, `tcg`), once it was chosen.
    pub accelerator: Option<String>,
    /// Why that one.
    pub accelerator_reason: Option<String>,
    /// The agent's version, once it answered.
    pub agent_version: Option<String>,
    /// The spans, in the order in which they ended.
    pub spans: Vec<Span>,
}

impl Timeline {
    /// Reads the timeline of a sandbox from its state directory.
    ///
    /// # Errors
    /// There is none, or it is not readable as one.
    pub fn read(state_dir: &Path) -> io::Result<Self> {
        let text = std::fs::read(state_dir.join(TIMELINE_FILE))?;
        serde_json::from_slice(&text).map_err(io::Error::from)
    }

    /// The first span of this name.
    #[must_use]
    pub fn span(&self, name: &str) -> Option<&Span> {
        self.spans.iter().find(|span| span.name == name)
    }
}

/// A point in time, in microseconds of `CLOCK_BOOTTIME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(pub(crate) u64);

impl Moment {
    pub(crate) fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        Self(u64::try_from(micros).unwrap_or(0))
    }

    /// When this process was started.
    fn process_start() -> Option<Self> {
        let ticks = processes::start_ticks(std::process::id())?;
        let hertz = rustix::param::clock_ticks_per_second();
        ticks.checked_mul(1_000_000)?.checked_div(hertz).map(Self)
    }
}

/// Takes down spans as they happen. Cheap to clone; all clones write the same timeline.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    timeline: Arc<Mutex<Timeline>>,
    /// Held while the file is written.
    turn: Arc<Mutex<()>>,
    path: Arc<Path>,
    /// Who else is told, if anybody traces.
    traced: Option<Traced>,
}

impl Recorder {
    /// Begins with the time from the start of this process until now.
    pub(crate) fn new(sandbox: &str, state_dir: &Path, traced: Option<Traced>) -> Self {
        let now = Moment::now();
        let origin = Moment::process_start().unwrap_or(now).min(now);
        let timeline = Timeline {
            sandbox: sandbox.to_owned(),
            origin_us: origin.0,
            vmm: None,
            accelerator: None,
            accelerator_reason: None,
            agent_version: None,
            spans: Vec::new(),
        };
        let path: PathBuf = state_dir.join(TIMELINE_FILE);
        let timeline = Arc::new(Mutex::new(timeline));
        if let Some(Traced { tracer, .. }) = &traced {
            tracer.began(origin.0);
        }
        let recorder = Self { timeline, turn: Arc::default(), path: path.into(), traced };
        recorder.span(phase::PREPARE, origin, now);
        recorder
    }

    pub(crate) fn span(&self, name: &str, start: Moment, end: Moment) {
        if let Some(Traced { tracer, .. }) = &self.traced {
            tracer.phase(name, start.0, end.0);
        }
        self.note(name, start, end);
    }

    /// A span whose own trace is kept by another.
    pub(crate) fn note(&self, name: &str, start: Moment, end: Moment) {
        self.edit(|timeline| {
            let (start, end) = (since(timeline, start.0), since(timeline, end.0));
            timeline.spans.push(Span {
                name: name.to_owned(),
                side: Side::Host,
                start_us: start,
                end_us: end,
            });
        });
    }

    /// A span that ends now; returns its end.
    pub(crate) fn since(&self, name: &str, start: Moment) -> Moment {
        let now = Moment::now();
        self.span(name, start, now);
        now
    }

    /// The guest's phases, in microseconds since its kernel's start. Its zero is found by taking the end of
    /// its last phase for the moment of the answer, so that the way back counts as part of the guest.
    pub(crate) fn guest(&self, phases: &[kata::Phase], answered: Moment) {
        let Some(zero) = zero(phases, answered) else { return };
        self.edit(|timeline| {
            for phase in phases {
                timeline.spans.push(Span {
                    name: phase.name.clone(),
                    side: Side::Guest,
                    start_us: since(timeline, zero.saturating_add(phase.start_us)),
                    end_us: since(timeline, zero.saturating_add(phase.end_us)),
                });
            }
        });
    }

    /// Who traces the sandbox, if anybody does.
    pub(crate) fn traced(&self) -> Option<&Traced> {
        self.traced.as_ref()
    }

    pub(crate) fn edit(&self, change: impl FnOnce(&mut Timeline)) {
        change(&mut self.timeline.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn snapshot(&self) -> Timeline {
        self.timeline.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes the file anew, in the background: no start waits for it. Of two that write at once the last one has all.
    pub(crate) fn save(&self) {
        let recorder = self.clone();
        tokio::task::spawn_blocking(move || {
            let _turn = recorder.turn.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = write(&recorder.snapshot(), &recorder.path) {
                // The directory goes away with the sandbox.
                tracing::debug!(%error, path = %recorder.path.display(), "The timeline could not be written");
            }
        });
    }
}

/// When the guest's clock showed zero, by the host's.
pub(crate) fn zero(phases: &[kata::Phase], answered: Moment) -> Option<u64> {
    let last = phases.iter().map(|phase| phase.end_us).max()?;
    Some(answered.0.saturating_sub(last))
}

fn since(timeline: &Timeline, micros: u64) -> u64 {
    micros.saturating_sub(timeline.origin_us)
}

/// Never leaves half a file: readers see the old or the new one.
fn write(timeline: &Timeline, path: &Path) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(timeline)?;
    let new = path.with_extension("json.new");
    std::fs::write(&new, text)?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use kata_protocol::kata;

    use super::{Moment, Recorder, Side, Timeline, write};

    #[test]
    fn this_process_was_started_before_now() {
        assert!(Moment::process_start().unwrap() <= Moment::now());
    }

    #[test]
    fn the_file_holds_the_spans_and_the_guest_is_mapped() {
        let dir = tempfile::tempdir().unwrap();
        let recorder = Recorder::new("s", dir.path(), None);
        let start = Moment::now();
        let end = recorder.since("vmm spawned", start);
        let kernel = kata::Phase { name: "kernel".into(), start_us: 0, end_us: 10, ..Default::default() };
        recorder.guest(&[kernel], end);
        write(&recorder.snapshot(), &dir.path().join(super::TIMELINE_FILE)).unwrap();

        let read = Timeline::read(dir.path()).unwrap();
        assert_eq!(read, recorder.snapshot());
        assert_eq!(read.spans[0].start_us, 0);
        let (host, guest) = (read.span("vmm spawned").unwrap(), read.span("kernel").unwrap());
        assert_eq!((guest.side, guest.end_us), (Side::Guest, host.end_us));
        assert_eq!(guest.end_us - guest.start_us, 10);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    }
}
