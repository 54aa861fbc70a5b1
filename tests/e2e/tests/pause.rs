//! A pod's pause container: as containerd sees it under runc, without anything of it in the guest.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use kata_e2e::proto::{NamespaceMode, PodSandboxState};
use kata_e2e::{Containerd, Cri, Pod, Recipe, cri_test, eventually, kata_cri_test, kata_test, test};
use serde_json::{Value, json};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn annotate(spec: &mut Value, kind: &str, sandbox: &str) {
    spec["annotations"] =
        json!({ "io.kubernetes.cri.container-type": kind, "io.kubernetes.cri.sandbox-id": sandbox });
}

/// A pod's sandbox whose program is `/pause`, which heeds SIGTERM.
fn pause<'c>(containerd: &'c Containerd, change: impl FnOnce(&mut Value)) -> Recipe<'c> {
    containerd.container().spec(|spec| {
        let program = Path::new(spec["root"]["path"].as_str().expect("a path")).join("pause");
        let script = "#!/bin/sh\ntrap 'exit 0' TERM\nwhile :; do sleep 1000 & wait; done\n";
        fs::write(&program, script).expect("the root is writable");
        fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("it is there");
        spec["process"]["args"] = json!(["/pause"]);
        let id = spec["hostname"].as_str().unwrap_or_default().to_owned();
        annotate(spec, "sandbox", &id);
        change(spec);
    })
}

/// A container of that sandbox, with a namespace that `path` leads to for each of these kinds.
fn member<'c>(containerd: &'c Containerd, sandbox: &str, kinds: &[&str]) -> Recipe<'c> {
    containerd.container().spec(|spec| {
        annotate(spec, "container", sandbox);
        spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
        let namespaces = spec["linux"]["namespaces"].as_array_mut().expect("a list");
        namespaces.retain(|namespace| !kinds.iter().any(|kind| namespace["type"] == *kind));
        namespaces.extend(kinds.iter().map(|kind| json!({ "type": kind, "path": "/proc/1/ns/of-the-host" })));
    })
}

#[test]
fn its_events_and_its_end_are_those_of_pause() {
    test(|containerd| {
        let events = containerd.events();
        for (signal, code) in [("SIGTERM", 0), ("SIGKILL", 137)] {
            let pod = pause(containerd, |_| {}).start();
            assert_eq!(pod.status(), "RUNNING");
            pod.signal("SIGHUP");
            eventually("the program heeds the signal, once it has got so far", PATIENCE, || {
                pod.task("kill", &["--signal", signal]).done();
                pod.status() == "STOPPED"
            });
            let exit = events.expect("/tasks/exit", pod.id(), PATIENCE);
            assert_eq!(exit.exit_status(), u64::try_from(code).unwrap());
            assert_eq!(pod.delete(), code);
        }
    });
}

#[test]
fn its_events_come_in_their_order() {
    test(|containerd| {
        let events = containerd.events();
        let pod = pause(containerd, |_| {}).start();
        pod.task("pause", &[]).ok().done();
        assert_eq!(pod.status(), "PAUSED");
        pod.task("resume", &[]).ok().done();
        pod.remove();
        let topics = events.topics_until("/tasks/delete", pod.id(), PATIENCE);
        let expected = [
            "/tasks/create",
            "/tasks/start",
            "/tasks/paused",
            "/tasks/resumed",
            "/tasks/exit",
            "/tasks/delete",
        ];
        assert_eq!(topics, expected);
    });
}

#[test]
fn it_dies_with_the_vm() {
    kata_test(|containerd| {
        let pod = pause(containerd, |_| {}).start();
        let events = containerd.events();
        containerd.processes_of("qemu-system-x86_64")[0].kill();
        assert_eq!(events.expect("/tasks/exit", pod.id(), PATIENCE).exit_status(), 137);
        assert_eq!(pod.delete(), 137);
    });
}

#[test]
fn nothing_of_it_is_in_the_share_and_its_files_need_not_be_there() {
    kata_test(|containerd| {
        let pod = pause(containerd, |spec| {
            let root = spec["root"]["path"].as_str().expect("a path").to_owned();
            fs::remove_file(Path::new(&root).join("pause")).expect("it is there");
        });
        let pod = pod.start();
        let share = format!("/run/kata-containers/shared/sandboxes/{}/rw/passthrough", pod.id());
        assert_eq!(fs::read_dir(share).into_iter().flatten().count(), 0);
        let listed = pod.task("ps", &[]).ok().text();
        let vmm = containerd.processes_of("qemu-system-x86_64")[0].pid;
        let processes: Vec<_> =
            listed.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(processes, [vmm.to_string()], "{listed}");
        pod.task("metrics", &[]).ok().done();
        pod.remove();
    });
}

#[test]
fn a_process_for_it_is_refused_with_the_reason() {
    kata_test(|containerd| {
        let pod = pause(containerd, |_| {}).start();
        pod.exec(["/bin/true"]).run().fails_because("no processes in the guest");
        assert_eq!(pod.status(), "RUNNING");
    });
}

#[test]
fn a_sandbox_that_runs_something_else_is_a_container_like_any_other() {
    kata_test(|containerd| {
        let pod = pause(containerd, |spec| spec["process"]["args"] = json!(["/bin/sleep", "1000"])).start();
        assert_eq!(pod.shell("cat /proc/1/comm"), "sleep");
    });
}

#[test]
fn its_hooks_run_on_the_host_at_their_moments() {
    kata_test(|containerd| {
        let log = containerd.directory().join("hooks");
        let names = ["prestart", "createRuntime", "poststart", "poststop"];
        let pod = pause(containerd, |spec| {
            for name in names {
                let line = format!("cat > /dev/null; echo {name} >> {}", log.display());
                spec["hooks"][name] = json!([{ "path": "/bin/sh", "args": ["sh", "-c", line] }]);
            }
        });
        let ran = || fs::read_to_string(&log).unwrap().lines().map(str::to_owned).collect::<Vec<_>>();
        let pod = pod.start();
        assert_eq!(ran(), names[..3]);
        pod.remove();
        assert_eq!(ran(), names);
    });
}

#[test]
fn its_user_and_cgroup_namespaces_are_its_members() {
    kata_test(|containerd| {
        let kinds = ["user", "cgroup", "ipc", "uts", "pid"];
        let pod = pause(containerd, |spec| {
            let ids = json!([{ "containerID": 0, "hostID": 0, "size": 1000 }]);
            spec["linux"]["uidMappings"] = ids.clone();
            spec["linux"]["gidMappings"] = ids;
            let namespaces = spec["linux"]["namespaces"].as_array_mut().expect("a list");
            namespaces.retain(|namespace| namespace["type"] != "cgroup");
            namespaces.extend(["user", "cgroup"].map(|kind| json!({ "type": kind })));
        });
        let pod = pod.start();
        let seen = "cd /proc/self/ns && for kind in user cgroup ipc uts pid mnt; do readlink $kind; done; cat ../uid_map";
        let members = [(); 2].map(|()| member(containerd, pod.id(), &kinds).start());
        let [first, second] = [members[0].shell(seen), members[1].shell(seen)];
        let same: Vec<bool> = first.lines().zip(second.lines()).map(|(one, other)| one == other).collect();
        assert_eq!(same, [true, true, true, true, true, false, true], "{first}\n{second}");
        assert_eq!(first.lines().last().unwrap().split_whitespace().collect::<Vec<_>>(), ["0", "0", "1000"]);
        for member in members {
            member.remove();
        }
    });
}

fn is_ready(cri: &Cri<'_>, pod: &Pod<'_>) -> bool {
    let listed = cri.pods().into_iter().find(|listed| listed.id == pod.id());
    listed.expect("it is listed").state() == PodSandboxState::SandboxReady
}

#[test]
fn no_program_of_it_runs_in_the_guest() {
    kata_cri_test(|cri| {
        let pod = cri.pod().namespaces(|options| options.pid = NamespaceMode::Node.into()).run();
        // These are all of the guest's.
        let commands = pod.container("main").idle().start().shell("cat /proc/[0-9]*/cmdline | tr '\\0' ' '");
        assert!(commands.contains("kata-agent") && !commands.contains("pause"), "{commands}");
    });
}

#[test]
fn process_1_of_shared_processes_is_nobodys_to_look_into() {
    kata_cri_test(|cri| {
        let pod = cri.pod().namespaces(|options| options.pid = NamespaceMode::Pod.into()).run();
        let container = pod.container("main").idle().start();
        let command = container.shell("tr '\\0' ' ' < /proc/1/cmdline");
        assert!(command.starts_with("kata-agent container hold "), "{command}");
        assert_ne!(container.exec_shell("ls /proc/1/root/ 2>/dev/null").code, 0);
    });
}

#[test]
fn an_empty_pod_lives_and_takes_containers_again() {
    cri_test(|cri| {
        let pod = cri.pod().namespaces(|options| options.pid = NamespaceMode::Pod.into()).run();
        let shared = "readlink /proc/self/ns/ipc /proc/self/ns/uts /proc/self/ns/pid; cat /proc/1/comm";
        let first = pod.container("first").idle().start();
        let before = first.shell(shared);
        first.shell("echo left > /dev/shm/file");
        first.remove();
        assert!(is_ready(cri, &pod));
        let second = pod.container("second").idle().start();
        assert_eq!(second.shell(shared), before);
        assert_eq!(second.shell("cat /dev/shm/file"), "left");
    });
}

#[test]
fn a_setting_that_the_kernel_refuses_fails_the_pod() {
    cri_test(|cri| {
        let pod = cri.pod().with(|config| {
            let linux = config.linux.get_or_insert_default();
            linux.sysctls.insert("kernel.shmmni".to_owned(), "many".to_owned());
        });
        let refused = pod.try_run().err().expect("there is no such number");
        assert!(refused.contains("shmmni"), "{refused}");
    });
}

#[test]
fn a_pod_whose_vm_has_died_is_not_ready() {
    kata_cri_test(|cri| {
        let pod = cri.pod().run();
        let container = pod.container("main").idle().start();
        cri.containerd.processes_of("qemu-system-x86_64")[0].kill();
        eventually("the pod is told as not ready", PATIENCE, || !is_ready(cri, &pod));
        container.wait();
        assert_eq!(container.ended().code, 137);
    });
}
