//! What a scrape gives, and what shims can do to it.

use std::io::Read;
use std::time::{Duration, Instant};

use crate::scene::{Monitor, PATIENCE, Scene};

const TEXT: &str = "# HELP a Bees.\n# TYPE a gauge\na{x=\"1\"} 1\n";

#[test]
fn all_sandboxes_are_one_text_with_each_family_once() {
    let scene = Scene::new();
    let _shims = (scene.shim("s1", TEXT), scene.shim("s2", TEXT));
    let monitor = scene.monitor(&[]);
    monitor.awaits("both", |monitor| monitor.ids() == "s1 s2");
    let (head, text) = monitor.get("/metrics", &[]);
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    let merged =
        "# HELP a Bees.\n# TYPE a gauge\na{x=\"1\",sandbox_id=\"s1\"} 1\na{x=\"1\",sandbox_id=\"s2\"} 1\n";
    assert!(text.ends_with(merged), "{text}");
    assert!(text.contains("\nkata_monitor_running_shim_count 2\n"), "{text}");
    assert!(monitor.metrics().contains("\nkata_monitor_scrape_count 2\n"));
}

#[test]
fn one_sandbox_is_asked_for_by_a_beginning_of_its_id() {
    let scene = Scene::new();
    let _shims = (scene.shim("abc1", "a 1\n"), scene.shim("abd2", "a{q=\"QUERY\"} 2\n"));
    let monitor = scene.monitor(&[]);
    monitor.awaits("both", |monitor| monitor.ids() == "abc1 abd2");
    assert_eq!(monitor.get("/metrics?sandbox=abc", &[]).1, "# TYPE a untyped\na{sandbox_id=\"abc1\"} 1\n");
    let passed = monitor.get("/metrics?x=1&sandbox=abd2&y=2", &[]).1;
    assert!(passed.contains("a{q=\"x=1&y=2\",sandbox_id=\"abd2\"} 2"), "{passed}");
    assert!(monitor.get("/metrics?sandbox=ab", &[]).0.starts_with("HTTP/1.1 400 "));
    let (head, words) = monitor.get("/metrics?sandbox=x", &[]);
    assert!(head.starts_with("HTTP/1.1 404 ") && words.contains("/sandboxes"), "{head} {words}");
    assert_eq!(monitor.get("/agent-url?sandbox=abc1", &[]).1, "vsock://5:1024");
    assert!(monitor.get("/agent-url", &[]).0.starts_with("HTTP/1.1 400 "));
    assert!(monitor.get("/debug/vars", &[]).0.starts_with("HTTP/1.1 404 "));
}

#[test]
fn an_answer_is_compressed_if_that_is_asked_for() {
    let scene = Scene::new();
    let _shim = scene.shim("s", &TEXT.repeat(2000));
    let monitor = scene.monitor(&[]);
    monitor.awaits("it", |monitor| monitor.ids() == "s");
    let (head, body) = monitor.get_bytes("/metrics", &["Accept-Encoding: gzip"]);
    assert!(head.contains("content-encoding: gzip"), "{head}");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
    assert_eq!(text.matches("a{x=\"1\",sandbox_id=\"s\"} 1\n").count(), 2000);
    assert!(body.len() * 10 < text.len());
}

/// How often a shim has told nothing.
fn failed(metrics: &str) -> u64 {
    let mut lines = metrics.lines();
    let count = lines.find_map(|line| line.strip_prefix("kata_monitor_scrape_failed_count ")).unwrap();
    count.parse().unwrap()
}

#[test]
fn a_hung_shim_costs_only_its_own_figures_and_one_slow_scrape() {
    let scene = Scene::new();
    let (hung, _well) = (scene.shim("hung", TEXT), scene.shim("well", TEXT));
    let monitor = scene.monitor(&["-shim-timeout", "1"]);
    monitor.awaits("both", |monitor| monitor.metrics().matches("\na{").count() == 2);
    let (failures, asked) = (failed(&monitor.metrics()), hung.asked());
    hung.hang(true);
    let slow = monitor.metrics();
    assert!(
        slow.contains("a{x=\"1\",sandbox_id=\"well\"} 1") && !slow.contains("a{x=\"1\",sandbox_id=\"hung\"}")
    );
    assert!(slow.contains("kata_monitor_shim_up{sandbox_id=\"hung\"} 0\n"), "{slow}");
    assert!(monitor.metrics().contains("sandbox_id=\"well\"} 1"));
    assert_eq!(hung.asked(), asked + 1, "it is asked once, and nobody waits again");
    assert_eq!(failed(&monitor.metrics()), failures + 3);
    assert!(monitor.get("/metrics?sandbox=hung", &[]).0.starts_with("HTTP/1.1 504 "));
    hung.hang(false);
    monitor.awaits("it is back", |monitor| {
        monitor.metrics().contains("kata_monitor_shim_up{sandbox_id=\"hung\"} 1")
    });
}

/// Prometheus with a `scrape_timeout` below `-shim-timeout` had no figures of any pod as long as one shim hung: what it had
/// asked was forgotten with its connection, and the next scrape waited for that shim anew.
#[test]
fn a_hung_shim_is_known_also_if_collectors_are_less_patient_than_the_monitor() {
    let scene = Scene::new();
    let (hung, _well) = (scene.shim("hung", TEXT), scene.shim("well", TEXT));
    let monitor = scene.monitor(&["-shim-timeout", "2"]);
    monitor.awaits("both", |monitor| monitor.metrics().matches("\na{").count() == 2);
    hung.hang(true);
    let impatient = |monitor: &Monitor| {
        let mut scrape = monitor.ask("/metrics", &[]);
        scrape.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut answer = String::new();
        scrape.read_to_string(&mut answer).is_ok() && answer.contains("a{x=\"1\",sandbox_id=\"well\"} 1")
    };
    assert!(!impatient(&monitor));
    let end = Instant::now() + PATIENCE;
    while !impatient(&monitor) {
        assert!(Instant::now() < end, "no scrape has figures");
    }
}

/// Figures of many pods wait in memory while nobody takes them.
#[test]
fn scrapes_whose_figures_nobody_takes_are_few() {
    let scene = Scene::new();
    // More than the kernel keeps for a connection.
    let large: String = (0..20_000).map(|n| format!("a{{n=\"{n}\",x=\"{:30}\"}} 1\n", "")).collect();
    let _shims: Vec<_> = (0..12).map(|n| scene.shim(&format!("s{n}"), &large)).collect();
    let monitor = scene.monitor(&["-shim-timeout", "3"]);
    monitor.awaits("all", |monitor| monitor.ids().split(' ').count() == 12);
    // One after the other: their shims' answers together would take the monitor longer than it waits for one.
    let begun = |_| {
        let mut scrape = monitor.ask("/metrics", &[]);
        scrape.read_exact(&mut [0; 12]).unwrap();
        scrape
    };
    let mut held: Vec<_> = (0..8).map(begun).collect();
    let (head, words) = monitor.get("/metrics", &[]);
    assert!(head.starts_with("HTTP/1.1 503 ") && words.contains("try again"), "{head} {words}");
    monitor.awaits("one of them is told", |monitor| {
        monitor.get("/metrics?sandbox=s11", &[]).0.starts_with("HTTP/1.1 200 ")
    });
    held.pop();
    monitor.awaits("a place", |monitor| monitor.get("/metrics", &[]).0.starts_with("HTTP/1.1 200 "));
}

/// It was waited for without end.
#[test]
fn the_address_of_an_agent_is_not_awaited_for_ever() {
    let scene = Scene::new();
    let shim = scene.shim("s", TEXT);
    let monitor = scene.monitor(&["-shim-timeout", "0.3"]);
    monitor.awaits("it", |monitor| monitor.ids() == "s");
    shim.hang(true);
    let (head, words) = monitor.get("/agent-url?sandbox=s", &[]);
    assert!(head.starts_with("HTTP/1.1 504 ") && words.contains("has not answered"), "{head} {words}");
}

#[test]
fn what_a_shim_says_wrongly_spoils_nothing() {
    let scene = Scene::new();
    let _shims = (
        scene.shim("bad", "a{ 1\n\u{0}\n# TYPE\na \"x\nkata_monitor_scrape_count 99\n"),
        scene.shim("well", TEXT),
    );
    let _huge = scene.shim("huge", &"x".repeat(2 << 20));
    let monitor = scene.monitor(&[]);
    monitor.awaits("all", |monitor| monitor.ids() == "bad huge well");
    monitor.metrics();
    let text = monitor.metrics();
    assert!(text.contains("a{x=\"1\",sandbox_id=\"well\"} 1\n"), "{text}");
    let pretends = |line: &str| line.starts_with("kata_monitor_scrape_count") && line.ends_with(" 99");
    assert!(!text.lines().any(pretends), "{text}");
    assert!(text.contains("kata_monitor_shim_up{sandbox_id=\"huge\"} 0\n"), "it says too much: {text}");
    assert!(!text.contains("kata_monitor_unfit_lines_total 0\n"), "{text}");
}
