//! Pods through the Container Runtime Interface: their life, and that of their containers.

use kata_e2e::proto::{ContainerState, PodSandboxState};
use kata_e2e::{Pod, PodContainer, cri_test};

#[test]
fn a_pod_is_run_told_listed_stopped_and_removed() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        assert_eq!(pod.status().state(), PodSandboxState::SandboxReady);
        let listed: Vec<_> = cri.pods().into_iter().map(|pod| pod.id).collect();
        assert_eq!(listed, [pod.id()]);
        pod.stop();
        assert_eq!(pod.status().state(), PodSandboxState::SandboxNotready);
        pod.remove();
        assert!(cri.pods().is_empty(), "{:?}", cri.pods());
    });
}

#[test]
fn a_pod_may_be_stopped_again() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        pod.stop();
        pod.stop();
        assert_eq!(pod.status().state(), PodSandboxState::SandboxNotready);
    });
}

#[test]
fn a_container_runs_to_its_end_in_a_pod() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let ended = pod.container("main").shell("echo hello; echo trouble >&2; exit 7").run();
        assert_eq!((ended.code, ended.reason.as_str(), ended.text().as_str()), (7, "Error", "hello"));
        let told: Vec<_> = ended.log.iter().filter(|line| line.stream == "stderr").collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].text, "trouble");
    });
}

#[test]
fn a_container_that_is_killed_has_the_signals_exit_code() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let container = pod.container("main").shell("kill -KILL $$; sleep 1000").start();
        // The first process of a PID namespace cannot kill itself: only from outside.
        container.stop(0);
        assert_eq!(container.ended().code, 137);
    });
}

#[test]
fn a_container_that_heeds_its_signal_stops_in_order() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let container = pod.container("main").idle().start();
        container.wait_for_line("ready");
        container.stop(60);
        let ended = container.ended();
        assert_eq!((ended.code, ended.reason.as_str()), (0, "Completed"));
    });
}

#[test]
fn two_containers_of_a_pod_live_side_by_side() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let [first, second] = ["first", "second"].map(|name| pod.container(name).idle().start());
        first.shell("touch /here");
        assert_eq!(second.shell("ls /here 2>&1; echo alive"), "ls: /here: No such file or directory\nalive");
        first.stop(30);
        assert_eq!(second.status().state(), ContainerState::ContainerRunning);
        assert_eq!(second.shell("echo alive"), "alive");
    });
}

#[test]
fn ten_containers_of_a_pod_live_side_by_side() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let names: Vec<String> = (0..10).map(|number| format!("container-{number}")).collect();
        let all: Vec<_> = names.iter().map(|name| pod.container(name).idle().start()).collect();
        for (name, container) in names.iter().zip(&all) {
            assert_eq!(container.shell(&format!("echo {name}")), *name);
        }
        assert_eq!(cri.containers().len(), 10);
    });
}

#[test]
fn a_container_is_removed_and_made_anew_in_a_living_pod() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let other = pod.container("other").idle().start();
        for attempt in 0..3 {
            let again = pod.container("main").with(|config| {
                config.metadata.as_mut().unwrap().attempt = attempt;
                config.log_path = format!("main-{attempt}.log");
            });
            let container = again.shell("ls /left; touch /left; echo anew").start();
            container.wait();
            assert_eq!(container.ended().text(), "anew");
            container.remove();
        }
        assert_eq!(other.shell("echo alive"), "alive");
    });
}

/// Three containers, removed in this order.
fn remove_in_order(pod: &Pod<'_>, order: [usize; 3]) {
    let mut all: Vec<Option<PodContainer<'_>>> = (0..3)
        .map(|number| Some(pod.container(&format!("container-{number}-{order:?}")).idle().start()))
        .collect();
    for number in order {
        all[number].take().expect("each is removed once").remove();
        for left in all.iter().flatten() {
            assert_eq!(left.shell("echo alive"), "alive");
        }
    }
}

#[test]
fn containers_are_removed_in_any_order() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            remove_in_order(&pod, order);
        }
        assert_eq!(pod.status().state(), PodSandboxState::SandboxReady);
    });
}

#[test]
fn a_pod_is_stopped_and_removed_with_its_running_containers() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let container = pod.container("main").idle().start();
        pod.stop();
        assert_eq!(container.status().state(), ContainerState::ContainerExited);
        pod.remove();
        assert!(cri.containers().is_empty(), "{:?}", cri.containers());
    });
}

#[test]
fn an_init_container_is_done_before_the_next_one_starts() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let volume = cri.containerd.directory();
        let mount = |config: &mut kata_e2e::proto::ContainerConfig| {
            config.mounts.push(kata_e2e::proto::Mount {
                container_path: "/volume".to_owned(),
                host_path: volume.to_string_lossy().into_owned(),
                ..Default::default()
            });
        };
        let init = pod.container("init").with(mount).shell("sleep 1; echo prepared > /volume/state").run();
        assert_eq!(init.code, 0);
        let main = pod.container("main").with(mount).shell("cat /volume/state").run();
        assert_eq!(main.text(), "prepared");
    });
}

#[test]
fn a_container_that_was_created_and_never_started_is_removed() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let container = pod.container("main").idle().create();
        assert_eq!(container.status().state(), ContainerState::ContainerCreated);
        container.remove();
        assert!(cri.containers().is_empty());
    });
}

#[test]
fn a_program_that_is_not_there_is_told_as_the_cause() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let container = pod.container("main").command(["/not/there"]).create();
        let cause = container.try_start().unwrap_err();
        assert!(cause.contains("/not/there") && cause.contains("no such file"), "{cause}");
        assert_eq!(pod.container("second").shell("echo alive").run().text(), "alive");
    });
}

#[test]
fn two_pods_live_side_by_side() {
    cri_test(|cri| {
        let [first, second] = [cri.pod().run(), cri.pod().run()];
        let of_first = first.container("main").idle().start();
        let of_second = second.container("main").idle().start();
        assert_eq!(of_first.shell("hostname"), "pod-0");
        assert_eq!(of_second.shell("hostname"), "pod-1");
        first.remove();
        assert_eq!(of_second.shell("echo alive"), "alive");
    });
}

/// A kubelet says it whenever its node is given addresses.
#[test]
fn pods_live_on_when_the_nodes_addresses_are_told() {
    cri_test(|cri| {
        assert_eq!(cri.version().runtime_api_version, "v1");
        let pod = cri.pod().run();
        let container = pod.container("main").idle().start();
        cri.update_runtime_config("10.88.0.0/16");
        assert_eq!(container.shell("echo alive"), "alive");
    });
}
