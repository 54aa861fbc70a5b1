//! Prometheus as it is: what it takes, and what the dashboard's queries answer.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::cri::Manager;
use crate::figures::ten_kilobytes;
use crate::pages::kata_text;
use crate::scene::{Monitor, PATIENCE, Scene};

/// A program; `None`, and a line that says so, where it is not installed and nobody demands it.
pub(crate) fn installed(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file());
    if found.is_none() {
        assert!(env::var_os("KATA_TEST_STAGE").is_none(), "{name} is not installed");
        println!("SKIPPED: {name} is not installed");
    }
    found
}

/// Debian's `prometheus`, scraping a monitor each second. It ends with this.
struct Prometheus {
    process: Child,
    address: String,
}

impl Prometheus {
    fn start(scene: &Scene, monitor: &Monitor) -> Option<Self> {
        let program = installed("prometheus")?;
        let shipped = fs::read_to_string(deploy("prometheus/kata.yml")).unwrap();
        let configuration = shipped
            .replace("127.0.0.1:8090", &monitor.address)
            .replace(": 15s", ": 1s")
            .replace(": 10s", ": 1s")
            // The dashboard's last panels.
            .replace("# params:", "params:");
        assert!(configuration.contains(&monitor.address));
        let file = scene.path("prometheus.yml");
        fs::write(&file, configuration).unwrap();
        let mut command = Command::new(program);
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", scene.path("data").display()));
        let mut process =
            command.arg("--web.listen-address=127.0.0.1:0").stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
        let line = lines.find(|line| line.contains("msg=\"Listening on\"")).expect("it listens");
        let address = line.split_once("address=").unwrap().1.trim().to_owned();
        // What it says later must be read, lest it waits.
        thread::spawn(move || lines.for_each(drop));
        Some(Self { process, address })
    }

    /// The answer to a query: its series.
    fn query(&self, expression: &str) -> Vec<Value> {
        let query = utf8_percent_encode(expression, NON_ALPHANUMERIC);
        let url = format!("http://{}/api/v1/query?query={query}", self.address);
        let output =
            Command::new("curl").args(["-sS", "--max-time", "30", &url]).output().expect("curl is there");
        let answer: Value = serde_json::from_slice(&output.stdout).expect("it answers JSON");
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        answer["data"]["result"].as_array().expect("a list of series").clone()
    }

    fn awaits(&self, expression: &str) -> Vec<Value> {
        let end = Instant::now() + PATIENCE;
        loop {
            let series = self.query(expression);
            if !series.is_empty() {
                return series;
            }
            assert!(Instant::now() < end, "no series: {expression}");
            thread::park_timeout(Duration::from_millis(20));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(path)
}

/// Every query of the dashboard, with what Grafana puts in place of its variables.
fn dashboard() -> Vec<String> {
    let text = fs::read_to_string(deploy("grafana/kata.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let filled = |target: &Value| {
        let expression = target["expr"].as_str().unwrap();
        let filled =
            expression.replace("$__rate_interval", "1m").replace("$namespace", ".*").replace("$pod", ".*");
        assert!(!filled.contains('$'), "{filled}");
        filled
    };
    targets.map(filled).collect()
}

#[test]
fn prometheus_scrapes_it_and_the_dashboards_queries_answer() {
    let scene = Scene::new();
    let manager = Manager::start(&scene.path("cri.sock"));
    manager.add("a", "web");
    manager.add("b", "db");
    let _shims = (scene.shim("a", &kata_text(1)), scene.shim("b", &kata_text(2)));
    let monitor = scene.monitor(&[]);
    monitor.awaits("both", |monitor| monitor.ids() == "a b");
    let Some(prometheus) = Prometheus::start(&scene, &monitor) else { return };
    let up = prometheus.awaits("up == 1");
    assert_eq!(up[0]["metric"]["job"], "kata");
    let series = prometheus.awaits("kata_guest_meminfo{item=\"mem_total\"}");
    let mut names: Vec<_> = series.iter().map(|one| one["metric"]["cri_name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["db", "web"]);
    assert_eq!(series[0]["metric"]["cri_namespace"], "default");
    let queries = dashboard();
    assert!(queries.len() >= 10);
    for query in queries {
        let series = prometheus.awaits(&query);
        assert!(series[0]["value"][1].is_string(), "{query}: {series:?}");
    }
    prometheus.awaits("up == 1");
}

/// Numbers for Rust; one that Go does not take fails the scrape of all pods.
const ODD: &str = "# HELP kata_odd Odd.\n# TYPE kata_odd gauge\nkata_odd{n=\"1\"} 1e999\nkata_odd{n=\"2\"} -nan\n\
                   kata_odd{n=\"3\"} +Inf\nkata_odd{n=\"4\"} infinity\nkata_odd{n=\"5\"} NaN\nkata_odd{n=\"6\"} 1.\n\
                   kata_odd{n=\"7\"} .5E-400\n";

/// It has an opinion on names, and those are upstream's: nothing else may be found.
#[test]
fn promtool_finds_fault_with_nothing_but_upstreams_names() {
    let Some(promtool) = installed("promtool") else { return };
    let scene = Scene::new();
    let _shims =
        (scene.shim("a", &kata_text(1)), scene.shim("b", &kata_text(2)), scene.shim("c", &ten_kilobytes()));
    let _odd = scene.shim("d", ODD);
    let monitor = scene.monitor(&[]);
    monitor.awaits("all", |monitor| monitor.ids() == "a b c d");
    let mut check = Command::new(promtool);
    check.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut check = check.spawn().unwrap();
    check.stdin.take().unwrap().write_all(monitor.metrics().as_bytes()).unwrap();
    let output = check.wait_with_output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    // 3: it could be read, and has such faults.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{said}");
    let of_names = [
        "base unit",
        "_total",
        "non-histogram",
        "include type",
        "unit suffix",
        "no help text",
        "abbreviated",
    ];
    let others: Vec<_> =
        said.lines().filter(|line| !of_names.iter().any(|words| line.contains(words))).collect();
    assert_eq!(others, Vec::<&str>::new());
    assert!(said.lines().all(|line| !line.starts_with("kata_monitor") || !line.contains("help")), "{said}");
}

#[test]
fn promtool_takes_the_snippet_for_prometheus() {
    let Some(promtool) = installed("promtool") else { return };
    let output =
        Command::new(promtool).args(["check", "config"]).arg(deploy("prometheus/kata.yml")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
