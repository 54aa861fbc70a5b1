//! The monitor's own figures, under upstream's names.

use std::fmt::Write;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::exposition::Labels;

/// Upper ends of the histogram's classes, in milliseconds.
const CLASSES: [u64; 13] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096];

/// Counts since the start.
#[derive(Debug, Default)]
pub(crate) struct Own {
    durations: Mutex<Durations>,
    scrapes: AtomicU64,
    failed: AtomicU64,
    unfit: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Durations {
    /// How many belong in each class, and to none.
    classes: [u64; CLASSES.len() + 1],
    sum_ms: f64,
}

impl Own {
    /// All shims were asked: so long it took, and so many gave no figures.
    pub(crate) fn scraped(&self, took: Duration, failed: usize) {
        self.scrapes.fetch_add(1, Ordering::Relaxed);
        self.failed.fetch_add(failed as u64, Ordering::Relaxed);
        let ms = took.as_secs_f64() * 1000.0;
        let mut durations = self.durations.lock().unwrap_or_else(PoisonError::into_inner);
        let class = CLASSES.partition_point(|end| Duration::from_millis(*end) < took);
        durations.classes[class] += 1;
        durations.sum_ms += ms;
    }

    /// Counts lines that were left out.
    pub(crate) fn unfit(&self) -> Arc<AtomicU64> {
        self.unfit.clone()
    }

    /// All of it as text; `shims` are the sandboxes, with whether each gave its figures.
    pub(crate) fn text(&self, shims: &[(&Labels, bool)]) -> String {
        let mut page = Page::default();
        page.family("kata_monitor_running_shim_count", "gauge", "Sandboxes that are known.");
        page.value("", shims.len());
        page.family(
            "kata_monitor_shim_up",
            "gauge",
            "Whether a sandbox's shim gave its figures in this scrape.",
        );
        for (labels, up) in shims {
            page.value(&format!("{{{}}}", labels.text()), u8::from(*up));
        }
        page.family("kata_monitor_scrape_count", "counter", "Scrapes of all sandboxes.");
        page.value("", self.scrapes.load(Ordering::Relaxed));
        page.family("kata_monitor_scrape_failed_count", "counter", "Shims that gave no figures when asked.");
        page.value("", self.failed.load(Ordering::Relaxed));
        page.family(
            "kata_monitor_unfit_lines_total",
            "counter",
            "Lines of shims that were left out, not being figures.",
        );
        page.value("", self.unfit.load(Ordering::Relaxed));
        self.histogram(&mut page);
        process(&mut page);
        page.text
    }

    fn histogram(&self, page: &mut Page) {
        let durations = self.durations.lock().unwrap_or_else(PoisonError::into_inner);
        page.family(
            "kata_monitor_scrape_durations_histogram_milliseconds",
            "histogram",
            "How long it took until all shims had answered, or their time was up.",
        );
        let mut count = 0;
        for (class, end) in durations.classes.iter().zip(CLASSES) {
            count += class;
            page.value(&format!("_bucket{{le=\"{end}\"}}"), count);
        }
        count += durations.classes[CLASSES.len()];
        page.value("_bucket{le=\"+Inf\"}", count);
        page.value("_sum", durations.sum_ms);
        page.value("_count", count);
    }
}

/// What every program of Prometheus' tells about its process.
fn process(page: &mut Page) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is a name, which may have blanks.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field =
        |number: usize| fields.get(number - 3).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    let ticks = f64::from(u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100));
    let page_size = f64::from(u32::try_from(rustix::param::page_size()).unwrap_or(4096));
    let figures = [
        ("cpu_seconds_total", "counter", "CPU time, in seconds.", (field(14) + field(15)) / ticks),
        (
            "start_time_seconds",
            "gauge",
            "When it was started, in seconds since 1970.",
            boot() + field(22) / ticks,
        ),
        ("virtual_memory_bytes", "gauge", "Virtual memory.", field(23)),
        ("virtual_memory_max_bytes", "gauge", "Its limit; -1: none.", limit("Max address space")),
        ("resident_memory_bytes", "gauge", "Resident memory.", field(24) * page_size),
        ("open_fds", "gauge", "Open file descriptors.", open_files()),
        ("max_fds", "gauge", "Their limit.", limit("Max open files")),
    ];
    for (name, kind, help, value) in figures {
        page.family(&format!("kata_monitor_process_{name}"), kind, help);
        page.value("", value);
    }
}

/// When the host was started, in seconds since 1970.
fn boot() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|time| time.trim().parse().ok()).unwrap_or(0.0)
}

fn limit(name: &str) -> f64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(-1.0)
}

fn open_files() -> f64 {
    let count = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    // One of them was for counting.
    u32::try_from(count.saturating_sub(1)).map_or(0.0, f64::from)
}

#[derive(Default)]
struct Page {
    text: String,
    name: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        name.clone_into(&mut self.name);
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// A line of the family; what stands behind its name, and the figure.
    fn value(&mut self, behind: &str, value: impl std::fmt::Display) {
        let name = std::mem::take(&mut self.name);
        self.line(format_args!("{name}{behind} {value}\n"));
        self.name = name;
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        self.text.write_fmt(line).expect("a string takes everything");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Own;
    use crate::exposition::{Labels, Text};

    #[test]
    fn a_scrape_is_counted_in_its_class_and_all_above() {
        let own = Own::default();
        own.scraped(Duration::from_millis(4), 0);
        own.scraped(Duration::from_millis(5), 2);
        own.scraped(Duration::from_secs(60), 1);
        let text = own.text(&[]);
        let name = "kata_monitor_scrape_durations_histogram_milliseconds";
        for (class, count) in [("2", 0), ("4", 1), ("8", 2), ("4096", 2), ("+Inf", 3)] {
            assert!(text.contains(&format!("{name}_bucket{{le=\"{class}\"}} {count}\n")), "{class}: {text}");
        }
        assert!(text.contains(&format!("{name}_sum 60009\n{name}_count 3\n")), "{text}");
        assert!(text.contains("\nkata_monitor_scrape_failed_count 3\n"), "{text}");
    }

    #[test]
    fn each_sandbox_is_told_with_whether_it_answered() {
        let (up, hung) = (Labels::new("a", None), Labels::new("b", None));
        let text = Own::default().text(&[(&up, true), (&hung, false)]);
        assert!(text.contains("kata_monitor_running_shim_count 2\n"));
        assert!(text.contains(
            "kata_monitor_shim_up{sandbox_id=\"a\"} 1\nkata_monitor_shim_up{sandbox_id=\"b\"} 0\n"
        ));
    }

    #[test]
    fn the_process_is_this_one() {
        let text = Text::new(Own::default().text(&[]).into_bytes());
        let value =
            |name: &str| text.samples(&format!("kata_monitor_process_{name}")).next().unwrap().value();
        assert!(value("resident_memory_bytes") > 100_000.0 && value("open_fds") >= 3.0);
        assert!(value("virtual_memory_bytes") >= value("resident_memory_bytes"));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((now - value("start_time_seconds")).abs() < 600.0);
    }
}
