//! Properties of a process that are newer than the runtimes others are compared with.

use serde_json::{Value, json};

use super::guest::{Guest, message, process, skips};

/// The nice value and the number of the policy of a process, from proc_pid_stat(5).
const SCHEDULING: &str = "cut -d ' ' -f 19,41 /proc/self/stat";

/// The output of a process that is added to a container of this specification.
async fn output_of_added(guest: &Guest, spec: &Value, added: &Value) -> String {
    guest.create_with("c", spec, false).await.expect("created");
    guest.start_container("c").await.expect("started");
    let mut streams = guest.exec_with("c", "e", added, false).await.expect("added");
    String::from_utf8(streams.output().await).expect("is text")
}

async fn refusal_of(guest: &Guest, spec: &Value) -> String {
    message(guest.create_with("c", spec, false).await)
}

agent_test!(a_process_is_scheduled_as_its_specification_says, |guest| {
    let mut spec = guest.spec(&["sh", "-c", SCHEDULING]);
    spec["process"]["scheduler"] = json!({ "policy": "SCHED_BATCH", "nice": 7 });
    let output = guest.output_of(&spec).await;
    assert_eq!(output, "7 3\n");
});

agent_test!(a_process_may_be_scheduled_in_real_time, |guest| {
    let mut spec = guest.spec(&["sh", "-c", "cut -d ' ' -f 40,41 /proc/self/stat; ionice"]);
    spec["process"]["scheduler"] = json!({ "policy": "SCHED_FIFO", "priority": 3 });
    spec["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_RT", "priority": 1 });
    assert_eq!(guest.output_of(&spec).await, "3 1\nrealtime: prio 1\n");
});

agent_test!(an_added_process_has_its_own_scheduler, |guest| {
    let mut added = process(&["sh", "-c", &format!("{SCHEDULING}; ionice")]);
    added["scheduler"] = json!({ "policy": "SCHED_IDLE" });
    added["ioPriority"] = json!({ "class": "IOPRIO_CLASS_BE", "priority": 2 });
    let output = output_of_added(&guest, &guest.spec(&["sleep", "1000"]), &added).await;
    assert_eq!(output, "0 5\nbest-effort: prio 2\n");
});

agent_test!(the_priority_of_input_and_output_is_set, |guest| {
    let mut spec = guest.spec(&["sh", "-c", "ionice"]);
    spec["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_IDLE", "priority": 0 });
    assert!(guest.output_of(&spec).await.starts_with("idle"));
    guest.remove("c").await.expect("removed");
    spec["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_IDLE", "priority": 8 });
    assert!(refusal_of(&guest, &spec).await.contains("process.ioPriority"));
});

agent_test!(an_added_process_runs_on_the_cpus_it_is_bound_to, |guest| {
    let cpus = "grep Cpus_allowed_list /proc/self/status";
    let mut added = process(&["sh", "-c", cpus]);
    added["execCPUAffinity"] = json!({ "initial": "0", "final": "1" });
    let output = output_of_added(&guest, &guest.spec(&["sleep", "1000"]), &added).await;
    assert_eq!(output, "Cpus_allowed_list:\t1\n");
});

agent_test!(a_container_may_take_its_kernel_for_a_32_bit_one, |guest| {
    let mut spec = guest.spec(&["sh", "-c", "sleep 1000"]);
    spec["linux"]["personality"] = json!({ "domain": "LINUX32" });
    let added = process(&["sh", "-c", "uname -m"]);
    assert_eq!(output_of_added(&guest, &spec, &added).await, "i686\n");
});

agent_test!(clocks_are_set_off_in_a_time_namespace, |guest| {
    // Regression of this test: it took the host to be up for less than a day.
    let seconds = |uptime: &str| uptime.split('.').next().and_then(|text| text.parse().ok()).unwrap_or(0_i64);
    let of_host = || seconds(&std::fs::read_to_string("/proc/uptime").expect("is there"));
    let offset = 10_000 * 86_400_i64;
    let mut spec = guest.spec(&["sleep", "1000"]);
    spec["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({ "type": "time" }));
    spec["linux"]["timeOffsets"] = json!({ "boottime": { "secs": offset, "nanosecs": 5 } });
    let before = of_host();
    let uptime = output_of_added(&guest, &spec, &process(&["cat", "/proc/uptime"])).await;
    assert!((offset + before..=offset + of_host()).contains(&seconds(&uptime)), "{uptime} at {before}");
});

agent_test!(an_offset_without_a_time_namespace_is_refused, |guest| {
    let mut spec = guest.spec(&["true"]);
    spec["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 1 } });
    assert!(refusal_of(&guest, &spec).await.contains("add one to linux.namespaces"));
});

agent_test!(a_user_namespace_without_a_root_is_refused, |guest| {
    let mut spec = guest.spec(&["true"]);
    spec["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({ "type": "user" }));
    let mapping = json!([{ "containerID": 5, "hostID": 1000, "size": 1 }]);
    spec["linux"]["uidMappings"] = mapping.clone();
    spec["linux"]["gidMappings"] = mapping;
    let refusal = refusal_of(&guest, &spec).await;
    assert!(refusal.contains("is 0 mapped in linux.uidMappings"), "{refusal}");
});

agent_test!(mappings_that_overlap_are_refused, |guest| {
    let mut spec = guest.spec(&["true"]);
    spec["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({ "type": "user" }));
    let mapping = json!([{ "containerID": 0, "hostID": 1000, "size": 9 }, { "containerID": 5, "hostID": 1, "size": 1 }]);
    spec["linux"]["uidMappings"] = mapping.clone();
    spec["linux"]["gidMappings"] = mapping;
    assert!(refusal_of(&guest, &spec).await.contains("overlap"));
    // The name is free again.
    guest.run("c", &["true"]).await;
});

agent_test!(containers_of_a_sandbox_share_the_namespaces_that_have_a_path, |guest| {
    let with_paths = |arguments: &[&str], shared: &[&str]| {
        let mut spec = guest.spec(arguments);
        for namespace in spec["linux"]["namespaces"].as_array_mut().expect("a list") {
            if shared.iter().any(|kind| namespace["type"] == *kind) {
                namespace["path"] = json!("/proc/4321/ns/of-the-host");
            }
        }
        spec["mounts"]
            .as_array_mut()
            .expect("a list")
            .push(json!({ "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue" }));
        spec
    };
    let script = "hostname sandbox; touch /dev/mqueue/shared; exec sleep 1234";
    let mut first = with_paths(&["sh", "-c", script], &["ipc", "uts", "pid"]);
    let all = json!(["CAP_SYS_ADMIN"]);
    first["process"]["capabilities"] = json!({ "bounding": all, "effective": all, "permitted": all });
    guest.create_with("first", &first, false).await.expect("created");
    guest.start_container("first").await.expect("started");
    let seen = "cat /proc/sys/kernel/hostname; echo /dev/mqueue/*; cat /proc/1/cmdline | head -c 5";
    let saw = async |id: &str, spec: &Value| {
        let mut streams = guest.create_with(id, spec, false).await.expect("created");
        guest.start_container(id).await.expect("started");
        String::from_utf8(streams.output().await).expect("is text")
    };
    let wait = "until grep -q ^sleep /proc/1/cmdline; do sleep 0.1; done";
    saw("waits", &with_paths(&["sh", "-c", wait], &["pid"])).await;
    let sharing = with_paths(&["sh", "-c", seen], &["ipc", "uts", "pid"]);
    assert_eq!(saw("member", &sharing).await, "sandbox\n/dev/mqueue/shared\nsleep");
    let alone = with_paths(&["sh", "-c", seen], &[]);
    let output = saw("alone", &alone).await;
    assert!(output.ends_with("/dev/mqueue/*\nsh\0-c") && !output.starts_with("sandbox"), "{output}");
});

agent_test!(what_containers_share_stays_when_the_first_of_them_has_gone, |guest| {
    guest.start_sandbox().await;
    let with_paths = |script: &str, shared: &[&str]| {
        let mut spec = guest.spec(&["sh", "-c", script]);
        for namespace in spec["linux"]["namespaces"].as_array_mut().expect("a list") {
            if shared.iter().any(|kind| namespace["type"] == *kind) {
                namespace["path"] = json!("/proc/4321/ns/of-the-host");
            }
        }
        let queues = json!({ "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue" });
        spec["mounts"].as_array_mut().expect("a list").push(queues);
        spec
    };
    let saw = async |id: &str, spec: &Value| {
        let mut streams = guest.create_with(id, spec, false).await.expect("created");
        guest.start_container(id).await.expect("started");
        String::from_utf8(streams.output().await).expect("is text")
    };
    let all = ["ipc", "uts", "pid"];
    let mut first = with_paths("hostname sandbox; touch /dev/mqueue/shared; sleep 0 &", &all);
    let rights = json!(["CAP_SYS_ADMIN"]);
    first["process"]["capabilities"] =
        json!({ "bounding": rights, "effective": rights, "permitted": rights });
    assert_eq!(saw("first", &first).await, "");
    guest.wait("first", "").await.expect("ended");
    guest.remove("first").await.expect("removed");
    let seen = "cat /proc/sys/kernel/hostname; echo /dev/mqueue/*; head -c 16 /proc/1/cmdline";
    let next = saw("next", &with_paths(seen, &all)).await;
    assert_eq!(next, "sandbox\n/dev/mqueue/shared\nkata-agent\0conta");
    let own_pids = saw("own", &with_paths(seen, &["ipc", "uts"])).await;
    assert_eq!(own_pids, "sandbox\n/dev/mqueue/shared\nsh\0-c\0cat /proc/");
    let alone = saw("alone", &with_paths(seen, &[])).await;
    assert!(!alone.starts_with("sandbox") && alone.contains("/dev/mqueue/*\n"), "{alone}");
    guest.destroy_sandbox().await;
});

agent_test!(the_holder_of_namespaces_reaps_what_is_left_to_it, |guest| {
    guest.start_sandbox().await;
    let shared = |script: &str| {
        let mut spec = guest.spec(&["sh", "-c", script]);
        for namespace in spec["linux"]["namespaces"].as_array_mut().expect("a list") {
            if namespace["type"] == "pid" {
                namespace["path"] = json!("/proc/4321/ns/pid");
            }
        }
        spec
    };
    let leave = "(sh -c 'echo $$' &); exec sleep 1000";
    let mut streams = guest.create_with("c", &shared(leave), false).await.expect("created");
    guest.start_container("c").await.expect("started");
    let orphan = streams.expect("\n").await;
    let look = format!("while test -e /proc/{}; do sleep 0.1; done; echo gone", orphan.trim());
    let mut streams = guest.create_with("d", &shared(&look), false).await.expect("created");
    guest.start_container("d").await.expect("started");
    assert_eq!(streams.output().await, b"gone\n");
});

agent_test!(a_user_namespace_is_shared_with_no_container_of_its_own, |guest| {
    guest.start_sandbox().await;
    let ids = json!([{ "containerID": 0, "hostID": 1000, "size": 1000 }]);
    for id in ["first", "second"] {
        let mut spec = guest.spec(&["sh", "-c", "head -c 40 /proc/self/uid_map"]);
        spec["linux"]["uidMappings"] = ids.clone();
        spec["linux"]["gidMappings"] = ids.clone();
        let namespaces = spec["linux"]["namespaces"].as_array_mut().expect("a list");
        namespaces.push(json!({ "type": "user", "path": "/proc/4321/ns/user" }));
        let mut streams = guest.create_with(id, &spec, false).await.expect("created");
        guest.start_container(id).await.expect("started");
        let map = String::from_utf8(streams.output().await).expect("is text");
        assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "1000", "1000"]);
        guest.remove(id).await.expect("removed");
    }
});

agent_test!(a_cgroup_namespace_is_shared_with_and_without_a_user_namespace_of_ones_own, |guest| {
    let with = |arguments: &[&str], more: &[Value]| {
        let mut spec = guest.spec(arguments);
        let namespaces = spec["linux"]["namespaces"].as_array_mut().expect("a list");
        namespaces.retain(|namespace| namespace["type"] != "cgroup");
        namespaces.extend_from_slice(more);
        let ids = json!([{ "containerID": 0, "hostID": 0, "size": 1000 }]);
        if more.iter().any(|namespace| namespace["type"] == "user") {
            spec["linux"]["uidMappings"] = ids.clone();
            spec["linux"]["gidMappings"] = ids;
        }
        spec
    };
    let (own, users) = (json!({ "type": "cgroup" }), json!({ "type": "user" }));
    let shared = json!({ "type": "cgroup", "path": "/proc/4321/ns/cgroup" });
    let script = "readlink /proc/self/ns/cgroup";
    guest.create_with("first", &with(&["sleep", "1234"], &[own]), false).await.expect("created");
    guest.start_container("first").await.expect("started");
    let mut streams =
        guest.exec_with("first", "e", &process(&["sh", "-c", script]), false).await.expect("added");
    let expected = String::from_utf8(streams.output().await).expect("is text");
    for more in [vec![shared.clone()], vec![shared, users]] {
        assert_eq!(guest.output_of(&with(&["sh", "-c", script], &more)).await, expected, "{more:?}");
        guest.remove("c").await.expect("removed");
    }
});
