//! Figures of pods for `cargo xtask bench`: each line of standard input names one, a line of JSON is the answer.
//!
//! | request | answer |
//! |---|---|
//! | `pod` | seconds that RunPodSandbox, CreateContainer and StartContainer take together |
//! | `second` | seconds that CreateContainer and StartContainer take in a pod with a running container |
//! | `parallel N` | seconds until N pods run, each with a container, all asked for at once |
//! | `throughput` | bits per second that iperf3 sends from a pod to the host |
//! | `vmm` | the words of a pod's VMM |
//! | `memory` | bytes that a second idle pod takes: `shim`, `virtiofsd`, `vmm` (proportional set sizes without the guest's memory), `guest` |
//!
//! The runtime is that of `KATA_E2E_RUNTIME`, as in the tests.

use std::fs;
use std::io::Write;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Instant;

use kata_e2e::proto::Mount;
use kata_e2e::{Cri, Footprint, Pod, PodContainer, cri_test, fail};
use serde_json::{Value, json};

/// The host's address in the pods' network.
const HOST: &str = "10.88.0.1";
/// As long as the bare guest sends that it is compared with.
const SECONDS: u32 = 4;

fn main() -> ExitCode {
    let mut served = false;
    cri_test(|cri| {
        served = true;
        for line in std::io::stdin().lines() {
            let line = line.expect("the benchmark writes lines of text");
            println!("{}", answer(cri, &line));
            std::io::stdout().flush().expect("the benchmark reads the answers");
        }
    });
    if served { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn answer(cri: &Cri<'_>, request: &str) -> Value {
    match request.split(' ').collect::<Vec<_>>()[..] {
        ["pod"] => json!(pod(cri)),
        ["second"] => json!(second(cri)),
        ["parallel", count] => json!(parallel(cri, count.parse().expect("a number of pods"))),
        ["memory"] => memory(cri),
        ["throughput"] => throughput(cri),
        ["vmm"] => json!(vmm(cri)),
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

fn container<'p>(pod: &'p Pod<'p>, name: &str) -> PodContainer<'p> {
    pod.container(name).command(["/bin/sleep", "3600"]).start()
}

/// The pod runs the host's own iperf3.
fn throughput(cri: &Cri<'_>) -> Value {
    let server = Command::new("iperf3")
        .args(["--server", "--one-off", "--json", "--bind", HOST])
        .stdout(Stdio::piped())
        .spawn()
        .expect("iperf3 is installed");
    let pod = cri.pod().run();
    let mounts = ["/usr", "/lib", "/lib64"].map(|directory| Mount {
        host_path: fs::canonicalize(directory).expect("every Debian has it").display().to_string(),
        container_path: directory.to_owned(),
        readonly: true,
        ..Default::default()
    });
    let client = pod.container("client").with(|config| config.mounts = mounts.into());
    let client = client.command(["/bin/sleep", "3600"]).start();
    client.shell(&format!("/usr/bin/iperf3 --client {HOST} --time {SECONDS}"));
    let report = server.wait_with_output().expect("iperf3 ends after one client").stdout;
    pod.remove();
    let report: Value = serde_json::from_slice(&report).expect("iperf3 reports as JSON");
    report["end"]["sum_received"]["bits_per_second"].clone()
}

fn vmm(cri: &Cri<'_>) -> Vec<String> {
    let pod = cri.pod().run();
    let vmm = cri.containerd.processes_of("qemu-system-x86_64").pop().expect("a pod has a VMM");
    let line = fs::read(format!("/proc/{}/cmdline", vmm.pid)).expect("the VMM runs");
    pod.remove();
    String::from_utf8_lossy(&line).trim_end_matches('\0').split('\0').map(str::to_owned).collect()
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
