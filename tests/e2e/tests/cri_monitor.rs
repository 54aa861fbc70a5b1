//! `kata-monitor` beside a real container manager and real pods.

use std::fmt::Display;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use kata_e2e::{Monitor, Pod, amount, eventually, kata_cri_test};

const LIMIT: Duration = Duration::from_secs(60);

/// The labels of a pod's figures.
fn labels(pod: &Pod<'_>) -> String {
    let metadata = pod.status().metadata.expect("a pod has a name");
    let (uid, name, namespace) = (metadata.uid, metadata.name, metadata.namespace);
    format!("sandbox_id=\"{}\",cri_uid=\"{uid}\",cri_name=\"{name}\",cri_namespace=\"{namespace}\"", pod.id())
}

#[track_caller]
fn awaits(monitor: &Monitor, path: &str, text: &str) {
    eventually(&format!("{path} has {text}"), LIMIT, || monitor.get(path).contains(text));
}

#[test]
fn a_pods_figures_bear_its_names_as_long_as_it_is_there() {
    kata_cri_test(|cri| {
        let monitor = Monitor::start(cri.containerd);
        assert_eq!(monitor.get("/sandboxes"), "");
        let pod = cri.pod().run();
        awaits(&monitor, "/sandboxes", &format!("{}\n", pod.id()));
        let labels = labels(&pod);
        awaits(&monitor, "/metrics", &format!("kata_monitor_shim_up{{{labels}}} 1\n"));
        awaits(&monitor, "/metrics", "\nkata_shim_");
        // A guest that has not answered within 2 s is told of without its own figures.
        awaits(&monitor, "/metrics", "\nkata_guest_");
        let one = monitor.get(&format!("/metrics?sandbox={}", &pod.id()[..12]));
        assert!(one.contains(&labels) && one.contains("kata_shim_"), "{one}");
        pod.remove();
        eventually("it is gone", LIMIT, || monitor.get("/sandboxes").is_empty());
        assert!(!monitor.get("/metrics").contains(&labels));
    });
}

/// Of one process, in KiB.
fn resident(pid: impl Display) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[expect(clippy::disallowed_methods, reason = "it sets the pace and waits for nothing")]
fn sleep_until(moment: Instant) {
    thread::sleep(moment.saturating_duration_since(Instant::now()));
}

/// Asks for all figures; each second, so many times. The times of the answers, sorted.
fn scrape(monitor: &Monitor, times: u32, check: impl Fn(&str)) -> Vec<Duration> {
    let begun = Instant::now();
    let mut took: Vec<_> = (0..times)
        .map(|round| {
            sleep_until(begun + Duration::from_secs(1) * round);
            let asked = Instant::now();
            let text = monitor.get("/metrics");
            let answered = asked.elapsed();
            check(&text);
            answered
        })
        .collect();
    took.sort();
    took
}

#[test]
fn no_pod_is_missed_and_nothing_grows_while_all_are_scraped_each_second() {
    kata_cri_test(|cri| {
        let (count, seconds) = amount((3, 6), (30, 300));
        let monitor = Monitor::start(cri.containerd);
        let pods: Vec<_> = (0..count).map(|_| cri.pod().run()).collect();
        let all: Vec<_> =
            pods.iter().map(|pod| format!("kata_monitor_shim_up{{{}}} 1\n", labels(pod))).collect();
        all.iter().for_each(|up| awaits(&monitor, "/metrics", up));
        let memory = || {
            let shims = cri.containerd.processes_of("containerd-shim-kata-v2");
            (resident(monitor.pid()), shims.iter().map(|shim| resident(shim.pid)).sum::<u64>())
        };
        let check = |text: &str| {
            let missed: Vec<_> = all.iter().filter(|up| !text.contains(*up)).collect();
            assert!(missed.is_empty(), "missed: {missed:?}");
            // What a shim tells is below 10 KiB; the names of its pod come on each line.
            assert!(text.len() < (count + 1) * (20 << 10), "{} bytes of {count} pods", text.len());
        };
        scrape(&monitor, seconds / 3, check);
        let before = memory();
        let took = scrape(&monitor, seconds, check);
        let after = memory();
        println!(
            "{count} pods: median {:?}, p99 {:?}; KiB of monitor and shims: {before:?}, then {after:?}",
            took[took.len() / 2],
            took[took.len() * 99 / 100],
        );
        assert!(after.0 < 15 << 10, "the monitor has {} KiB", after.0);
        assert!(after.0 < before.0 + 1024, "the monitor grows: {before:?} {after:?}");
        assert!(after.1 < before.1 + 256 * count as u64, "shims grow: {before:?} {after:?}");
    });
}

#[test]
fn monitor_and_container_manager_are_started_again_while_pods_run() {
    kata_cri_test(|cri| {
        let pod = cri.pod().run();
        let labels = labels(&pod);
        let monitor = Monitor::start(cri.containerd);
        awaits(&monitor, "/metrics", &labels);
        cri.kill_containerd();
        assert!(monitor.get("/metrics").contains(&labels), "names are kept");
        drop(monitor);
        let monitor = Monitor::start(cri.containerd);
        awaits(&monitor, "/metrics", &format!("kata_monitor_shim_up{{sandbox_id=\"{}\"}}", pod.id()));
        cri.start_containerd_again();
        awaits(&monitor, "/metrics", &labels);
        pod.remove();
        eventually("it is gone", LIMIT, || monitor.get("/sandboxes").is_empty());
    });
}

#[test]
fn what_happens_in_a_pod_is_told_as_it_happens() {
    kata_cri_test(|cri| {
        let monitor = Monitor::start(cri.containerd);
        let mut events = monitor.events();
        let pod = cri.pod().run();
        let id = format!("\"sandbox_id\":\"{}\"", pod.id());
        events.find(&["\"event\":\"started\"", &id]);
        events.find(&["\"event\":\"listening\"", &id]);
        let ended = pod.container("main").shell("exit 7").run();
        assert_eq!(ended.code, 7);
        let exited = events.find(&["\"event\":\"container-exited\"", "\"exit_status\":7", &id]);
        assert!(
            exited.contains("\"cri_namespace\":\"default\"") && exited.contains("\"time\":\"20"),
            "{exited}"
        );
        for vmm in cri.containerd.processes_of("qemu-system-x86_64") {
            vmm.kill();
        }
        events.find(&["\"event\":\"vm-died\"", "\"reason\":", &id]);
        pod.remove();
        events.find(&["\"event\":\"exited\"", &id]);
    });
}

#[test]
fn a_shim_that_is_killed_is_told_and_its_pod_goes() {
    kata_cri_test(|cri| {
        let monitor = Monitor::start(cri.containerd);
        let pod = cri.pod().run();
        let id = format!("\"sandbox_id\":\"{}\"", pod.id());
        awaits(&monitor, "/sandboxes", pod.id());
        let mut events = monitor.events();
        events.find(&["\"event\":\"listening\"", &id]);
        // containerd would clean up after it at once.
        cri.kill_containerd();
        for shim in cri.containerd.processes_of("containerd-shim-kata-v2") {
            shim.kill();
        }
        events.find(&["\"event\":\"shim-died\"", &id]);
        cri.start_containerd_again();
        pod.remove();
        eventually("it is gone", LIMIT, || monitor.get("/sandboxes").is_empty());
    });
}
