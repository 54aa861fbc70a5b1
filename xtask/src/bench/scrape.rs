//! What a scrape of one sandbox takes: bytes, and CPU time of the shim and of the VMM, in which the guest runs.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::process_memory::Process;

const REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: bench\r\n\r\n";
const SCRAPES: u32 = 200;

/// Medians would hide what comes now and then, so these are means.
pub(crate) struct Scrape {
    /// Bytes of the text.
    pub(crate) bytes: usize,
    /// Milliseconds of CPU time.
    pub(crate) cpu_ms: f64,
    /// Milliseconds until it is there.
    pub(crate) wall_ms: f64,
}

impl Scrape {
    /// Of the sandbox whose state is in `state`, one after the other; what its processes take while nobody asks, in as long
    /// a time, does not count.
    pub(crate) fn of(state: &Path, processes: &[Process]) -> Result<Self> {
        let socket = state.join("shim-monitor.sock");
        let bytes = scrape(&socket)?;
        let (begun, before) = (Instant::now(), cpu_time(processes)?);
        for _ in 0..SCRAPES {
            scrape(&socket)?;
        }
        let (wall, asked) = (begun.elapsed(), cpu_time(processes)? - before);
        let before = cpu_time(processes)?;
        let_pass(wall);
        let unasked = cpu_time(processes)? - before;
        let each_ms = |all: Duration| 1000.0 * all.as_secs_f64() / f64::from(SCRAPES);
        Ok(Self { bytes, cpu_ms: each_ms(asked.saturating_sub(unasked)), wall_ms: each_ms(wall) })
    }
}

#[expect(clippy::disallowed_methods, reason = "time that passes is what is measured")]
fn let_pass(time: Duration) {
    sleep(time);
}

/// The bytes of the text.
fn scrape(socket: &Path) -> Result<usize> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("Nobody is at {}", socket.display()))?;
    stream.write_all(REQUEST)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((_, text)) if text.contains("kata_shim_agent_up 1\n") => Ok(text.len()),
        _ => bail!("The sandbox has answered {answer:?}"),
    }
}

/// Of all their threads, as the scheduler counts it in nanoseconds. A thread that ends takes its time along, so the processes
/// must be ones whose threads stay.
fn cpu_time(processes: &[Process]) -> Result<Duration> {
    let mut nanoseconds = 0;
    for process in processes {
        for thread in fs::read_dir(process.directory().join("task"))? {
            // One may have ended meanwhile.
            let Ok(schedstat) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
            let first = schedstat.split_whitespace().next().context("The kernel counts CPU time")?;
            nanoseconds += first.parse::<u64>()?;
        }
    }
    Ok(Duration::from_nanos(nanoseconds))
}
