//! Two sandboxes on one host do not see each other, nor the host.

use std::fs;

use kata_e2e::{kata_test, test};

#[test]
fn processes_of_another_sandbox_are_not_seen() {
    test(|containerd| {
        let one = containerd.container().command(["/bin/sleep", "1111"]).start();
        let two = containerd.container().command(["/bin/sleep", "2222"]).start();
        let (first, second) = (one.shell("ps -o args"), two.shell("ps -o args"));
        assert!(first.contains("1111") && !first.contains("2222"), "{first}");
        assert!(second.contains("2222") && !second.contains("1111"), "{second}");
    });
}

#[test]
fn files_of_another_sandbox_are_not_seen() {
    test(|containerd| {
        let one = containerd.container().command(["/bin/sleep", "1000"]).start();
        let two = containerd.container().command(["/bin/sleep", "1000"]).start();
        let _ = one.shell("echo secret > /secret; echo secret > /dev/shm/secret");
        assert_eq!(two.shell("ls /secret /dev/shm/secret 2>/dev/null; true"), "");
    });
}

#[test]
fn the_end_of_one_sandbox_does_not_touch_the_other() {
    test(|containerd| {
        let one = containerd.container().command(["/bin/sleep", "1000"]).start();
        let two = containerd.container().command(["/bin/sleep", "1000"]).start();
        one.remove();
        assert_eq!(two.shell("echo still here"), "still here");
    });
}

#[test]
fn a_container_runs_on_a_kernel_of_its_own() {
    kata_test(|containerd| {
        let boot_id = "/proc/sys/kernel/random/boot_id";
        let one = containerd.container().command(["/bin/cat", boot_id]).run().ok().text();
        let two = containerd.container().command(["/bin/cat", boot_id]).run().ok().text();
        assert_ne!(one, two);
        assert_ne!(one, fs::read_to_string(boot_id).unwrap().trim());
    });
}

#[test]
fn only_shared_files_can_be_reached_from_the_guest() {
    kata_test(|containerd| {
        let secret = containerd.directory().join("host-secret");
        fs::write(&secret, "of the host").unwrap();
        let line = format!("cat {}; find / -xdev -name host-secret", secret.display());
        let run = containerd.container().shell(&line).run().ok();
        assert_eq!(run.text(), "");
    });
}

#[test]
fn the_kernels_settings_are_the_sandboxs_own() {
    kata_test(|containerd| {
        let pid_max = "/proc/sys/kernel/pid_max";
        let before = fs::read_to_string(pid_max).unwrap();
        let run = containerd
            .container()
            .option("--privileged")
            .shell(&format!("echo 12345 > {pid_max}; cat {pid_max}"));
        assert_eq!(run.run().ok().text(), "12345");
        assert_eq!(fs::read_to_string(pid_max).unwrap(), before);
    });
}
