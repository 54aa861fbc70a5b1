//! What a workload finds when it begins: environment, directory, identity, limits.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kata_e2e::{Image, eventually, test};
use serde_json::json;

#[test]
fn environment_variables_arrive_as_they_are() {
    test(|containerd| {
        let run = containerd.container().env("PLAIN", "value").env("ODD", "a=b c\"d'$HOME").env("EMPTY", "");
        let run = run.shell("echo \"$PLAIN|$ODD|${EMPTY-unset}|${OTHER-unset}\"").run().ok();
        assert_eq!(run.text(), "value|a=b c\"d'$HOME||unset");
    });
}

#[test]
fn the_images_environment_is_there() {
    test(|containerd| {
        let run = containerd.container().shell("echo $PATH").run().ok();
        assert_eq!(run.text(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    });
}

#[test]
fn a_program_is_found_by_the_path() {
    test(|containerd| {
        let run = containerd.container().command(["echo", "found"]).run().ok();
        assert_eq!(run.text(), "found");
    });
}

#[test]
fn the_working_directory_is_the_one_asked_for() {
    test(|containerd| {
        let run = containerd.container().option("--cwd").option("/etc").shell("pwd; ls passwd").run().ok();
        assert_eq!(run.text(), "/etc\npasswd");
    });
}

#[test]
fn a_working_directory_that_is_not_there_is_made() {
    test(|containerd| {
        let run =
            containerd.container().option("--cwd").option("/new/place").command(["/bin/pwd"]).run().ok();
        assert_eq!(run.text(), "/new/place");
    });
}

#[test]
fn arguments_arrive_as_they_are() {
    test(|containerd| {
        let words =
            ["/bin/sh", "-c", "for a; do echo \"<$a>\"; done", "sh", "", "two words", "ünï", "line\nbreak"];
        let run = containerd.container().command(words).run().ok();
        assert_eq!(run.text(), "<>\n<two words>\n<ünï>\n<line\nbreak>");
    });
}

#[test]
fn user_and_group_are_those_of_the_specification() {
    test(|containerd| {
        let run = containerd.container().spec(|spec| {
            spec["process"]["user"] = json!({ "uid": 1234, "gid": 567 });
            spec["process"]["args"] =
                json!(["/bin/sh", "-c", "id -u; id -g; touch /dev/shm/f; stat -c %u:%g /dev/shm/f"]);
        });
        assert_eq!(run.run().ok().text(), "1234\n567\n1234:567");
    });
}

#[test]
fn additional_groups_are_those_of_the_specification() {
    test(|containerd| {
        let run = containerd.container().spec(|spec| {
            spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000, "additionalGids": [4, 27, 70000] });
            spec["process"]["args"] = json!(["/bin/sh", "-c", "grep ^Groups: /proc/self/status"]);
        });
        let run = run.run().ok().text();
        let groups: Vec<&str> = run.split_whitespace().skip(1).filter(|group| *group != "1000").collect();
        assert_eq!(groups, ["4", "27", "70000"]);
    });
}

#[test]
fn a_user_that_is_not_root_cannot_write_to_roots_files() {
    test(|containerd| {
        let run = containerd.container().spec(|spec| {
            spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
            spec["process"]["args"] = json!(["/bin/sh", "-c", "echo x > /etc/passwd"]);
        });
        run.run().fails_because("Permission denied");
    });
}

#[test]
fn resource_limits_of_the_process_are_set() {
    test(|containerd| {
        let run = containerd.container().spec(|spec| {
            spec["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 321, "hard": 654 }]);
            spec["process"]["args"] = json!(["/bin/sh", "-c", "ulimit -n; ulimit -Hn"]);
        });
        assert_eq!(run.run().ok().text(), "321\n654");
    });
}

#[test]
fn the_hostname_is_the_one_asked_for() {
    test(|containerd| {
        let run = containerd.container().spec(|spec| {
            spec["hostname"] = json!("my-pod");
            spec["process"]["args"] = json!(["/bin/hostname"]);
        });
        assert_eq!(run.run().ok().text(), "my-pod");
    });
}

#[test]
fn capabilities_that_are_not_given_are_not_there() {
    test(|containerd| {
        let run =
            containerd.container().shell("mount -t tmpfs none /mnt 2>&1 || mount -t tmpfs none /tmp").run();
        run.fails_because("");
        assert!(run.complaint().contains("ermi"), "{run:?}");
    });
}

/// Over virtio-serial it was late by the guest's boot.
#[test]
fn the_time_of_day_is_the_hosts() {
    test(|containerd| {
        let container = containerd.container().image(Image::Debian).command(["/bin/sleep", "1000"]).start();
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later").as_secs_f64();
        // It is told anew while the telling takes long, and nobody waits for that.
        eventually("the guest knows the time", Duration::from_secs(20), || {
            let before = now();
            let guest: f64 = container.shell("date +%s.%N").parse().expect("seconds");
            (before - 0.05..now() + 0.05).contains(&guest)
        });
    });
}

#[test]
fn a_real_distribution_runs_a_real_program() {
    test(|containerd| {
        let program = "import hashlib; print(hashlib.sha256(b'x' * 10_000_000).hexdigest())";
        let run = containerd.container().image(Image::Debian).command(["python3", "-c", program]).run().ok();
        assert_eq!(
            run.text(),
            kata_e2e::sha256(std::io::Read::take(std::io::repeat(b'x'), 10_000_000)).unwrap().0
        );
    });
}
