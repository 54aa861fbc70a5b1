//! Limits and figures of a pod's containers.

use std::fs;
use std::path::Path;
use std::time::Duration;

use kata_e2e::proto::LinuxContainerResources;
use kata_e2e::{PodContainer, cri_test, eventually, kata_cri_test};

const SEEN_WITHIN: Duration = Duration::from_secs(20);

#[test]
fn limits_are_the_containers() {
    // The guest's cgroups are of version 2, whatever the host has.
    kata_cri_test(|cri| {
        let pod = cri.pod().run();
        let container = pod.container("main").with(|config| {
            config.linux.get_or_insert_default().resources = Some(LinuxContainerResources {
                cpu_period: 100_000,
                cpu_quota: 50_000,
                memory_limit_in_bytes: 64 << 20,
                ..Default::default()
            });
        });
        let container = container.idle().start();
        let limits = "cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/memory.max";
        assert_eq!(container.shell(limits), "50000 100000\n67108864");
        container.update(LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 70_000,
            memory_limit_in_bytes: 96 << 20,
            ..Default::default()
        });
        assert_eq!(container.shell(limits), "70000 100000\n100663296");
    });
}

/// containerd hears of the end and of the lack of memory in two ways, and tells the end as soon as it knows of it.
#[track_caller]
fn ended_for_want_of_memory(container: &PodContainer<'_>) {
    eventually("the reason is told", SEEN_WITHIN, || container.ended().reason == "OOMKilled");
    assert_eq!(container.ended().code, 137);
}

#[test]
fn a_container_that_needs_too_much_memory_is_told_as_such() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let container = pod.container("main").with(|config| {
            config.linux.get_or_insert_default().resources =
                Some(LinuxContainerResources { memory_limit_in_bytes: 16 << 20, ..Default::default() });
        });
        let container = container.shell("head -c 64000000 /dev/zero | tail").start();
        container.wait();
        ended_for_want_of_memory(&container);
    });
}

#[test]
fn figures_of_a_container_are_told() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let container = pod.container("main").idle().start();
        container.shell("i=0; while test $i -lt 2000; do i=$((i+1)); done");
        let stats = container.stats();
        let cpu = stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds).unwrap().value;
        let memory = stats.memory.and_then(|memory| memory.working_set_bytes).unwrap().value;
        assert!(cpu > 1_000_000 && cpu < 600_000_000_000, "{cpu} ns");
        assert!(memory > 10_000 && memory < 1 << 30, "{memory} bytes");
    });
}

#[test]
fn figures_of_all_containers_are_listed() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let all = ["first", "second"].map(|name| pod.container(name).idle().start());
        let mut listed: Vec<_> =
            cri.stats().into_iter().map(|stats| stats.attributes.unwrap_or_default().id).collect();
        let mut expected = all.map(|container| container.id().to_owned()).to_vec();
        listed.sort();
        expected.sort();
        assert_eq!(listed, expected);
    });
}

#[test]
fn figures_of_a_pod_hold_those_of_its_containers() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let container = pod.container("main").idle().start();
        container.wait_for_line("ready");
        let stats = pod.stats();
        let ids: Vec<_> =
            stats.containers.iter().map(|stats| stats.attributes.clone().unwrap_or_default().id).collect();
        assert_eq!(ids, [container.id()]);
        let memory = stats.containers[0].memory.and_then(|memory| memory.working_set_bytes).unwrap().value;
        assert!(memory > 10_000, "{memory} bytes");
    });
}

/// Nothing ran in the cgroup that the container manager makes for a pod, and so it counted nothing.
#[test]
fn figures_of_a_pod_count_all_that_it_costs() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let container = pod.container("main").idle().start();
        container.wait_for_line("ready");
        container.shell("ping -c 1 10.88.0.1");
        let stats = pod.stats();
        let cpu = stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds).unwrap().value;
        let memory = stats.memory.unwrap();
        let memory = (memory.usage_bytes.unwrap().value, memory.working_set_bytes.unwrap().value);
        let interface = stats.network.and_then(|network| network.default_interface).unwrap();
        let (received, sent) = (interface.rx_bytes.unwrap().value, interface.tx_bytes.unwrap().value);
        println!("{cpu} ns, {memory:?} bytes, {received} and {sent} bytes, {:?}", stats.process);
        // The least is what a VM takes to boot.
        let (least_cpu, least_memory) =
            if cri.containerd.stage.is_kata() { (100_000_000, 20 << 20) } else { (1_000_000, 10_000) };
        assert!(cpu > least_cpu && cpu < 600_000_000_000, "{cpu} ns");
        assert!(memory.0 > least_memory && memory.0 < 4 << 30, "{memory:?} bytes");
        assert!(memory.1 > least_memory / 2 && memory.1 <= memory.0, "{memory:?} bytes");
        assert_eq!(interface.name, "eth0");
        assert!(received > 0 && sent > 0, "{received} and {sent} bytes");
        let processes = stats.process.and_then(|process| process.process_count).unwrap().value;
        assert!(processes > 0 && processes < 100, "{processes} processes");
    });
}

/// The file with the memory limit of a pod's cgroup, and that with what is used, in bytes.
fn memory_files(parent: &str) -> (String, String) {
    let (v1, v2) = (format!("/sys/fs/cgroup/memory{parent}"), format!("/sys/fs/cgroup{parent}"));
    match Path::new(&v1).exists() {
        true => (format!("{v1}/memory.limit_in_bytes"), format!("{v1}/memory.usage_in_bytes")),
        false => (format!("{v2}/memory.max"), format!("{v2}/memory.current")),
    }
}

#[test]
fn a_pod_whose_vm_the_host_killed_for_want_of_memory_says_so_with_the_numbers() {
    kata_cri_test(|cri| {
        let mut parent = String::new();
        let recipe =
            cri.pod().with(|config| parent.clone_from(&config.linux.as_ref().unwrap().cgroup_parent));
        let pod = recipe.run();
        let container = pod.container("main").idle().start();
        container.wait_for_line("ready");
        let (limit, usage) = memory_files(&parent);
        let usage: u64 = fs::read_to_string(usage).unwrap().trim().parse().unwrap();
        fs::write(limit, (usage + (8 << 20)).to_string()).unwrap();
        let filled = container.exec_shell("head -c 64000000 /dev/zero > /dev/shm/x");
        assert_ne!(filled.code, 0, "{filled:?}");
        container.wait();
        ended_for_want_of_memory(&container);
        let allowed = (usage + (8 << 20)) >> 20;
        let told = format!(
            "{parent} may have {allowed} MiB and has used {allowed} MiB; raise the pod's memory limit"
        );
        // containerd copies the shim's log by itself.
        eventually(&told, SEEN_WITHIN, || cri.containerd.log().contains(&told));
    });
}

/// The kernel killed QEMU when it was in the cgroup of a pod whose containers need little.
#[test]
fn a_pod_with_less_memory_than_its_vm_runs() {
    kata_cri_test(|cri| {
        let recipe = cri.pod().with(|config| {
            let (limit, _) = memory_files(&config.linux.as_ref().unwrap().cgroup_parent);
            fs::write(limit, "67108864").unwrap();
        });
        let pod = recipe.run();
        let container = pod.container("main").idle().start();
        container.wait_for_line("ready");
        assert_eq!(
            container.shell("head -c 80000000 /dev/zero > /dev/shm/x; wc -c < /dev/shm/x"),
            "67108864"
        );
        let memory = pod.stats().memory.and_then(|memory| memory.usage_bytes).map_or(0, |usage| usage.value);
        assert!(memory < 64 << 20, "{memory} bytes");
    });
}
