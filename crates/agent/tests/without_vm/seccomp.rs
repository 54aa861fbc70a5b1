//! Profiles of system calls, as the workload meets them.

use std::fs;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

use super::guest::{Guest, message, process, skips};

/// `/proc/self/status`: filtered, by one filter.
const FILTERED: &str = "grep -c '^Seccomp:\t2$' /proc/self/status; grep '^Seccomp_filters' /proc/self/status";

fn with_profile(guest: &Guest, script: &str, profile: Value) -> Value {
    let mut spec = guest.spec(&["sh", "-c", script]);
    spec["linux"]["seccomp"] = profile;
    spec
}

/// Folders cannot be made, for a reason of its own.
fn no_folders() -> Value {
    json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "syscalls": [
        { "names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 122 } ] })
}

agent_test!(a_call_that_the_profile_refuses_fails_with_its_error, |guest| {
    let script = format!("mkdir /tmp/x 2>&1; {FILTERED}");
    let output = guest.output_of(&with_profile(&guest, &script, no_folders())).await;
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
        assert_eq!(guest.output_of(&spec).await, "in\nkept\n");
    }
);

agent_test!(a_call_that_kills_ends_the_process_with_its_signal, |guest| {
    let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        { "names": ["uname"], "action": "SCMP_ACT_KILL_PROCESS" } ] });
    let script = "uname; exit $?";
    assert_eq!(guest.output_of(&with_profile(&guest, script, profile)).await, "");
    // SIGSYS is 31.
    assert_eq!(guest.wait("c", "").await.expect("ended"), 128 + 31);
});

agent_test!(arguments_are_compared, |guest| {
    let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        { "names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
          "args": [{ "index": 1, "value": 10, "op": "SCMP_CMP_EQ" }] } ] });
    let script = "kill -10 $$ 2>/dev/null || echo refused; kill -0 $$ && echo allowed";
    assert_eq!(guest.output_of(&with_profile(&guest, script, profile)).await, "refused\nallowed\n");
});

agent_test!(a_profile_that_makes_no_sense_is_named, |guest| {
    let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        { "names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [{ "index": 9, "value": 1, "op": "SCMP_CMP_EQ" }] } ] });
    let refusal = message(guest.create_with("c", &with_profile(&guest, "true", profile), false).await);
    assert!(refusal.contains("compares argument 9"), "{refusal}");
});

/// Takes what a listener is sent: the state, and the name of what the descriptor stands for.
fn take_calls(listener: &UnixListener) -> (Value, String) {
    let (socket, _) = listener.accept().expect("a container connects");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut state = [0; 4096];
    let received = recvmsg(&socket, &mut [IoSliceMut::new(&mut state)], &mut control, RecvFlags::empty())
        .expect("a message");
    let calls = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let calls = calls.expect("a descriptor");
    let name = fs::read_link(format!("/proc/self/fd/{}", calls.as_raw_fd())).expect("is open");
    (serde_json::from_slice(&state[..received.bytes]).expect("JSON"), name.display().to_string())
}

fn folders_asked_for(guest: &Guest) -> Value {
    json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "listenerPath": guest.folder.path().join("listener"), "listenerMetadata": "M=1",
        "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_NOTIFY" }] })
}

agent_test!(a_listener_answers_calls_and_is_told_for_whom, |guest| {
    let listener = UnixListener::bind(guest.folder.path().join("listener")).expect("a socket");
    // It lets go of the calls at once: then the kernel answers that there is no such call.
    let listening = std::thread::spawn(move || [take_calls(&listener), take_calls(&listener)]);
    let script = "sleep 1000";
    let mut spec = with_profile(&guest, script, folders_asked_for(&guest));
    spec["process"]["noNewPrivileges"] = true.into();
    guest.create_with("c", &spec, false).await.expect("created");
    guest.start_container("c").await.expect("started");
    let mut streams =
        guest.exec_with("c", "e", &process(&["sh", "-c", "mkdir /tmp/x 2>&1"]), false).await.expect("added");
    assert_eq!(streams.output().await, b"mkdir: can't create directory '/tmp/x': Function not implemented\n");
    let [(first, name), (added, _)] = listening.join().expect("no panic");
    assert_eq!(name, "anon_inode:seccomp notify");
    assert_eq!((&first["fds"], &first["metadata"]), (&json!(["seccompFd"]), &json!("M=1")));
    assert_eq!((&first["state"]["id"], &first["state"]["status"]), (&json!("c"), &json!("creating")));
    assert_eq!((&first["pid"], &added["state"]["status"]), (&first["state"]["pid"], &json!("running")));
});

agent_test!(a_listener_that_is_not_there_is_named, |guest| {
    let refusal = message(
        guest.create_with("c", &with_profile(&guest, "true", folders_asked_for(&guest)), false).await,
    );
    assert!(refusal.contains("must be a socket in the guest"), "{refusal}");
    let mut profile = folders_asked_for(&guest);
    profile["listenerPath"] = "".into();
    let refusal = message(guest.create_with("c", &with_profile(&guest, "true", profile), false).await);
    assert!(refusal.contains("name its socket in linux.seccomp.listenerPath"), "{refusal}");
});
