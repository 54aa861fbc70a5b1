//! What cannot work fails with an error that names the cause, and leaves nothing.

use std::fs;
use std::path::PathBuf;

use kata_e2e::{Containerd, Finished, kata_test, test};

/// Starts a container after the configuration's `key` was set to `value`.
fn start_with(containerd: &Containerd, key: &str, value: &str) -> Finished {
    containerd.reconfigure(|text| with_key(&text, key, value));
    containerd.container().command(["/bin/true"]).try_start()
}

/// The configuration with the first line that sets `key`, also as a comment, replaced.
fn with_key(text: &str, key: &str, value: &str) -> String {
    let mut found = false;
    let lines = text.lines().map(|line| {
        let name = line.trim_start_matches(['#', ' ']).split('=').next().unwrap_or_default().trim();
        if name == key && line.contains('=') && !found {
            found = true;
            format!("{key} = {value}")
        } else {
            line.to_owned()
        }
    });
    let changed = lines.collect::<Vec<_>>().join("\n");
    assert!(found, "{key} is not in the configuration:\n{text}");
    changed
}

fn assert_nothing_runs(containerd: &Containerd) {
    assert_eq!(containerd.ctr(["tasks", "ls", "-q"]).ok().text(), "");
}

#[test]
fn a_missing_kernel_is_named() {
    kata_test(|containerd| {
        start_with(containerd, "kernel", "\"/no/such/vmlinux\"").fails_because("/no/such/vmlinux");
        assert_nothing_runs(containerd);
    });
}

#[test]
fn a_missing_image_is_named() {
    kata_test(|containerd| {
        start_with(containerd, "initrd", "\"/no/such/initrd\"").fails_because("/no/such/initrd");
        assert_nothing_runs(containerd);
    });
}

#[test]
fn a_missing_qemu_is_named() {
    kata_test(|containerd| {
        start_with(containerd, "path", "\"/no/such/qemu\"").fails_because("/no/such/qemu");
        assert_nothing_runs(containerd);
    });
}

#[test]
fn a_missing_virtiofsd_is_named() {
    kata_test(|containerd| {
        let failed = start_with(containerd, "virtio_fs_daemon", "\"/no/such/virtiofsd\"");
        failed.fails_because("/no/such/virtiofsd");
        failed.fails_because("shared_fs = \"virtio-9p\"");
        assert_nothing_runs(containerd);
    });
}

#[test]
fn a_configuration_that_is_no_toml_is_named_with_its_line() {
    kata_test(|containerd| {
        let path = containerd.reconfigure(|text| format!("[hypervisor.qemu\n{text}"));
        let failed = containerd.container().command(["/bin/true"]).try_start();
        failed.fails_because(&format!("{}:1", path.display()));
        assert_nothing_runs(containerd);
    });
}

#[test]
fn an_unknown_key_is_named_with_file_and_line() {
    kata_test(|containerd| {
        let path =
            containerd.reconfigure(|text| text.replace("\n[runtime]\n", "\n[runtime]\nno_such_key = 1\n"));
        let text = fs::read_to_string(&path).unwrap();
        let line = text.lines().position(|line| line == "no_such_key = 1").unwrap() + 1;
        let failed = containerd.container().command(["/bin/true"]).try_start();
        failed.fails_because("no_such_key");
        failed.fails_because(&format!("{}:{line}", path.display()));
        assert_nothing_runs(containerd);
    });
}

#[test]
fn a_missing_configuration_is_named() {
    kata_test(|containerd| {
        let path = containerd.reconfigure(|text| text);
        fs::remove_file(&path).unwrap();
        let failed = containerd.container().command(["/bin/true"]).try_start();
        failed.fails_because(&path.display().to_string());
        assert_nothing_runs(containerd);
    });
}

#[test]
fn a_qemu_that_ends_at_once_is_an_error_not_a_wait() {
    kata_test(|containerd| {
        start_with(containerd, "path", "\"/bin/false\"").fails_because("/bin/false");
        assert_nothing_runs(containerd);
    });
}

#[test]
fn a_kernel_that_is_no_kernel_is_an_error_with_qemus_words() {
    kata_test(|containerd| {
        let kernel = containerd.directory().join("not-a-kernel");
        fs::write(&kernel, "This is no kernel.\n".repeat(1000)).unwrap();
        let failed = start_with(containerd, "kernel", &format!("\"{}\"", kernel.display()));
        failed.fails_because("qemu: ");
        assert_nothing_runs(containerd);
    });
}

#[test]
fn an_image_without_an_agent_is_an_error_not_a_wait() {
    kata_test(|containerd| {
        let image = containerd.directory().join("empty.cpio");
        fs::write(&image, [0; 512]).unwrap();
        let failed = start_with(containerd, "initrd", &format!("\"{}\"", image.display()));
        assert_ne!(failed.code, 0, "{failed:?}");
        assert_nothing_runs(containerd);
    });
}

#[test]
fn a_virtiofsd_that_ends_at_once_is_an_error_not_a_wait() {
    kata_test(|containerd| {
        start_with(containerd, "virtio_fs_daemon", "\"/bin/false\"").fails_because("virtiofsd");
        assert_nothing_runs(containerd);
    });
}

#[test]
fn a_bundle_without_arguments_of_its_process_is_an_error() {
    test(|containerd| {
        let container = containerd.container().spec(|spec| spec["process"]["args"] = serde_json::json!([]));
        container.try_start().fails_because("args");
        assert_nothing_runs(containerd);
    });
}

#[test]
fn a_bundle_without_a_root_file_system_is_an_error() {
    test(|containerd| {
        let container = containerd.container().spec(|spec| spec["root"]["path"] = "/no/such/rootfs".into());
        container.try_start().fails_because("/no/such/rootfs");
        assert_nothing_runs(containerd);
    });
}

#[test]
fn a_failed_start_does_not_spoil_the_next_one() {
    test(|containerd| {
        containerd.container().command(["/bin/no-such-program"]).run().fails_because("no-such-program");
        containerd.container().command(["/bin/true"]).run().ok().done();
    });
}

#[test]
fn a_repaired_configuration_is_used_at_once() {
    kata_test(|containerd| {
        let path: PathBuf = containerd.reconfigure(|text| with_key(&text, "kernel", "\"/no/such/vmlinux\""));
        containerd.container().command(["/bin/true"]).try_start().fails_because("/no/such/vmlinux");
        fs::copy(&containerd.stage.configuration, &path).unwrap();
        containerd.container().command(["/bin/true"]).run().ok().done();
    });
}
