//! What the containers of a pod share, and what they do not: namespaces, `/dev/shm`, host name, files of the kubelet.

use std::fs;
use std::time::Duration;

use kata_e2e::proto::{DnsConfig, Mount, NamespaceMode};
use kata_e2e::{cri_test, eventually};

#[test]
fn processes_are_each_containers_own() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let [first, second] = ["first", "second"].map(|name| pod.container(name).idle().start());
        assert_eq!(first.shell("cat /proc/1/comm"), "sh");
        first.shell("sleep 987 >/dev/null 2>&1 &");
        assert_eq!(second.shell("pgrep -f '[s]leep 987' | wc -l"), "0");
    });
}

#[test]
fn processes_are_shared_if_the_pod_says_so() {
    cri_test(|cri| {
        let pod = cri.pod().namespaces(|options| options.pid = NamespaceMode::Pod.into()).run();
        let [first, second] = ["first", "second"].map(|name| pod.container(name).idle().start());
        let pids = |container: &kata_e2e::PodContainer<'_>| container.shell("readlink /proc/self/ns/pid");
        assert_eq!(pids(&first), pids(&second));
        first.shell("sleep 987 >/dev/null 2>&1 &");
        assert_eq!(second.shell("pkill -f '[s]leep 987'; pgrep -f '[s]leep 987' | wc -l"), "0");
        assert!(
            !second.shell("cat /proc/1/cmdline | tr '\\0' ' '").contains("ready"),
            "a workload is process 1"
        );
        // A container whose first process is not process 1 ends with that process.
        first.remove();
        assert_eq!(second.shell("echo alive"), "alive");
    });
}

#[test]
fn an_orphan_in_shared_processes_is_reaped() {
    cri_test(|cri| {
        let pod = cri.pod().namespaces(|options| options.pid = NamespaceMode::Pod.into()).run();
        let container = pod.container("main").idle().start();
        container.shell("(sleep 0.1 & ) ; sleep 1");
        assert_eq!(container.shell("ps -o stat,comm | grep '^Z' | wc -l"), "0");
    });
}

#[test]
fn shared_memory_is_the_pods() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let [first, second] = ["first", "second"].map(|name| pod.container(name).idle().start());
        first.shell("echo shared > /dev/shm/file");
        assert_eq!(second.shell("cat /dev/shm/file"), "shared");
        assert_eq!(second.shell("df -k /dev/shm | tail -1 | awk '{ print $1, $2 }'"), "shm 65536");
        let ipc = "readlink /proc/self/ns/ipc";
        assert_eq!(first.shell(ipc), second.shell(ipc));
    });
}

#[test]
fn shared_memory_outlives_the_container_that_wrote_it() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let first = pod.container("first").shell("echo left > /dev/shm/file").start();
        first.wait();
        first.remove();
        assert_eq!(pod.container("second").shell("cat /dev/shm/file").run().text(), "left");
    });
}

#[test]
fn pods_do_not_see_each_others_shared_memory() {
    cri_test(|cri| {
        let [one, other] = [cri.pod().run(), cri.pod().run()];
        assert_eq!(one.container("main").shell("echo x > /dev/shm/file").run().code, 0);
        assert_eq!(other.container("main").shell("ls /dev/shm").run().text(), "");
    });
}

#[test]
fn the_host_name_is_the_pods() {
    cri_test(|cri| {
        let pod = cri.pod().with(|config| config.hostname = "chosen".to_owned()).run();
        let ended = pod.container("main").shell("hostname; cat /etc/hostname; echo $HOSTNAME").run();
        assert_eq!(ended.text(), "chosen\nchosen\nchosen");
    });
}

#[test]
fn names_are_resolved_as_the_pod_says() {
    cri_test(|cri| {
        let dns = DnsConfig {
            servers: vec!["10.1.2.3".to_owned()],
            searches: vec!["a.test".to_owned(), "b.test".to_owned()],
            options: vec!["ndots:5".to_owned()],
        };
        let pod = cri.pod().with(|config| config.dns_config = Some(dns)).run();
        let ended = pod.container("main").shell("cat /etc/resolv.conf").run();
        assert_eq!(ended.text(), "search a.test b.test\nnameserver 10.1.2.3\noptions ndots:5");
    });
}

#[test]
fn a_hosts_file_of_the_kubelet_is_seen_and_written() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let hosts = cri.containerd.directory().join("hosts");
        fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
        let mount = |config: &mut kata_e2e::proto::ContainerConfig| {
            config.mounts.push(Mount {
                container_path: "/etc/hosts".to_owned(),
                host_path: hosts.to_string_lossy().into_owned(),
                ..Default::default()
            });
        };
        let first = pod.container("first").with(mount).idle().start();
        let second = pod.container("second").with(mount).idle().start();
        first.shell("echo 10.0.0.9 peer >> /etc/hosts");
        assert_eq!(fs::read_to_string(&hosts).unwrap(), "127.0.0.1 localhost\n10.0.0.9 peer\n");
        // A guest may know a file's size for a second.
        eventually("the other container sees it", Duration::from_secs(5), || {
            second.shell("cat /etc/hosts") == "127.0.0.1 localhost\n10.0.0.9 peer"
        });
    });
}

#[test]
fn sysctls_of_the_pod_are_set() {
    cri_test(|cri| {
        let pod = cri.pod().with(|config| {
            let linux = config.linux.get_or_insert_default();
            linux.sysctls.insert("kernel.shm_rmid_forced".to_owned(), "1".to_owned());
            linux.sysctls.insert("net.ipv4.ip_local_port_range".to_owned(), "2000 3000".to_owned());
        });
        let pod = pod.run();
        let line = "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_local_port_range";
        assert_eq!(pod.container("main").shell(line).run().text(), "1\n2000\t3000");
    });
}
