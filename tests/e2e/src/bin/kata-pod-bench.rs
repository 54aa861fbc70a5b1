//! Figures of pods for `cargo xtask bench`: each line of standard input names one, a line of JSON is the answer.
//!
//! | request | answer |
//! |---|---|
//! | `pod` | seconds that RunPodSandbox, CreateContainer and StartContainer take together |
//! | `second` | seconds that CreateContainer and StartContainer take in a pod with a running container |
//! | `parallel N` | seconds until N pods run, each with a container, all asked for at once |
//! | `memory` | bytes that a second idle pod takes: `shim`, `virtiofsd`, `vmm` (proportional set sizes without the guest's memory), `guest` |
//!
//! The runtime is that of `KATA_E2E_RUNTIME`, as in the tests.

use std::io::Write;
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use kata_e2e::{Cri, Footprint, Pod, PodContainer, cri_test};
use serde_json::{Value, json};

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
        _ => panic!(
            "Unknown request {request:?}: the first lines of this program's source tell which there are"
        ),
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

fn memory(cri: &Cri<'_>) -> Value {
    let pods = [cri.pod().run(), cri.pod().run()];
    let _containers = [container(&pods[0], "main"), container(&pods[1], "main")];
    let Footprint { shim, virtiofsd, vmm, guest } = Footprint::of(&pods[1]);
    for pod in &pods {
        pod.remove();
    }
    json!({ "shim": shim, "virtiofsd": virtiofsd, "vmm": vmm, "guest": guest })
}
