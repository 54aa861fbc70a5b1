//! Thirty pods, scraped again and again.

use std::fs;
use std::time::{Duration, Instant};

use crate::cri::Manager;
use crate::scene::{Monitor, Scene};

const PODS: usize = 30;
/// The bar for resident memory.
const MEMORY: u64 = 15 << 20;

/// About as much as a shim tells.
pub(crate) fn ten_kilobytes() -> String {
    let mut text = String::new();
    for family in 0..25 {
        text += &format!(
            "# HELP kata_family_{family} Something that is counted.\n# TYPE kata_family_{family} gauge\n"
        );
        for item in 0..8 {
            text += &format!("kata_family_{family}{{item=\"item_{item}\"}} {}\n", family * 1000 + item);
        }
    }
    text
}

/// A figure of a process's memory, in bytes.
fn memory(monitor: &Monitor, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", monitor.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap() << 10
}

/// `KATA_MONITOR_SOAK` is the number of scrapes, one a second; without it there are some at once.
#[test]
fn thirty_pods_are_scraped_whole_and_memory_stays_small() {
    let scene = Scene::new();
    let text = ten_kilobytes();
    assert!((8_000..12_000).contains(&text.len()), "{}", text.len());
    let shims: Vec<_> = (0..PODS).map(|number| scene.shim(&format!("{number:064x}"), &text)).collect();
    let manager = Manager::start(&scene.path("cri.sock"));
    (0..PODS).for_each(|number| manager.add(&format!("{number:064x}"), &format!("pod-{number}")));
    let monitor = scene.monitor(&[]);
    let lines = PODS * 200;
    monitor.awaits("all", |monitor| monitor.metrics().matches("cri_name=\"pod-").count() == lines + PODS);
    let soak = std::env::var("KATA_MONITOR_SOAK").ok().and_then(|count| count.parse().ok());
    let mut before = 0;
    let mut took = Vec::new();
    for scrape in 0..soak.unwrap_or(60_u32) {
        let begun = Instant::now();
        // As Prometheus asks.
        let (_, body) = monitor.get_bytes("/metrics", &["Accept-Encoding: gzip"]);
        took.push(begun.elapsed());
        let mut text = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&body[..]), &mut text).unwrap();
        assert_eq!(text.matches("cri_name=\"pod-").count(), lines + PODS, "scrape {scrape}");
        if scrape == 20 {
            before = memory(&monitor, "VmRSS:");
        }
        if soak.is_some() {
            pause(Duration::from_secs(1).saturating_sub(begun.elapsed()));
        }
    }
    took.sort();
    let (p50, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
    let (after, peak) = (memory(&monitor, "VmRSS:"), memory(&monitor, "VmHWM:"));
    println!(
        "{} scrapes of {PODS} pods: p50 {p50:?}, p99 {p99:?}; resident {after}, at most {peak}",
        took.len()
    );
    assert!(peak <= MEMORY, "resident memory: {peak}");
    assert!(after <= before + (1 << 20), "it grows: {before} to {after}");
    assert!(shims.iter().all(|shim| shim.asked() >= took.len()));
}

fn pause(time: Duration) {
    let (_sender, receiver) = std::sync::mpsc::channel::<()>();
    let _ = receiver.recv_timeout(time);
}
