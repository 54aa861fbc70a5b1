//! containerd's Sandbox API: a pod's VM by itself, and containers in it, without a pause container.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kata_e2e::{Containerd, eventually, kata_test};
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

#[test]
fn the_vm_is_in_the_network_namespace_that_the_request_names() {
    kata_test(|containerd| {
        let netns =
            |verb: &str| assert!(Command::new("ip").args(["netns", verb, "pod"]).status().unwrap().success());
        netns("add");
        let path = Path::new("/run/netns/pod");
        let sandbox = containerd.sandbox();
        sandbox.create(Some(path)).unwrap();
        let pid = sandbox.start().unwrap();
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(Path::new(&format!("/proc/{pid}/ns/net"))), inode(path));
        sandbox.stop().unwrap();
        sandbox.shutdown().unwrap();
        no_process_is_left(containerd);
        netns("del");
        // `ip` mounts the folder on itself.
        umount2("/run/netns", MntFlags::MNT_DETACH).unwrap();
        fs::remove_dir("/run/netns").unwrap();
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
