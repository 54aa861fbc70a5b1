//! The size of a VM: by the limits of a single container, and by what a pod's manager says of it.

use kata_e2e::proto::{LinuxContainerResources, PodSandboxConfig};
use kata_e2e::{Containerd, Recipe, cri_test, kata_cri_test, kata_test};
use serde_json::{Value, json};

const MIB: i64 = 1 << 20;

/// What a guest says of itself: its CPUs, and its memory in kB.
const SEEN: &str = "nproc; sed -n 's/^MemTotal: *//p' /proc/meminfo | cut -d' ' -f1";

fn container<'c>(containerd: &'c Containerd, line: &str, resources: &Value) -> Recipe<'c> {
    containerd.container().spec(|spec| {
        spec["process"]["args"] = json!(["/bin/sh", "-c", line]);
        for (name, limit) in resources.as_object().expect("limits by name") {
            spec["linux"]["resources"][name] = limit.clone();
        }
    })
}

/// CPUs, and memory in MiB.
fn read(seen: &str) -> (u32, i64) {
    let (cpus, memory) = seen.trim().split_once('\n').expect("two lines");
    (cpus.parse().expect("a number"), memory.trim().parse::<i64>().expect("a number") / 1024)
}

fn resources(millicpus: i64, mib: i64) -> LinuxContainerResources {
    LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: millicpus * 100,
        memory_limit_in_bytes: mib * MIB,
        ..Default::default()
    }
}

fn limited(config: &mut PodSandboxConfig, millicpus: i64, mib: i64) {
    config.linux.get_or_insert_default().resources = Some(resources(millicpus, mib));
}

#[test]
fn the_vm_of_a_single_container_fits_its_limits() {
    kata_test(|containerd| {
        let resources =
            json!({ "cpu": { "quota": 150_000, "period": 100_000 }, "memory": { "limit": 256 * MIB } });
        let running = container(containerd, "sleep 1000", &resources).start();
        let (cpus, memory) = read(&running.shell(SEEN));
        assert_eq!(cpus, 2);
        assert!((256..364).contains(&memory), "{memory} MiB");
        let seen = containerd.kata_runtime(["inspect", running.id(), "--json"]).ok().text();
        let size = serde_json::from_str::<Value>(&seen).expect("JSON")["shim"]["size"].take();
        assert_eq!((&size["boot"]["vcpus"], &size["boot"]["memory_mib"]), (&json!(2), &json!(364)));
        assert_eq!(size["boot"]["mib"][0], json!({ "what": "the pod's limit", "amount": 256 }));
        let tree = containerd.kata_runtime(["inspect", running.id()]).ok().text();
        assert!(tree.contains("size: 2 vCPUs, 364 MiB"), "{tree}");
    });
}

#[test]
fn a_container_can_use_all_that_it_is_limited_to() {
    for mib in [64, 512] {
        kata_test(|containerd| {
            // One buffer of that size, filled at once. The rest is for the program.
            let line = format!("dd if=/dev/zero of=/dev/null bs={}M count=1 && echo done", mib - 4);
            let resources = json!({ "memory": { "limit": mib * MIB } });
            let output = container(containerd, &line, &resources).run().ok().text();
            assert_eq!(output.trim(), "done", "{mib} MiB");
        });
    }
}

#[test]
fn without_limits_a_vm_has_the_default() {
    kata_test(|containerd| {
        let (cpus, memory) = read(&container(containerd, SEEN, &json!({})).run().ok().text());
        assert_eq!(cpus, 1);
        assert!((1900..2048).contains(&memory), "{memory} MiB");
    });
}

#[test]
fn upstreams_arithmetic_is_an_option() {
    kata_test(|containerd| {
        let (ours, upstreams) = ("sandbox_sizing = \"limits\"", "sandbox_sizing = \"default-plus-limits\"");
        containerd.reconfigure(|text| text.replacen(ours, upstreams, 1));
        let resources = json!({ "cpu": { "quota": 100_000 }, "memory": { "limit": 256 * MIB } });
        let (cpus, memory) = read(&container(containerd, SEEN, &resources).run().ok().text());
        assert_eq!(cpus, 2);
        assert!((2048..2304).contains(&memory), "{memory} MiB");
    });
}

#[test]
fn the_vm_of_a_pod_fits_what_its_manager_says_of_it() {
    kata_cri_test(|cri| {
        let pod = cri.pod().with(|config| limited(config, 2000, 300)).run();
        let limited = |name: &str| {
            let container = pod.container(name).with(|config| {
                config.linux.get_or_insert_default().resources = Some(resources(1000, 150));
            });
            container.idle().start()
        };
        let (first, second) = (limited("first"), limited("second"));
        for container in [&first, &second] {
            let (cpus, memory) = read(&container.shell(SEEN));
            assert_eq!(cpus, 2);
            assert!((300..410).contains(&memory), "{memory} MiB");
        }
        // Of which its manager has said nothing: the default is for it.
        let unlimited = pod.container("unlimited").idle().start();
        let (_, memory) = read(&unlimited.shell(SEEN));
        assert!((2048..2500).contains(&memory), "{memory} MiB");
    });
}

#[test]
fn a_pod_runs_whose_limit_is_beyond_the_host() {
    cri_test(|cri| {
        let pod = cri.pod().with(|config| limited(config, 500_000, 1 << 20)).run();
        assert_eq!(pod.container("main").shell("echo runs").run().code, 0);
    });
}

#[test]
fn an_annotation_that_is_no_number_is_refused_by_its_name() {
    kata_test(|containerd| {
        let odd = container(containerd, "true", &json!({}));
        let odd =
            odd.spec(|spec| spec["annotations"] = json!({ "io.kubernetes.cri.sandbox-memory": "256Mi" }));
        odd.try_start()
            .fails_because("io.kubernetes.cri.sandbox-memory must be a whole number, not \"256Mi\"");
    });
}
