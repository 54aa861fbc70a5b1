//! The real agent on a unix socket, in namespaces of its own, without a VM.

mod guest;

use guest::{Guest, message, process, skips};
use kata_protocol::agent::{
    AddSwapPathRequest, AddSwapRequest, CloseStdinRequest, CreateContainerRequest, GuestDetailsRequest,
    PauseContainerRequest, ReadStreamRequest, ResumeContainerRequest, SetPolicyRequest, Storage,
    UpdateContainerRequest, WriteStreamRequest,
};
use kata_protocol::kata::{ContainerRequest, PidsRequest, StatsRequest};
use kata_protocol::oci::LinuxResources;
use protobuf::MessageField;

/// Runs a test with an agent, where that is possible.
macro_rules! agent_test {
    ($(#[$doc:meta])* $name:ident, |$guest:ident| $body:expr) => {
        $(#[$doc])*
        #[tokio::test]
        async fn $name() {
            if skips() {
                return;
            }
            let $guest = Guest::start().await;
            $body
        }
    };
}

mod called_off;
mod console;
mod disks;
mod forward;
mod growth;
mod hooks;
mod hostile;
mod jail;
mod links;
mod network;
mod properties;
mod seccomp;
mod volumes;
mod watchable;

agent_test!(a_container_exits_with_the_code_of_its_process, |guest| {
    guest.run("c", &["sh", "-c", "exit 7"]).await;
    assert_eq!(guest.wait("c", "").await.expect("ended"), 7);
});

agent_test!(a_killed_container_exits_with_128_and_the_signal, |guest| {
    guest.run("c", &["sleep", "1000"]).await;
    guest.signal("c", "c", 9).await.expect("sent");
    assert_eq!(guest.wait("c", "").await.expect("ended"), 137);
});

agent_test!(stdout_and_stderr_are_kept_apart, |guest| {
    let mut streams = guest.run("c", &["sh", "-c", "echo out; echo err >&2"]).await;
    assert_eq!(streams.output().await, b"out\n");
    assert_eq!(streams.errors().await, b"err\n");
});

agent_test!(stdin_reaches_its_end, |guest| {
    let mut streams = guest.run("c", &["cat"]).await;
    streams.input(b"in and out").await;
    assert_eq!(streams.output().await, b"in and out");
    assert_eq!(guest.wait("c", "c").await.expect("ended"), 0);
});

agent_test!(
    /// More than all buffers on the way hold.
    many_bytes_pass_unchanged_both_ways,
    |guest| {
        let bytes: Vec<u8> = (0u32..20_000_000).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        let mut streams = guest.run("c", &["cat"]).await;
        let (mut stdin, sent) = (streams.stdin, bytes.clone());
        let writing = tokio::spawn(async move {
            use tokio::io::AsyncWriteExt;
            stdin.write_all(&sent).await.expect("is read");
            stdin.shutdown().await.expect("can be ended");
        });
        let echoed = guest::read_to_end(&mut streams.stdout).await;
        writing.await.expect("no panic");
        assert!(echoed == bytes, "{} of {} bytes came back, or others", echoed.len(), bytes.len());
    }
);

agent_test!(output_of_a_descendant_goes_on_after_the_process, |guest| {
    guest.run("c", &["sleep", "1000"]).await;
    let script = "(cat /proc/self/stat > /dev/null; sleep 1; echo late) & echo early";
    let mut streams = guest.exec("c", "e", &["sh", "-c", script]).await.expect("added");
    assert_eq!(guest.wait("c", "e").await.expect("ended"), 0);
    assert_eq!(streams.output().await, b"early\nlate\n");
});

agent_test!(an_exec_has_its_own_code_and_streams, |guest| {
    guest.run("c", &["sleep", "1000"]).await;
    let mut streams = guest.exec("c", "e", &["sh", "-c", "cat; exit 3"]).await.expect("added");
    streams.input(b"for the exec").await;
    assert_eq!(streams.output().await, b"for the exec");
    assert_eq!(guest.wait("c", "e").await.expect("ended"), 3);
});

agent_test!(ten_execs_at_once_all_run, |guest| {
    guest.run("c", &["sleep", "1000"]).await;
    let guest = std::sync::Arc::new(guest);
    let execs: Vec<_> = (0..10)
        .map(|number| {
            let guest = guest.clone();
            tokio::spawn(async move {
                let (exec, script) = (format!("e{number}"), format!("echo {number}; exit {number}"));
                let mut streams = guest.exec("c", &exec, &["sh", "-c", &script]).await.expect("added");
                assert_eq!(streams.output().await, format!("{number}\n").as_bytes());
                assert_eq!(guest.wait("c", &exec).await.expect("ended"), number);
            })
        })
        .collect();
    for exec in execs {
        exec.await.expect("no panic");
    }
});

agent_test!(an_exec_into_an_ended_container_is_refused, |guest| {
    guest.run("c", &["true"]).await;
    guest.wait("c", "").await.expect("ended");
    let refusal = message(guest.exec("c", "e", &["true"]).await);
    assert_eq!(refusal, "Cannot run a process in container c: it is stopped");
});

agent_test!(an_exec_into_a_paused_container_is_refused, |guest| {
    guest.run("c", &["sleep", "1000"]).await;
    let pause = PauseContainerRequest { container_id: "c".into(), ..Default::default() };
    guest.agent.pause_container(guest::limit(), &pause).await.expect("paused");
    let refusal = message(guest.exec("c", "e", &["true"]).await);
    assert_eq!(refusal, "Cannot run a process in container c: it is paused");
});

agent_test!(
    /// A process that was half made in a frozen container would hang.
    execs_and_pauses_do_not_meet_halfway,
    |guest| {
        guest.run("c", &["sleep", "1000"]).await;
        let pause = PauseContainerRequest { container_id: "c".into(), ..Default::default() };
        let resume = ResumeContainerRequest { container_id: "c".into(), ..Default::default() };
        for number in 0..10 {
            let exec = format!("e{number}");
            let (added, paused) = tokio::join!(
                guest.exec("c", &exec, &["true"]),
                guest.agent.pause_container(guest::limit(), &pause)
            );
            paused.expect("paused");
            guest.agent.resume_container(guest::limit(), &resume).await.expect("resumed");
            match added {
                Ok(_) => assert_eq!(guest.wait("c", &exec).await.expect("ended"), 0),
                Err(error) => assert!(message::<()>(Err(error)).ends_with("it is paused")),
            }
        }
    }
);

agent_test!(containers_that_share_pids_see_each_other, |guest| {
    let share = async |id: &str, arguments: &[&str]| {
        let (streams, stdio) = guest.streams().await;
        let request = ContainerRequest {
            container_id: id.into(),
            oci: guest::as_message(&guest.spec(arguments)),
            stdio: MessageField::some(stdio),
            sandbox_pidns: true,
            ..Default::default()
        };
        guest.sandbox.create_container(guest::limit(), &request).await.expect("created");
        guest.start_container(id).await.expect("started");
        streams
    };
    let _pause = share("pause", &["sleep", "1234"]).await;
    // It is started before it has become the program.
    let look = "until grep -q sleep /proc/1/cmdline; do :; done; cat /proc/1/cmdline";
    let mut other = share("other", &["sh", "-c", look]).await;
    assert_eq!(other.output().await, b"sleep\x001234\x00");
});

agent_test!(a_paused_container_stands_still_until_resumed, |guest| {
    let mut streams = guest.run("c", &["cat"]).await;
    let pause = PauseContainerRequest { container_id: "c".into(), ..Default::default() };
    guest.agent.pause_container(guest::limit(), &pause).await.expect("paused");
    let events = std::fs::read_to_string(guest.cgroup.join("c/cgroup.events")).expect("is there");
    assert!(events.contains("frozen 1"), "{events}");
    streams.input(b"waits").await;
    let resume = ResumeContainerRequest { container_id: "c".into(), ..Default::default() };
    guest.agent.resume_container(guest::limit(), &resume).await.expect("resumed");
    assert_eq!(streams.output().await, b"waits");
});

agent_test!(a_paused_container_can_be_removed, |guest| {
    guest.run("c", &["sleep", "1000"]).await;
    let pause = PauseContainerRequest { container_id: "c".into(), ..Default::default() };
    guest.agent.pause_container(guest::limit(), &pause).await.expect("paused");
    guest.remove("c").await.expect("removed");
});

agent_test!(
    /// Except for the first process of the pid namespace, which the kernel spares what it does not handle.
    a_signal_to_nobody_in_particular_reaches_all,
    |guest| {
        guest.run("c", &["sleep", "1000"]).await;
        let arguments = ["sh", "-c", "trap 'exit 6' TERM; echo ready; while true; do sleep 0.1; done"];
        for exec in ["e", "f"] {
            guest.exec("c", exec, &arguments).await.expect("added").expect("ready").await;
        }
        guest.signal("c", "", 15).await.expect("sent");
        for exec in ["e", "f"] {
            assert_eq!(guest.wait("c", exec).await.expect("ended"), 6);
        }
    }
);

agent_test!(a_signal_to_an_exec_spares_the_container, |guest| {
    let mut container = guest.run("c", &["cat"]).await;
    guest.exec("c", "e", &["sleep", "1000"]).await.expect("added");
    guest.signal("c", "e", 15).await.expect("sent");
    assert_eq!(guest.wait("c", "e").await.expect("ended"), 143);
    container.input(b"alive").await;
    assert_eq!(container.output().await, b"alive");
});

agent_test!(an_executable_that_is_not_there_is_named, |guest| {
    let refusal = message(guest.create_with("c", &guest.spec(&["nope"]), false).await);
    assert_eq!(refusal, "exec: \"nope\": executable file not found in $PATH");
    let refusal = message(guest.create_with("c", &guest.spec(&["/bin/nope"]), false).await);
    assert_eq!(refusal, "exec: \"/bin/nope\": stat /bin/nope: no such file or directory");
    let refusal = message(guest.create_with("c", &guest.spec(&["data"]), false).await);
    assert_eq!(refusal, "exec: \"data\": permission denied");
});

agent_test!(an_exec_that_is_not_there_is_named, |guest| {
    guest.run("c", &["sleep", "1000"]).await;
    let refusal = message(guest.exec("c", "e", &["nope"]).await);
    assert_eq!(refusal, "exec: \"nope\": executable file not found in $PATH");
});

agent_test!(a_failed_creation_leaves_nothing, |guest| {
    message(guest.create_with("c", &guest.spec(&["nope"]), false).await);
    assert!(!guest.cgroup.join("c").exists());
    guest.run("c", &["true"]).await;
    assert_eq!(guest.wait("c", "").await.expect("ended"), 0);
});

agent_test!(the_cause_of_a_failed_mount_is_told, |guest| {
    let mut spec = guest.spec(&["true"]);
    spec["mounts"].as_array_mut().expect("a list").push(serde_json::json!({
        "destination": "/mnt", "type": "bind", "source": "/no/such/source", "options": ["rbind"],
    }));
    let refusal = message(guest.create_with("c", &spec, false).await);
    assert!(refusal.contains("/no/such/source"), "{refusal}");
});

agent_test!(a_removed_container_leaves_nothing, |guest| {
    let mut streams = guest.run("c", &["sh", "-c", "sleep 1000 & sleep 1000"]).await;
    guest.remove("c").await.expect("removed");
    assert!(!guest.cgroup.join("c").exists());
    assert_eq!(streams.output().await, b"");
    assert!(message(guest.wait("c", "").await).contains("no container c"));
    guest.run("c", &["true"]).await;
});

agent_test!(a_container_that_never_started_can_be_removed, |guest| {
    guest.create_with("c", &guest.spec(&["true"]), false).await.expect("created");
    guest.remove("c").await.expect("removed");
});

agent_test!(a_name_is_used_once, |guest| {
    guest.run("c", &["sleep", "1000"]).await;
    assert!(
        message(guest.create_with("c", &guest.spec(&["true"]), false).await)
            .contains("already is a container c")
    );
    guest.exec("c", "e", &["sleep", "1000"]).await.expect("added");
    assert!(message(guest.exec("c", "e", &["true"]).await).contains("already has a process e"));
});

agent_test!(every_process_has_its_own_session, |guest| {
    let script = "read -r pid name state ppid group session rest < /proc/self/stat; echo $pid $session";
    let mut container = guest.run("c", &["sh", "-c", &format!("{script}; exec sleep 1000")]).await;
    assert_eq!(container.expect("\n").await, "1 1\n");
    let mut exec = guest.exec("c", "e", &["sh", "-c", script]).await.expect("added");
    let line = String::from_utf8(exec.output().await).expect("is text");
    let (pid, session) = line.trim().split_once(' ').expect("two numbers");
    assert_eq!(pid, session);
});

agent_test!(a_terminal_has_the_size_that_it_is_given, |guest| {
    let mut spec = guest.spec(&["sh", "-c", "stty size; read line; stty size"]);
    spec["process"]["consoleSize"] = serde_json::json!({ "height": 24, "width": 80 });
    let mut streams = guest.create_with("c", &spec, true).await.expect("created");
    guest.start_container("c").await.expect("started");
    streams.expect("24 80").await;
    guest.resize("c", "c", 50, 132).await.expect("resized");
    use tokio::io::AsyncWriteExt;
    streams.stdin.write_all(b"\n").await.expect("is read");
    streams.expect("50 132").await;
    assert_eq!(guest.wait("c", "").await.expect("ended"), 0);
});

agent_test!(control_c_interrupts_what_runs_in_a_terminal, |guest| {
    guest.run("c", &["sleep", "1000"]).await;
    let arguments =
        ["sh", "-c", "trap 'echo caught; exit 4' INT; echo ready; while true; do sleep 0.1; done"];
    let mut streams = guest.exec_with("c", "e", &process(&arguments), true).await.expect("added");
    streams.expect("ready").await;
    use tokio::io::AsyncWriteExt;
    streams.stdin.write_all(b"\x03").await.expect("is read");
    streams.expect("caught").await;
    assert_eq!(guest.wait("c", "e").await.expect("ended"), 4);
});

agent_test!(a_process_without_a_terminal_cannot_be_resized, |guest| {
    guest.run("c", &["sleep", "1000"]).await;
    assert!(message(guest.resize("c", "c", 1, 1).await).contains("no terminal"));
});

agent_test!(a_process_dies_of_a_broken_pipe, |guest| {
    let mut streams = guest.run("c", &["sh", "-c", "cat /dev/zero | head -c 1 | wc -c"]).await;
    assert_eq!(streams.output().await, b"1\n");
    assert_eq!(guest.wait("c", "").await.expect("ended"), 0);
});

agent_test!(
    /// The agent loads its own helper at fixed addresses; that must not reach the workload.
    the_workloads_addresses_are_random,
    |guest| {
        let mut streams = guest.run("c", &["cat", "/proc/self/personality"]).await;
        assert_eq!(streams.output().await, b"00000000\n");
    }
);

agent_test!(user_and_working_folder_are_the_processs, |guest| {
    let mut spec = guest.spec(&["sh", "-c", "id -u; id -g; id -G; pwd"]);
    spec["process"]["user"] = serde_json::json!({ "uid": 1000, "gid": 1001, "additionalGids": [1002] });
    spec["process"]["cwd"] = "/tmp".into();
    let mut streams = guest.create_with("c", &spec, false).await.expect("created");
    guest.start_container("c").await.expect("started");
    assert_eq!(streams.output().await, b"1000\n1001\n1001 1002\n/tmp\n");
});

agent_test!(the_home_is_that_of_the_user_in_the_containers_list, |guest| {
    let users = "root:x:0:0::/root:/bin/sh\nbob:x:1000:1000::/home/bob:/bin/sh\n";
    std::fs::create_dir(guest.folder.path().join("rootfs/etc")).expect("a folder");
    std::fs::write(guest.folder.path().join("rootfs/etc/passwd"), users).expect("a file");
    let mut spec = guest.spec(&["sh", "-c", "echo $HOME"]);
    spec["process"]["user"] = serde_json::json!({ "uid": 1000, "gid": 1000 });
    let mut streams = guest.create_with("c", &spec, false).await.expect("created");
    guest.start_container("c").await.expect("started");
    assert_eq!(streams.output().await, b"/home/bob\n");
});

agent_test!(a_missing_working_folder_is_made, |guest| {
    let mut spec = guest.spec(&["pwd"]);
    spec["process"]["cwd"] = "/srv/app".into();
    let mut streams = guest.create_with("c", &spec, false).await.expect("created");
    guest.start_container("c").await.expect("started");
    assert_eq!(streams.output().await, b"/srv/app\n");
});

agent_test!(a_missing_root_is_named, |guest| {
    let mut spec = guest.spec(&["true"]);
    spec["root"]["path"] = "/no/such/root".into();
    let refusal = message(guest.create_with("c", &spec, false).await);
    assert!(refusal.starts_with("The container's root file system /no/such/root is not there"), "{refusal}");
});

agent_test!(processes_are_listed_with_their_names, |guest| {
    guest.run("c", &["sleep", "1000"]).await;
    guest.exec("c", "e", &["sleep", "1000"]).await.expect("added");
    let request = PidsRequest { container_id: "c".into(), ..Default::default() };
    let pids = guest.sandbox.pids(guest::limit(), &request).await.expect("listed").pids;
    let mut names: Vec<_> = pids.iter().map(|info| info.exec_id.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["", "e"]);
});

agent_test!(statistics_are_there, |guest| {
    guest.run("c", &["sleep", "1000"]).await;
    let request = StatsRequest { container_id: "c".into(), ..Default::default() };
    let stats = guest.sandbox.stats(guest::limit(), &request).await.expect("measured");
    assert!(stats.cpu.is_some() && stats.memory.is_some() && stats.pids.is_some());
    assert!(stats.network.iter().any(|interface| interface.name == "lo"));
});

agent_test!(a_foreign_runtime_polls_the_streams, |guest| {
    let spec = guest.spec(&["sh", "-c", "cat; echo err >&2"]);
    let request = CreateContainerRequest {
        container_id: "c".into(),
        OCI: guest::as_message(&spec),
        ..Default::default()
    };
    guest.agent.create_container(guest::limit(), &request).await.expect("created");
    guest.start_container("c").await.expect("started");
    let write =
        WriteStreamRequest { container_id: "c".into(), data: b"polled".to_vec(), ..Default::default() };
    assert_eq!(guest.agent.write_stdin(guest::limit(), &write).await.expect("written").len, 6);
    let close = CloseStdinRequest { container_id: "c".into(), ..Default::default() };
    guest.agent.close_stdin(guest::limit(), &close).await.expect("closed");
    let read = ReadStreamRequest { container_id: "c".into(), len: 100, ..Default::default() };
    assert_eq!(guest.agent.read_stdout(guest::limit(), &read).await.expect("read").data, b"polled");
    assert_eq!(guest.agent.read_stderr(guest::limit(), &read).await.expect("read").data, b"err\n");
    assert_eq!(message(guest.agent.read_stdout(guest::limit(), &read).await), "End of stdout");
    assert_eq!(guest.wait("c", "").await.expect("ended"), 0);
});

agent_test!(storages_are_mounted_and_unmounted_with_their_container, |guest| {
    let target = guest.folder.path().join("volume");
    let storage = Storage {
        driver: "ephemeral".into(),
        source: "tmpfs".into(),
        fstype: "tmpfs".into(),
        options: vec!["size=1m".into(), "nodev".into()],
        mount_point: target.to_str().expect("is text").into(),
        ..Default::default()
    };
    let mut spec = guest.spec(&["cat", "/proc/mounts"]);
    spec["mounts"].as_array_mut().expect("a list").push(serde_json::json!({
        "destination": "/mnt", "type": "bind", "source": target, "options": ["rbind"],
    }));
    let (mut streams, stdio) = guest.streams().await;
    let request = ContainerRequest {
        container_id: "c".into(),
        oci: guest::as_message(&spec),
        storages: vec![storage],
        stdio: MessageField::some(stdio),
        ..Default::default()
    };
    guest.sandbox.create_container(guest::limit(), &request).await.expect("created");
    guest.start_container("c").await.expect("started");
    let mounts = String::from_utf8(streams.output().await).expect("is text");
    assert!(mounts.contains("tmpfs /mnt tmpfs rw,nodev,relatime,size=1024k"), "{mounts}");
    guest.remove("c").await.expect("removed");
});

agent_test!(containers_share_the_memory_that_both_name, |guest| {
    let target = guest.folder.path().join("memory");
    let storage = Storage {
        driver: "ephemeral".into(),
        source: "shm".into(),
        mount_point: target.to_str().expect("is text").into(),
        ..Default::default()
    };
    for (id, line) in
        [("first", "echo shared > /mnt/file"), ("second", "cat /mnt/file"), ("third", "ls /mnt")]
    {
        let mut spec = guest.spec(&["sh", "-c", line]);
        spec["mounts"].as_array_mut().expect("a list").push(serde_json::json!({
            "destination": "/mnt", "type": "bind", "source": target, "options": ["rbind"],
        }));
        let (mut streams, stdio) = guest.streams().await;
        let request = ContainerRequest {
            container_id: id.into(),
            oci: guest::as_message(&spec),
            storages: vec![storage.clone()],
            stdio: MessageField::some(stdio),
            ..Default::default()
        };
        guest.sandbox.create_container(guest::limit(), &request).await.expect("created");
        guest.start_container(id).await.expect("started");
        let expected = if id == "second" { "shared\n" } else { "" };
        assert_eq!(String::from_utf8(streams.output().await).expect("is text"), expected);
        guest.wait(id, "").await.expect("ended");
        match id {
            "first" => {}
            // The memory goes with the last one.
            "second" => {
                guest.remove("first").await.expect("removed");
                guest.remove("second").await.expect("removed");
            }
            _ => guest.remove(id).await.expect("removed"),
        }
    }
});

agent_test!(a_change_of_limits_may_tell_the_device_rules_again, |guest| {
    // A regression: containerd's CRI does, and was refused.
    let rule = serde_json::json!({ "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw" });
    let mut spec = guest.spec(&["sleep", "1000"]);
    spec["linux"]["resources"]["devices"] = serde_json::json!([rule]);
    let request =
        ContainerRequest { container_id: "c".into(), oci: guest::as_message(&spec), ..Default::default() };
    guest.sandbox.create_container(guest::limit(), &request).await.expect("created");
    let rules = request.oci.Linux.Resources.Devices.clone();
    let resources = LinuxResources { Devices: rules, ..Default::default() };
    let mut update = UpdateContainerRequest {
        container_id: "c".into(),
        resources: MessageField::some(resources),
        ..Default::default()
    };
    guest.agent.update_container(guest::limit(), &update).await.expect("updated");
    update.resources.mut_or_insert_default().Devices[0].Access = "rwm".into();
    let refusal = message(guest.agent.update_container(guest::limit(), &update).await);
    assert!(refusal.contains("device rules"), "{refusal}");
    guest.remove("c").await.expect("removed");
});

agent_test!(a_method_that_is_not_there_is_named, |guest| {
    let refusal = message(guest.agent.set_policy(guest::limit(), &SetPolicyRequest::default()).await);
    assert_eq!(refusal, "grpc.AgentService/SetPolicy is not implemented by this agent yet");
});

agent_test!(the_hosts_swap_is_not_the_agents, |guest| {
    let request = AddSwapRequest { PCIPath: vec![2, 0], ..Default::default() };
    let refusal = message(guest.agent.add_swap(guest::limit(), &request).await);
    assert!(refusal.starts_with("Swap belongs to the host"), "{refusal}");
    let request = AddSwapRequest { PCIPath: vec![2, 32], ..Default::default() };
    let refusal = message(guest.agent.add_swap(guest::limit(), &request).await);
    assert!(refusal.contains("slots on the PCI bus"), "{refusal}");
    let request = AddSwapPathRequest { path: "/proc/version".into(), ..Default::default() };
    let refusal = message(guest.agent.add_swap_path(guest::limit(), &request).await);
    assert!(refusal.starts_with("Swap belongs to the host"), "{refusal}");
});

agent_test!(the_agent_describes_itself, |guest| {
    let details = guest.agent.get_guest_details(guest::limit(), &GuestDetailsRequest::default()).await;
    let agent = details.expect("told").agent_details.unwrap_or_default();
    assert_eq!(agent.version, env!("CARGO_PKG_VERSION"));
    assert!(!agent.init_daemon);
});

agent_test!(the_agent_ends_when_told_and_takes_its_containers_along, |guest| {
    let mut streams = guest.run("c", &["sleep", "1000"]).await;
    let mut guest = guest;
    guest.terminate();
    assert_eq!(streams.output().await, b"");
    assert!(guest.ended().success());
    assert!(!guest.cgroup.join("c").exists());
});
