//! What a container is given and what is kept from it, also when its image is made to break out.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use super::guest::{Guest, message, skips};

fn shell(guest: &Guest, script: &str) -> Value {
    guest.spec(&["sh", "-c", script])
}

fn add_mount(spec: &mut Value, mount: Value) {
    spec["mounts"].as_array_mut().expect("a list").push(mount);
}

agent_test!(masked_files_and_folders_are_empty, |guest| {
    let mut spec = shell(&guest, "cat /proc/version | wc -c; echo /proc/fs/* /proc/irq/*");
    spec["linux"]["maskedPaths"] = json!(["/proc/version", "/proc/fs", "/proc/irq", "/proc/no-such"]);
    assert_eq!(guest.output_of(&spec).await, "0\n/proc/fs/* /proc/irq/*\n");
});

agent_test!(read_only_paths_cannot_be_written, |guest| {
    let script = "echo 1 > /proc/sys/kernel/sysrq || echo refused; cat /proc/sys/kernel/ostype";
    let mut spec = shell(&guest, script);
    spec["linux"]["readonlyPaths"] = json!(["/proc/sys", "/proc/no-such"]);
    assert_eq!(guest.output_of(&spec).await, "refused\nLinux\n");
});

agent_test!(a_read_only_root_has_writable_mounts, |guest| {
    let script = "echo x > /file || echo refused; echo x > /tmp/file && cat /tmp/file";
    let mut spec = shell(&guest, script);
    spec["root"]["readonly"] = true.into();
    add_mount(&mut spec, json!({ "destination": "/tmp", "type": "tmpfs", "source": "tmpfs" }));
    assert_eq!(guest.output_of(&spec).await, "refused\nx\n");
});

agent_test!(the_usual_devices_are_there, |guest| {
    let mut spec =
        shell(&guest, "for f in null zero full random urandom tty ptmx fd stdin; do echo /dev/$f*; done");
    spec["linux"]["devices"] =
        json!([{ "path": "/dev/own", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600 }]);
    let script = "head -c 3 /dev/zero | wc -c; cat /dev/own; echo x > /dev/null && echo written";
    spec["process"]["args"][2] =
        format!("{} ; {script}", spec["process"]["args"][2].as_str().expect("text")).into();
    let expected = "/dev/null\n/dev/zero\n/dev/full\n/dev/random\n/dev/urandom\n/dev/tty\n/dev/ptmx\n/dev/fd\n\
                    /dev/stdin\n3\nwritten\n";
    assert_eq!(guest.output_of(&spec).await, expected);
});

agent_test!(kernel_settings_of_the_container_are_set, |guest| {
    let mut spec = shell(&guest, "cat /proc/sys/kernel/msgmax");
    spec["linux"]["sysctl"] = json!({ "kernel.msgmax": "12345" });
    assert_eq!(guest.output_of(&spec).await, "12345\n");
});

agent_test!(a_kernel_setting_that_is_not_there_is_named, |guest| {
    let mut spec = shell(&guest, "true");
    spec["linux"]["sysctl"] = json!({ "kernel.no_such": "1" });
    let refusal = message(guest.create_with("c", &spec, false).await);
    assert!(refusal.starts_with("Cannot set the kernel's kernel.no_such"), "{refusal}");
});

agent_test!(a_mount_option_that_is_not_there_is_told_in_the_kernels_words, |guest| {
    let mut spec = shell(&guest, "true");
    let options = json!(["nosuid", "no_such=1"]);
    add_mount(
        &mut spec,
        json!({ "destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": options }),
    );
    let refusal = message(guest.create_with("c", &spec, false).await);
    assert!(refusal.starts_with("Cannot mount tmpfs on /tmp: ") && refusal.contains("no_such"), "{refusal}");
});

agent_test!(the_containers_cgroup_is_what_it_sees, |guest| {
    let mut spec = shell(&guest, "cat /proc/self/cgroup | tail -n 1; ls /sys/fs/cgroup/cgroup.procs");
    let namespaces = spec["linux"]["namespaces"].as_array_mut().expect("a list");
    namespaces.push(json!({ "type": "cgroup" }));
    add_mount(&mut spec, json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup" }));
    assert_eq!(guest.output_of(&spec).await, "0::/\n/sys/fs/cgroup/cgroup.procs\n");
});

agent_test!(links_in_the_image_do_not_lead_mounts_out_of_it, |guest| {
    let root = guest.folder.path().join("rootfs");
    let outside = guest.folder.path().join("outside");
    fs::create_dir(&outside).expect("a folder");
    symlink(&outside, root.join("absolute")).expect("a link");
    symlink("../outside", root.join("relative")).expect("a link");
    for link in ["/absolute/made", "/relative/made"] {
        let mut spec = shell(&guest, "true");
        add_mount(&mut spec, json!({ "destination": link, "type": "tmpfs", "source": "tmpfs" }));
        // Whether it is refused or made inside: nothing appears outside.
        if guest.create_with("c", &spec, false).await.is_ok() {
            guest.remove("c").await.expect("removed");
        }
    }
    assert_eq!(fs::read_dir(&outside).expect("is there").count(), 0);
});

agent_test!(a_link_in_the_place_of_proc_is_refused, |guest| {
    let root = guest.folder.path().join("rootfs");
    fs::remove_dir(root.join("proc")).expect("is empty");
    symlink("tmp", root.join("proc")).expect("a link");
    let refusal = message(guest.create_with("c", &shell(&guest, "true"), false).await);
    assert_eq!(refusal, "Cannot mount proc on /proc: it is a link; make it a folder in the image");
});

agent_test!(
    /// As in CVE-2024-21626: a descriptor of the agent's as the working folder.
    a_working_folder_outside_the_root_is_refused,
    |guest| {
        for number in 0..20 {
            let mut spec = shell(&guest, "pwd");
            spec["process"]["cwd"] = format!("/proc/self/fd/{number}").into();
            let refusal = message(guest.create_with("c", &spec, false).await);
            assert!(refusal.contains("working folder"), "{refusal}");
        }
    }
);

agent_test!(no_descriptor_of_the_agents_reaches_the_workload, |guest| {
    let spec = shell(&guest, "ls /proc/self/fd | wc -l; ls /proc/1/fd; true");
    let output = guest.output_of(&spec).await;
    assert_eq!(output, "4\n0\n1\n2\n", "the fourth is the folder being listed");
    guest.remove("c").await.expect("removed");
    guest.run("c", &["sleep", "1000"]).await;
    let mut streams = guest.exec("c", "e", &["sh", "-c", "ls /proc/$$/fd; true"]).await.expect("added");
    assert_eq!(streams.output().await, b"0\n1\n2\n");
});

agent_test!(capabilities_are_those_of_the_specification, |guest| {
    let spec = shell(&guest, "grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status");
    let expected = "CapInh:\t0000000000000000\nCapPrm:\t00000000000000e1\nCapEff:\t00000000000000e1\n\
                    CapBnd:\t00000000000000e1\nCapAmb:\t0000000000000000\n";
    assert_eq!(guest.output_of(&spec).await, expected);
});
