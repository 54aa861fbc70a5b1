//! The pages for people, as text and in a real browser.

use std::fs;
use std::process::Command;

use crate::cri::Manager;
use crate::programs::installed;
use crate::scene::{Monitor, Scene, Shim};

const HTML: &str = "Accept: text/html,application/xhtml+xml";

/// As Kata's families are, with `level` for what changes.
pub(crate) fn kata_text(level: u64) -> String {
    let received = 12_345_678 + level * 1_000_000;
    let free = 1_600_000 - level * 30_000;
    let rss = 180_000 + level * 2_000;
    format!(
        "# TYPE kata_guest_meminfo gauge\nkata_guest_meminfo{{item=\"mem_total\"}} 2028120\n\
         kata_guest_meminfo{{item=\"mem_available\"}} {free}\n\
         # TYPE kata_guest_cpu_time gauge\nkata_guest_cpu_time{{cpu=\"total\",item=\"user\"}} {received}\n\
         # TYPE kata_guest_netdev_stat gauge\nkata_guest_netdev_stat{{interface=\"lo\",item=\"recv_bytes\"}} 99\n\
         kata_guest_netdev_stat{{interface=\"eth0\",item=\"recv_bytes\"}} {received}\n\
         kata_guest_netdev_stat{{interface=\"eth0\",item=\"sent_bytes\"}} 456789\n\
         # TYPE kata_hypervisor_proc_status gauge\nkata_hypervisor_proc_status{{item=\"vmrss\"}} {rss}\n\
         # TYPE kata_shim_pod_overhead_memory_in_bytes gauge\nkata_shim_pod_overhead_memory_in_bytes 96468992\n\
         # TYPE kata_shim_process_resident_memory_bytes gauge\nkata_shim_process_resident_memory_bytes 9437184\n\
         # TYPE kata_shim_rpc_durations_histogram_milliseconds histogram\n\
         kata_shim_rpc_durations_histogram_milliseconds_bucket{{action=\"create\",le=\"+Inf\"}} {received}\n\
         kata_shim_rpc_durations_histogram_milliseconds_sum{{action=\"create\"}} 1\n\
         kata_shim_rpc_durations_histogram_milliseconds_count{{action=\"create\"}} {received}\n\
         # TYPE kata_shim_agent_rpc_durations_histogram_milliseconds histogram\n\
         kata_shim_agent_rpc_durations_histogram_milliseconds_bucket{{action=\"grpc.CheckRequest\",le=\"+Inf\"}} {received}\n\
         kata_shim_agent_rpc_durations_histogram_milliseconds_sum{{action=\"grpc.CheckRequest\"}} 1\n\
         kata_shim_agent_rpc_durations_histogram_milliseconds_count{{action=\"grpc.CheckRequest\"}} {received}\n"
    )
}

const TIMELINE: &str = r#"{"sandbox":"s","origin_us":1,"vmm":"qemu","accelerator":"kvm","accelerator_reason":null,
  "agent_version":"0.1.0","spans":[
  {"name":"process and configuration","side":"host","start_us":0,"end_us":10800},
  {"name":"vmm spawned","side":"host","start_us":12100,"end_us":16100},
  {"name":"kernel","side":"guest","start_us":60000,"end_us":182000},
  {"name":"guest boot until the agent is up","side":"host","start_us":12100,"end_us":190000},
  {"name":"container started","side":"host","start_us":221000,"end_us":231300},
  {"name":"container files","side":"host","start_us":9000000,"end_us":9100000}]}"#;

/// A pod with everything that a page shows.
fn pod(scene: &Scene, manager: &Manager, id: &str, name: &str) -> Shim {
    let shim = scene.shim(id, &kata_text(u64::try_from(name.len()).unwrap()));
    fs::write(scene.path("kata").join(id).join("timeline.json"), TIMELINE).unwrap();
    manager.add(id, name);
    shim
}

#[test]
fn who_is_no_browser_gets_a_list_of_endpoints() {
    let monitor = Scene::new().monitor(&[]);
    let (head, text) = monitor.get("/", &[]);
    assert!(head.contains("content-type: text/plain"), "{head}");
    for path in ["/metrics", "/sandboxes", "/agent-url", "/events"] {
        assert!(text.lines().any(|line| line.starts_with(path)), "{text}");
    }
    assert!(monitor.get("/", &[HTML]).1.contains("No sandbox runs on this node."));
}

#[test]
fn the_page_shows_pods_with_phases_memory_and_network() {
    let scene = Scene::new();
    let manager = Manager::start(&scene.path("cri.sock"));
    let _pod = pod(&scene, &manager, "0123456789abcdef", "web");
    let evil = pod(&scene, &manager, "evil", "<script>alert(1)</script>\"");
    let monitor = scene.monitor(&[]);
    monitor.awaits("both", |monitor| monitor.ids().contains("evil"));
    let (head, page) = monitor.get("/", &[HTML]);
    assert!(head.contains("content-type: text/html") && head.contains("default-src 'none'"), "{head}");
    for shown in [
        "2 sandboxes",
        "web<br><small>default</small>",
        "<code>0123456789ab</code>",
        "231.3 ms <small>qemu, kvm</small>",
        "<tr><td>vmm spawned<td>host<td class=\"n\">4.0 ms</tr>",
        "<tr><td>kernel<td>guest<td class=\"n\">122.0 ms</tr>",
        "of 1.9 GiB",
        "overhead 92.0 MiB",
        "↓ 14.6 MiB<br>↑ 446 KiB",
        "&lt;script&gt;alert(1)&lt;/script&gt;&quot;",
    ] {
        assert!(page.contains(shown), "{shown}\n{page}");
    }
    assert!(!page.contains("<script>alert") && !page.contains("container files"), "{page}");
    assert!(!page.contains("://"), "nothing comes from elsewhere");
    evil.hang(true);
    drop(monitor);
    let monitor = scene.monitor(&["-shim-timeout", "0.2"]);
    monitor.awaits("both", |monitor| monitor.ids().contains("evil"));
    monitor.awaits("only the hung one has none", |monitor| {
        monitor.get("/", &[HTML]).1.contains("1 without figures")
    });
    let list = monitor.get("/sandboxes", &[HTML]).1;
    assert!(list.contains("<a href=\"/metrics?sandbox=evil\">"), "{list}");
}

fn browse(monitor: &Monitor, words: &[&str]) -> Option<Vec<u8>> {
    let program = installed("chromium-headless-shell")?;
    let profile = tempfile::tempdir().unwrap();
    let mut command = Command::new(program);
    command.args(["--no-sandbox", "--disable-gpu", "--hide-scrollbars"]).args(words);
    command.arg(format!("--user-data-dir={}", profile.path().display()));
    let output = command.arg(format!("http://{}/", monitor.address)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(output.stdout)
}

#[test]
fn a_browser_shows_the_page_and_refreshes_it() {
    let scene = Scene::new();
    let manager = Manager::start(&scene.path("cri.sock"));
    let shims = [("3f9c2ab61d07", "web-6d4cf"), ("81be40c7a955", "db-0"), ("c02d7e19f3a4", "cache-77b")]
        .map(|(id, name)| pod(&scene, &manager, id, name));
    let monitor = scene.monitor(&[]);
    monitor.awaits("all", |monitor| monitor.ids().split(' ').count() == 3);
    // Two turns of the page's own clock.
    let Some(page) = browse(&monitor, &["--dump-dom", "--virtual-time-budget=11000"]) else { return };
    let page = String::from_utf8(page).unwrap();
    assert!(page.contains("3 sandboxes") && page.contains("db-0") && page.contains("</tbody>"), "{page}");
    assert!(shims[0].asked() >= 2, "it has refreshed itself: {}", shims[0].asked());
    let picture = scene.path("page.png");
    let to = format!("--screenshot={}", picture.display());
    browse(&monitor, &[&to, "--window-size=1000,420"]);
    let bytes = fs::read(&picture).unwrap();
    assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 5000);
    if let Some(keep) = std::env::var_os("KATA_MONITOR_SCREENSHOT") {
        fs::copy(&picture, keep).unwrap();
    }
}
