//! Figures of pods for `cargo xtask bench`: each line of standard input names one, a line of JSON is the answer.
//!
//! | request | answer |
//! |---|---|
//! | `pod` | seconds that RunPodSandbox, CreateContainer and StartContainer take together |
//! | `second` | seconds that CreateContainer and StartContainer take in a pod with a running container |
//! | `parallel N` | seconds until N pods run, each with a container, all asked for at once |
//! | `throughput` | bits per second that iperf3 sends from a pod to the host: through its `network`, over its `tap` alone |
//! | `memory` | bytes that a second idle pod takes: `shim`, `virtiofsd`, `vmm` (proportional set sizes without the guest's memory), `guest` |
//! | `idle` | `cpu_ms`, the CPU time that all host processes of an idle pod take in each second, in milliseconds; `wakeups`, how often each second the thread wakes that wakes most |
//! | `hotplug` | seconds until a container that may use one CPU and 1 GiB more has them: the VM, which boots with 1 CPU and 256 MiB, grows |
//! | `update` | seconds that an update of a running container's limits takes which needs nothing of its VM |
//!
//! The runtime is that of `KATA_E2E_RUNTIME`, as in the tests.

use std::fs;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use kata_e2e::proto::{LinuxContainerResources, Mount};
use kata_e2e::{
    BRIDGE, Cri, Footprint, Idleness, Network, Pod, PodContainer, answer_lines, cri_test, fail, ip,
};
use serde_json::{Value, json};

/// The host's address in the pods' network.
const HOST: &str = "10.88.0.1";
const SECONDS: u32 = 4;
/// How long an idle pod is left alone, and then watched.
const IDLE: Duration = Duration::from_secs(30);
/// The TAP device of a pod's first interface, and the namespace that it is put into.
const TAP: &str = "tap0_kata";
const ALONE: &str = "alone";

fn main() -> ExitCode {
    let mut served = false;
    cri_test(|cri| {
        served = true;
        answer_lines(|request| answer(cri, request));
    });
    if served { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn answer(cri: &Cri<'_>, request: &str) -> Value {
    match request.split(' ').collect::<Vec<_>>()[..] {
        ["pod"] => json!(pod(cri)),
        ["second"] => json!(second(cri)),
        ["parallel", count] => json!(parallel(cri, count.parse().expect("a number of pods"))),
        ["memory"] => memory(cri),
        ["idle"] => idle(cri),
        ["throughput"] => throughput(cri),
        ["hotplug"] => json!(hotplug(cri)),
        ["update"] => json!(update(cri)),
        _ => fail(format_args!(
            "Unknown request {request:?}; the first lines of this program's source tell them"
        )),
    }
}

fn pod(cri: &Cri<'_>) -> f64 {
    let begun = Instant::now();
    let pod = cri.pod().run();
    let _container = container(&pod, "main");
    let seconds = begun.elapsed().as_secs_f64();
    pod.remove();
    seconds
}

fn second(cri: &Cri<'_>) -> f64 {
    let pod = cri.pod().run();
    let _first = container(&pod, "first");
    let begun = Instant::now();
    let _second = container(&pod, "second");
    let seconds = begun.elapsed().as_secs_f64();
    pod.remove();
    seconds
}

fn parallel(cri: &Cri<'_>, count: u32) -> f64 {
    let begun = Instant::now();
    let pods: Vec<_> = thread::scope(|scope| {
        let start = || {
            let pod = cri.pod().run();
            let _container = container(&pod, "main");
            pod
        };
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(start)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a pod starts")).collect()
    });
    let seconds = begun.elapsed().as_secs_f64();
    thread::scope(|scope| {
        for pod in &pods {
            scope.spawn(|| pod.remove());
        }
    });
    seconds
}

/// The median of 20 updates.
fn update(cri: &Cri<'_>) -> f64 {
    let pod = cri.pod().run();
    let container = container(&pod, "main");
    let mut took: Vec<_> = (0..20)
        .map(|round| {
            let cpu_quota = 50_000 + 1000 * round;
            let limits = LinuxContainerResources { cpu_quota, cpu_period: 100_000, ..Default::default() };
            let asked = Instant::now();
            container.update(limits);
            asked.elapsed()
        })
        .collect();
    took.sort();
    let maximum = container.shell("cat /sys/fs/cgroup/cpu.max");
    if maximum != "69000 100000" {
        fail(format_args!("The container's cgroup has {maximum:?}"));
    }
    pod.remove();
    took[took.len() / 2].as_secs_f64()
}

/// The request is answered when the guest has what it asks for, which is looked at afterwards.
fn hotplug(cri: &Cri<'_>) -> f64 {
    cri.reconfigure(|text| {
        text.replace("\ndefault_memory = 2048", "\ndefault_memory = 256")
            .replace("\ndefault_maxvcpus = 0", "\ndefault_maxvcpus = 2")
    });
    let pod = cri.pod().run();
    let container = container(&pod, "main");
    let seen = "nproc; sed -n 's/^MemTotal: *//p' /proc/meminfo | cut -d ' ' -f 1";
    let before = container.shell(seen);
    let begun = Instant::now();
    container.update(LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 200_000,
        memory_limit_in_bytes: (256 + 1024) << 20,
        ..Default::default()
    });
    let seconds = begun.elapsed().as_secs_f64();
    let after = container.shell(seen);
    let kib = |seen: &str| seen.lines().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default();
    // Less than 1 GiB: the kernel describes each page of it.
    if !after.starts_with("2\n") || kib(&after) < kib(&before) + (900 << 10) {
        fail(format_args!("The container had {before:?} (CPUs, KiB) and has {after:?}"));
    }
    pod.remove();
    seconds
}

fn container<'p>(pod: &'p Pod<'p>, name: &str) -> PodContainer<'p> {
    pod.container(name).command(["/bin/sleep", "3600"]).start()
}

/// The pod runs the host's own iperf3: first through its network, then over its TAP device alone, which is taken out of
/// the pod's namespace and given the address of the host. Guest, container and connection are the same, so what is
/// between the two figures is what the host does with the packets.
fn throughput(cri: &Cri<'_>) -> Value {
    let pod = cri.pod().run();
    let mounts = ["/usr", "/lib", "/lib64"].map(|directory| Mount {
        host_path: fs::canonicalize(directory).expect("every Debian has it").display().to_string(),
        container_path: directory.to_owned(),
        readonly: true,
        ..Default::default()
    });
    let client = pod.container("client").with(|config| config.mounts = mounts.into());
    let client = client.command(["/bin/sleep", "3600"]).start();
    let network = received(&client, Command::new("iperf3"));
    let _alone = take_tap_out(&pod);
    let mut server = Command::new("ip");
    server.args(["netns", "exec", ALONE, "iperf3"]);
    let tap = received(&client, server);
    pod.remove();
    json!({ "network": network, "tap": tap })
}

/// Bits per second that the container sends to this server.
fn received(client: &PodContainer<'_>, mut server: Command) -> f64 {
    server.args(["--server", "--one-off", "--json", "--bind", HOST]);
    let server = server.stdout(Stdio::piped()).spawn().expect("iperf3 is installed");
    client.shell(&format!("/usr/bin/iperf3 --client {HOST} --time {SECONDS}"));
    let report = server.wait_with_output().expect("iperf3 ends after one client").stdout;
    let report: Value = serde_json::from_slice(&report).expect("iperf3 reports as JSON");
    let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
    rate.unwrap_or_else(|| fail(format_args!("iperf3 received nothing: {}", report["error"])))
}

/// The TAP device takes the bridge's place, its MAC included, which the guest has learned.
fn take_tap_out(pod: &Pod<'_>) -> Network {
    let alone = Network::new(ALONE);
    let spec = pod.spec();
    let namespaces = spec["linux"]["namespaces"].as_array().expect("a pod has namespaces").iter();
    let path =
        namespaces.filter(|namespace| namespace["type"] == "network").find_map(|its| its["path"].as_str());
    let name = path.and_then(|path| path.rsplit('/').next()).expect("a pod has a network");
    let bridge: Value =
        serde_json::from_str(&ip(&format!("-json link show {BRIDGE}"))).expect("iproute2 prints JSON");
    let mac = bridge[0]["address"].as_str().expect("a bridge has an address");
    ip(&format!("-n {name} link set {TAP} netns {ALONE}"));
    alone.inside(&format!("link set {TAP} address {mac} up"));
    alone.inside(&format!("addr add {HOST}/16 dev {TAP}"));
    alone
}

fn memory(cri: &Cri<'_>) -> Value {
    let pods = [cri.pod().run(), cri.pod().run()];
    let _containers = [container(&pods[0], "main"), container(&pods[1], "main")];
    let Footprint { shim, virtiofsd, vmm, guest } = Footprint::of(&pods[1]);
    for pod in &pods {
        pod.remove();
    }
    json!({ "shim": shim, "virtiofsd": virtiofsd, "vmm": vmm, "guest": guest })
}

/// Without what a guest does in its first half minute.
fn idle(cri: &Cri<'_>) -> Value {
    let pod = cri.pod().run();
    let _container = container(&pod, "main");
    Idleness::of(&[&pod], IDLE);
    let watched = Idleness::of(&[&pod], IDLE).remove(0);
    pod.remove();
    json!({ "cpu_ms": watched.cpu_ms(), "wakeups": watched.most_wakes() })
}
