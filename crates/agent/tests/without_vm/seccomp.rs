//! Profiles of system calls, as the workload meets them.

use serde_json::{Value, json};

use super::guest::{Guest, message, process, skips};

/// `/proc/self/status`: filtered, by one filter.
const FILTERED: &str = "grep -c '^Seccomp:\t2$' /proc/self/status; grep '^Seccomp_filters' /proc/self/status";

fn with_profile(guest: &Guest, script: &str, profile: Value) -> Value {
    let mut spec = guest.spec(&["sh", "-c", script]);
    spec["linux"]["seccomp"] = profile;
    spec
}

async fn output_of(guest: &Guest, spec: &Value) -> String {
    let mut streams = guest.create_with("c", spec, false).await.expect("created");
    guest.start_container("c").await.expect("started");
    String::from_utf8(streams.output().await).expect("is text")
}

/// Folders cannot be made, for a reason of its own.
fn no_folders() -> Value {
    json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "syscalls": [
        { "names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 122 } ] })
}

agent_test!(a_call_that_the_profile_refuses_fails_with_its_error, |guest| {
    let script = format!("mkdir /tmp/x 2>&1; {FILTERED}");
    let output = output_of(&guest, &with_profile(&guest, &script, no_folders())).await;
    assert_eq!(
        output,
        "mkdir: can't create directory '/tmp/x': Disk quota exceeded\n1\nSeccomp_filters:\t1\n"
    );
});

agent_test!(a_further_process_is_under_the_profile_too, |guest| {
    let spec = with_profile(&guest, "sleep 1000", no_folders());
    guest.create_with("c", &spec, false).await.expect("created");
    guest.start_container("c").await.expect("started");
    for new_privileges in [true, false] {
        let script = format!("mkdir /tmp/x 2>/dev/null || {FILTERED}");
        let mut process = process(&["sh", "-c", &script]);
        process["noNewPrivileges"] = (!new_privileges).into();
        let exec = format!("e{new_privileges}");
        let mut streams = guest.exec_with("c", &exec, &process, false).await.expect("added");
        assert_eq!(streams.output().await, b"1\nSeccomp_filters:\t1\n");
    }
});

agent_test!(
    /// Without new privileges the filter comes last, so that the profile need not name what the jail does.
    a_profile_names_only_what_the_workload_does,
    |guest| {
        let allowed = [
            "arch_prctl", "brk", "close", "dup2", "execve", "exit", "exit_group", "fcntl", "futex", "getcwd",
            "geteuid", "getpid", "getppid", "getrandom", "getuid", "ioctl", "mmap", "mprotect", "munmap", "newfstatat",
            "open", "poll", "prctl", "prlimit64", "read", "readlink", "rseq", "rt_sigaction", "rt_sigprocmask",
            "rt_sigreturn", "set_robust_list", "set_tid_address", "stat", "time", "uname", "write",
        ];
        let profile = json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            { "names": allowed.as_slice(), "action": "SCMP_ACT_ALLOW" } ] });
        let mut spec = with_profile(&guest, "echo in; cd / || echo kept", profile);
        spec["process"]["noNewPrivileges"] = true.into();
        assert_eq!(output_of(&guest, &spec).await, "in\nkept\n");
    }
);

agent_test!(a_call_that_kills_ends_the_process_with_its_signal, |guest| {
    let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        { "names": ["uname"], "action": "SCMP_ACT_KILL_PROCESS" } ] });
    let script = "uname; exit $?";
    assert_eq!(output_of(&guest, &with_profile(&guest, script, profile)).await, "");
    // SIGSYS is 31.
    assert_eq!(guest.wait("c", "").await.expect("ended"), 128 + 31);
});

agent_test!(arguments_are_compared, |guest| {
    let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        { "names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
          "args": [{ "index": 1, "value": 10, "op": "SCMP_CMP_EQ" }] } ] });
    let script = "kill -10 $$ 2>/dev/null || echo refused; kill -0 $$ && echo allowed";
    assert_eq!(output_of(&guest, &with_profile(&guest, script, profile)).await, "refused\nallowed\n");
});

agent_test!(a_profile_that_makes_no_sense_is_named, |guest| {
    let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        { "names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [{ "index": 9, "value": 1, "op": "SCMP_CMP_EQ" }] } ] });
    let refusal = message(guest.create_with("c", &with_profile(&guest, "true", profile), false).await);
    assert!(refusal.contains("compares argument 9"), "{refusal}");
});
