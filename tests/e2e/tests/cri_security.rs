//! The `securityContext` of a pod's containers.

use kata_e2e::cri_test;
use kata_e2e::proto::{Capability, Int64Value, SecurityProfile, security_profile::ProfileType};

#[test]
fn a_workload_runs_as_the_user_and_groups_it_is_given() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let container = pod.container("main").security(|security| {
            security.run_as_user = Some(Int64Value { value: 1234 });
            security.run_as_group = Some(Int64Value { value: 2345 });
            security.supplemental_groups = vec![3456, 4567];
        });
        let container =
            container.shell("id -u; id -g; grep ^Groups /proc/self/status; echo ready; sleep 1000").start();
        container.wait_for_line("ready");
        let shown: Vec<String> = container.log().into_iter().map(|line| line.text).collect();
        assert_eq!(shown[..2], ["1234", "2345"]);
        assert!(shown[2].contains("3456 4567"), "{shown:?}");
        // A program added later has the same user.
        assert_eq!(container.shell("id -u"), "1234");
    });
}

#[test]
fn a_user_is_found_by_its_name() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let container = pod.container("main").security(|security| {
            security.run_as_username = "nobody".to_owned();
        });
        assert_eq!(container.shell("id -u; id -g").run().text(), "65534\n65534");
    });
}

#[test]
fn a_root_may_be_read_only() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let container = pod.container("main").security(|security| security.readonly_rootfs = true);
        let ended = container.shell("touch /x 2>&1; touch /dev/shm/x && echo written").run();
        assert_eq!(ended.text(), "touch: /x: Read-only file system\nwritten");
    });
}

#[test]
fn capabilities_are_added_and_dropped() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let effective = "grep ^CapEff /proc/self/status | cut -f 2";
        let usual = pod.container("usual").shell(effective).run().text();
        assert_eq!(usual, "00000000a80425fb");
        let container = pod.container("main").security(|security| {
            security.capabilities = Some(Capability {
                add_capabilities: vec!["NET_ADMIN".to_owned()],
                drop_capabilities: vec!["CHOWN".to_owned()],
            });
        });
        assert_eq!(container.shell(effective).run().text(), "00000000a80435fa");
        let none = pod.container("none").security(|security| {
            let drop_capabilities = vec!["ALL".to_owned()];
            security.capabilities = Some(Capability { drop_capabilities, ..Default::default() });
        });
        assert_eq!(none.shell(effective).run().text(), "0000000000000000");
    });
}

#[test]
fn the_default_seccomp_profile_is_in_force() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let profile = |name: &str, profile_type: ProfileType| {
            let container = pod.container(name).security(|security| {
                let profile_type = profile_type.into();
                security.seccomp = Some(SecurityProfile { profile_type, ..Default::default() });
            });
            container.shell("grep ^Seccomp: /proc/self/status | cut -f 2; unshare -U true 2>&1").run()
        };
        let confined = profile("confined", ProfileType::RuntimeDefault).text();
        assert!(confined.starts_with("2\n") && confined.contains("Operation not permitted"), "{confined}");
        assert!(profile("free", ProfileType::Unconfined).text().starts_with('0'));
    });
}

#[test]
fn new_privileges_are_refused_if_the_container_says_so() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let line = "grep ^NoNewPrivs /proc/self/status | cut -f 2";
        let refused = pod.container("refused").security(|security| security.no_new_privs = true);
        assert_eq!(refused.shell(line).run().text(), "1");
        assert_eq!(pod.container("usual").shell(line).run().text(), "0");
    });
}

#[test]
fn a_privileged_container_can_mount() {
    cri_test(|cri| {
        let pod = cri.pod().with(|config| {
            let linux = config.linux.get_or_insert_default();
            linux.security_context.get_or_insert_default().privileged = true;
        });
        let pod = pod.run();
        let container = pod.container("main").security(|security| security.privileged = true);
        let line =
            "mount -t tmpfs none /tmp && touch /tmp/x && test -w /proc/sys/kernel/hostname && echo mounted";
        assert_eq!(container.shell(line).run().text(), "mounted");
    });
}

#[test]
fn masked_and_read_only_paths_are_those_of_the_container() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let container = pod.container("main").security(|security| {
            security.masked_paths = vec!["/etc/passwd".to_owned()];
            security.readonly_paths = vec!["/tmp".to_owned()];
        });
        let ended = container.shell("wc -c < /etc/passwd; touch /tmp/x 2>&1").run();
        assert_eq!(ended.text(), "0\ntouch: /tmp/x: Read-only file system");
    });
}
