//! AppArmor and SELinux in the guest, where the configuration switches them on.

use kata_e2e::{Containerd, kata_test};
use serde_json::{Value, json};

const APPARMOR: (&str, &str) = ("disable_guest_apparmor", "false");
const DEFAULT: &str = "cri-containerd.apparmor.d";

/// The output of a line for a shell in a container with this AppArmor profile and all capabilities.
fn run_under(containerd: &Containerd, profile: &str, line: &str) -> kata_e2e::Finished {
    let run = containerd.container().spec(|spec| {
        spec["process"]["apparmorProfile"] = json!(profile);
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_KILL"]);
        }
        spec["process"]["args"] = json!(["/bin/sh", "-c", line]);
    });
    run.run()
}

#[test]
fn the_hosts_apparmor_profile_is_no_hindrance() {
    kata_test(|containerd| {
        assert_eq!(run_under(containerd, DEFAULT, "echo here").ok().text(), "here");
    });
}

#[test]
fn an_apparmor_profile_holds_for_a_container_and_what_is_added_to_it() {
    kata_test(|containerd| {
        containerd.configure(&[APPARMOR]);
        let container = containerd.container().spec(|spec| {
            spec["process"]["apparmorProfile"] = json!(DEFAULT);
            spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
        });
        let container = container.start();
        let own = "cat /proc/self/attr/apparmor/current /proc/1/attr/apparmor/current";
        assert_eq!(container.shell(own), format!("{DEFAULT} (enforce)\n{DEFAULT} (enforce)"));
    });
}

#[test]
fn the_default_apparmor_profile_forbids_mounts_and_allows_the_usual() {
    kata_test(|containerd| {
        containerd.configure(&[APPARMOR]);
        let line = "mount -t tmpfs none /tmp 2>/dev/null || echo no mount; echo x > /tmp/file && cat /tmp/file; \
                    sleep 100 & kill $! && echo killed";
        let run = run_under(containerd, "containers-default-0.50.1", line);
        assert_eq!(run.ok().text(), "no mount\nx\nkilled");
        let free = run_under(containerd, "unconfined", "mount -t tmpfs none /tmp && echo mounted");
        assert_eq!(free.ok().text(), "mounted");
    });
}

#[test]
fn an_apparmor_profile_that_the_guest_lacks_is_named() {
    kata_test(|containerd| {
        containerd.configure(&[APPARMOR]);
        let run = run_under(containerd, "of-the-host-only", "true");
        run.fails_because("no AppArmor profile \"of-the-host-only\"");
        run.fails_because(DEFAULT);
    });
}

#[test]
fn an_apparmor_profile_without_apparmor_is_an_error() {
    kata_test(|containerd| {
        containerd.configure(&[APPARMOR, ("kernel_params", "\"lsm=landlock\"")]);
        run_under(containerd, DEFAULT, "true").fails_because("process.apparmorProfile");
    });
}

const SELINUX: (&str, &str) = ("disable_guest_selinux", "false");

/// A container with the SELinux label that a manager makes for these categories.
fn labelled(spec: &mut Value, categories: &str, line: &str) {
    spec["process"]["selinuxLabel"] = json!(format!("system_u:system_r:container_t:{categories}"));
    spec["linux"]["mountLabel"] = json!(format!("system_u:object_r:container_file_t:{categories}"));
    spec["process"]["args"] = json!(["/bin/sh", "-c", line]);
}

#[test]
fn the_hosts_selinux_labels_are_no_hindrance() {
    kata_test(|containerd| {
        let run = containerd.container().spec(|spec| labelled(spec, "s0:c1,c2", "echo here"));
        assert_eq!(run.run().ok().text(), "here");
    });
}

#[test]
fn a_selinux_label_holds_for_a_container_its_mounts_and_what_is_added_to_it() {
    kata_test(|containerd| {
        containerd.configure(&[SELINUX]);
        let container =
            containerd.container().spec(|spec| labelled(spec, "s0:c1,c2", "exec sleep 1000")).start();
        let own = "cat /proc/1/attr/current | tr '\\0' '\\n'; cat /proc/self/attr/current | tr '\\0' '\\n'; \
                   grep -o 'context=[^ ]*' /proc/mounts | sort -u; echo x > /run/file && cat /run/file";
        let label = "system_u:system_r:container_t:s0:c1,c2";
        let mounts = "context=system_u:object_r:container_file_t:s0:c1,c2";
        let told = container.shell(own).replace('"', "");
        assert!(told.starts_with(&format!("{label}\n{label}\n{mounts}")) && told.ends_with("\nx"), "{told}");
    });
}

#[test]
fn a_process_with_other_categories_has_no_power_over_a_container() {
    kata_test(|containerd| {
        containerd.configure(&[SELINUX]);
        let container = containerd.container().spec(|spec| {
            labelled(spec, "s0:c1,c2", "exec sleep 1000");
            // A privileged one may give its processes any label.
            spec["process"]["selinuxLabel"] = json!("system_u:system_r:spc_t:s0");
        });
        let container = container.start();
        let start = "label() { echo -n system_u:system_r:container_t:$1 > /proc/self/attr/exec; }; \
                     (label s0:c1,c2; exec sleep 1000) & ";
        let try_as = |categories: &str| {
            let act = "kill $! && echo sent; touch /run/$! && echo made";
            let line = format!(
                "{start} export other=$!; until grep -q container_t /proc/$other/attr/current; do sleep 0.1; done; label {categories}; exec sh -c '{}'",
                act.replace("$!", "$other")
            );
            container.exec_shell(&line).run().text()
        };
        assert_eq!((try_as("s0:c1,c2").as_str(), try_as("s0:c3,c4").as_str()), ("sent\nmade", ""));
    });
}

#[test]
fn a_container_cannot_take_other_categories_or_privileges() {
    kata_test(|containerd| {
        containerd.configure(&[SELINUX]);
        let line = "for label in container_t:s0:c1,c2 container_t:s0:c3 spc_t:s0; do \
                    (echo -n system_u:system_r:$label > /proc/self/attr/exec; exec cat /proc/self/attr/current) 2>/dev/null; \
                    done; true";
        let run = containerd.container().spec(|spec| labelled(spec, "s0:c1,c2", line)).run().ok();
        assert_eq!(run.text().trim_end_matches('\0'), "system_u:system_r:container_t:s0:c1,c2");
    });
}

#[test]
fn a_configured_selinux_label_takes_the_place_of_each_containers_own() {
    kata_test(|containerd| {
        let own = ("guest_selinux_label", "\"system_u:system_r:container_t:s0:c7\"");
        containerd.configure(&[SELINUX, own]);
        let run =
            containerd.container().spec(|spec| labelled(spec, "s0:c1,c2", "cat /proc/self/attr/current"));
        assert_eq!(run.run().ok().text().trim_end_matches('\0'), "system_u:system_r:container_t:s0:c7");
    });
}

#[test]
fn a_selinux_label_that_the_guests_policy_does_not_know_is_named() {
    kata_test(|containerd| {
        containerd.configure(&[SELINUX]);
        let run = containerd.container().spec(|spec| {
            spec["process"]["selinuxLabel"] = json!("system_u:system_r:no_such_t:s0");
        });
        run.run().fails_because("process.selinuxLabel \"system_u:system_r:no_such_t:s0\"");
    });
}
