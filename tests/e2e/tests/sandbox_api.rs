//! containerd's Sandbox API: a pod's VM by itself, and containers in it, without a pause container.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kata_e2e::proto::{DnsConfig, LinuxPodSandboxConfig, PodSandboxConfig};
use kata_e2e::{Containerd, Sandbox, eventually, kata_test};
use nix::mount::{MntFlags, umount2};

const QEMU: &str = "qemu-system-x86_64";
const SHIM: &str = "containerd-shim-kata-v2";

fn no_process_is_left(containerd: &Containerd) {
    eventually("no process is left", Duration::from_secs(20), || containerd.processes().is_empty());
}

#[test]
fn a_sandbox_lives_from_creation_to_shutdown_with_two_containers_in_it() {
    kata_test(|containerd| {
        let sandbox = containerd.sandbox();
        assert!(sandbox.ping().is_err_and(|words| words.contains("has not been created")));
        sandbox.create(None).unwrap();
        assert!(sandbox.begin("true").is_err_and(|words| words.contains("has not been started")));
        let pid = sandbox.start().unwrap();
        assert_eq!(containerd.processes_of(QEMU)[0].pid, i32::try_from(pid).unwrap());
        sandbox.ping().unwrap();
        assert_eq!(sandbox.platform(), ("linux".to_owned(), "amd64".to_owned()));
        let status = sandbox.status();
        assert_eq!((status.state.as_str(), status.pid), ("SANDBOX_READY", pid));
        assert!(status.info["vmm"] == "qemu" && status.info.contains_key("agent_version"), "{status:?}");
        let first = sandbox.begin("exec sleep 1000").unwrap();
        assert_eq!(sandbox.run("echo here").unwrap(), "here\n");
        let (kind, size) = sandbox.metrics().unwrap();
        assert!(kind.starts_with("io.containerd.cgroups.v") && size > 0, "{kind}");
        first.kill().unwrap();
        assert_eq!((first.wait(), first.delete().unwrap()), (137, 137));
        sandbox.ping().unwrap();
        sandbox.stop().unwrap();
        sandbox.stop().unwrap();
        assert_eq!(sandbox.status().state, "SANDBOX_NOTREADY");
        assert!(containerd.processes_of(QEMU).is_empty());
        sandbox.shutdown().unwrap();
        no_process_is_left(containerd);
    });
}

#[test]
fn what_the_containers_share_stays_when_the_first_has_gone() {
    kata_test(|containerd| {
        let sandbox = containerd.sandbox();
        sandbox.create(None).unwrap();
        sandbox.start().unwrap();
        assert_eq!(sandbox.run("touch /dev/mqueue/shared; echo done").unwrap(), "done\n");
        assert_eq!(sandbox.run("ls /dev/mqueue").unwrap(), "shared\n");
        sandbox.stop().unwrap();
        sandbox.shutdown().unwrap();
        no_process_is_left(containerd);
    });
}

/// With a network namespace, which is removed at the end.
fn with_netns(containerd: &Containerd, body: impl FnOnce(&Path, &Sandbox<'_>)) {
    let netns = |verb: &str| {
        let done = Command::new("ip").args(["netns", verb, "pod"]).status();
        assert!(done.is_ok_and(|status| status.success()), "ip netns {verb}");
    };
    netns("add");
    let sandbox = containerd.sandbox();
    body(Path::new("/run/netns/pod"), &sandbox);
    sandbox.stop().expect("can be stopped");
    sandbox.shutdown().expect("can be shut down");
    no_process_is_left(containerd);
    netns("del");
    // `ip` mounts the folder on itself.
    umount2("/run/netns", MntFlags::MNT_DETACH).expect("is a mount");
    fs::remove_dir("/run/netns").expect("is empty");
}

#[test]
fn the_vm_is_in_the_network_namespace_that_the_request_names() {
    kata_test(|containerd| {
        with_netns(containerd, |path, sandbox| {
            sandbox.create(Some(path)).unwrap();
            let pid = sandbox.start().unwrap();
            let inode = |path: &Path| fs::metadata(path).unwrap().ino();
            assert_eq!(inode(Path::new(&format!("/proc/{pid}/ns/net"))), inode(path));
        });
    });
}

#[test]
fn a_pods_containers_have_its_name_its_resolver_and_its_settings() {
    kata_test(|containerd| {
        with_netns(containerd, |path, sandbox| {
            let dns = DnsConfig {
                servers: vec!["10.0.0.10".to_owned()],
                searches: vec!["a.local".to_owned(), "local".to_owned()],
                options: vec!["ndots:5".to_owned()],
            };
            let sysctls = [("net.core.somaxconn", "123"), ("kernel.shm_rmid_forced", "1")];
            let sysctls = sysctls.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
            let config = PodSandboxConfig {
                hostname: "web".to_owned(),
                dns_config: Some(dns),
                linux: Some(LinuxPodSandboxConfig { sysctls, ..Default::default() }),
                ..Default::default()
            };
            sandbox.create_pod(path, &config).unwrap();
            sandbox.start().unwrap();
            assert_eq!(sandbox.run("hostname; cat /etc/hostname").unwrap(), "web\nweb\n");
            let resolver = "search a.local local\nnameserver 10.0.0.10\noptions ndots:5\n";
            assert_eq!(sandbox.run("cat /etc/resolv.conf").unwrap(), resolver);
            assert_eq!(sandbox.run("cat /etc/hosts").unwrap(), fs::read_to_string("/etc/hosts").unwrap());
            let settings = "cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shm_rmid_forced";
            assert_eq!(sandbox.run(settings).unwrap(), "123\n1\n");
            // They are on the host, in memory of their own.
            let fills =
                "dd if=/dev/zero of=/etc/hostname bs=64k count=64 2>&1 | grep -o 'No space left on device'";
            assert_eq!(sandbox.run(fills).unwrap(), "No space left on device\n");
        });
    });
}

#[test]
fn a_pods_containers_share_memory() {
    kata_test(|containerd| {
        with_netns(containerd, |path, sandbox| {
            sandbox.create_pod(path, &PodSandboxConfig::default()).unwrap();
            sandbox.start().unwrap();
            assert_eq!(sandbox.run("echo shared >/dev/shm/it; echo done").unwrap(), "done\n");
            assert_eq!(sandbox.run("cat /dev/shm/it").unwrap(), "shared\n");
            assert_eq!(
                sandbox.run("df -m /dev/shm | tail -n 1 | awk '{ print $1, $2 }'").unwrap(),
                "shm 64\n"
            );
        });
    });
}

#[test]
fn a_killed_vm_ends_the_sandbox_and_its_containers() {
    kata_test(|containerd| {
        let sandbox = containerd.sandbox();
        sandbox.create(None).unwrap();
        sandbox.start().unwrap();
        let container = sandbox.begin("exec sleep 1000").unwrap();
        let exit = sandbox.wait_while(|| containerd.processes_of(QEMU)[0].kill());
        assert_eq!(exit, 137);
        let status = sandbox.status();
        assert_eq!(status.state, "SANDBOX_NOTREADY");
        assert!(status.info["reason"].contains("signal 9") && status.exited_at.is_some(), "{status:?}");
        assert!(sandbox.ping().is_err_and(|words| words.contains("has ended")));
        assert_eq!((container.wait(), container.delete().unwrap()), (137, 137));
        sandbox.stop().unwrap();
        sandbox.shutdown().unwrap();
        no_process_is_left(containerd);
    });
}

#[test]
fn a_stop_ends_running_containers_which_can_be_deleted_after_it() {
    kata_test(|containerd| {
        let sandbox = containerd.sandbox();
        sandbox.create(None).unwrap();
        sandbox.start().unwrap();
        let container = sandbox.begin("exec sleep 1000").unwrap();
        sandbox.stop().unwrap();
        assert_eq!((container.wait(), container.delete().unwrap()), (137, 137));
        sandbox.shutdown().unwrap();
        no_process_is_left(containerd);
    });
}

#[test]
fn a_killed_shim_is_cleaned_up_by_delete() {
    kata_test(|containerd| {
        let sandbox = containerd.sandbox();
        sandbox.create(None).unwrap();
        sandbox.start().unwrap();
        let _running = sandbox.begin("exec sleep 1000").unwrap();
        containerd.processes_of(SHIM)[0].kill();
        sandbox.delete_by_action();
        no_process_is_left(containerd);
    });
}
