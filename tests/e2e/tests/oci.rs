//! Bundles under runc and under this runtime: what a process sees is the same, but for the listed differences.

use std::fs;
use std::os::unix::fs::{lchown, symlink};
use std::path::Path;

use kata_e2e::{Bundle, Expected, both_refuse, compare, compare_execs, compare_made_up, test};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, any};
use proptest::sample::{select, subsequence};
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

/// The guest's kernel is another one: configured for what containers need, without audit, with memory of its own.
const KERNEL: &str = "the guest has a kernel of its own";
/// What a container sees in place of what it shall not see.
const MASK: &str = "the empty file or folder is the guest's, where runc takes the container's own";
/// No caller stands between the agent and a container.
const CALLER: &str = "runc passes on what it got from its caller";

/// Differences in every bundle.
const ALWAYS: &[Expected<'_>] = &[
    Expected { fact: "mount * type", reason: "the host's files come over virtio-fs" },
    Expected { fact: "mount * receives", reason: "the guest's own root passes nothing on" },
    Expected { fact: "mounts in their order", reason: "what a kernel has not is not masked" },
    Expected { fact: "mount /etc/secret *options", reason: MASK },
    Expected { fact: "mount /tmp file system's options", reason: MASK },
    Expected { fact: "mount /proc/acpi file system's options", reason: MASK },
    Expected { fact: "mount /proc/keys *options", reason: MASK },
    Expected { fact: "mount /proc/timer_list *options", reason: MASK },
    Expected { fact: "mount /sys/firmware file system's options", reason: MASK },
    Expected { fact: "* /proc/sysrq-trigger*", reason: KERNEL },
    Expected { fact: "masked /proc/*", reason: KERNEL },
    Expected { fact: "masked /sys/*", reason: KERNEL },
    Expected { fact: "setting kernel/sem", reason: KERNEL },
    Expected { fact: "own sessionid", reason: KERNEL },
    Expected { fact: "own loginuid", reason: KERNEL },
    Expected { fact: "limit Max locked memory", reason: KERNEL },
    Expected { fact: "limit Max processes", reason: KERNEL },
    Expected { fact: "limit Max pending signals", reason: KERNEL },
    Expected { fact: "limit Max open files", reason: CALLER },
    Expected { fact: "own oom_score_adj", reason: CALLER },
    Expected { fact: "status SigIgn", reason: CALLER },
];

fn bundle(name: &str, change: fn(&mut Value, &Path)) -> Bundle {
    Bundle::new(name, change)
}

fn add_mount(spec: &mut Value, mount: Value) {
    spec["mounts"].as_array_mut().expect("a list").push(mount);
}

#[test]
fn processes_are_the_same() {
    let bundles = [
        bundle("as containerd makes it", |_, _| {}),
        bundle("arguments", |spec, _| {
            spec["process"]["args"] = json!(["/bin/kata-probe", "process", "a b", "", "$HOME", "ü"]);
        }),
        bundle("found on the path", |spec, _| spec["process"]["args"] = json!(["kata-probe"])),
        bundle("environment", |spec, _| {
            spec["process"]["env"] = json!(["PATH=/bin", "A=1", "A=2", "EMPTY=", "SPACE=a b", "HOME=/own"]);
        }),
        bundle("a folder that is there", |spec, _| spec["process"]["cwd"] = json!("/tmp")),
        bundle("a folder that is not there", |spec, _| spec["process"]["cwd"] = json!("/made/for/it")),
        bundle("a folder behind a link", |spec, root| {
            symlink("/tmp", root.join("link")).expect("a link");
            spec["process"]["cwd"] = json!("/link");
        }),
        bundle("a user", |spec, _| spec["process"]["user"] = json!({ "uid": 1000, "gid": 1001 })),
        bundle("a user with groups", |spec, _| {
            spec["process"]["user"] = json!({ "uid": 7, "gid": 8, "additionalGids": [10, 9, 10] });
        }),
        bundle("a mask", |spec, _| spec["process"]["user"] = json!({ "uid": 0, "gid": 0, "umask": 0o77 })),
        bundle("new privileges", |spec, _| spec["process"]["noNewPrivileges"] = json!(false)),
        bundle("first to be killed", |spec, _| spec["process"]["oomScoreAdj"] = json!(500)),
        bundle("a name", |spec, _| spec["hostname"] = json!("box")),
    ];
    test(|containerd| compare(containerd, &bundles, ALWAYS));
}

#[test]
fn capabilities_are_the_same() {
    fn sets(spec: &mut Value, sets: Value) {
        spec["process"]["capabilities"] = sets;
    }
    let bundles = [
        bundle("none", |spec, _| sets(spec, json!({}))),
        bundle("no list", |spec, _| {
            spec["process"].as_object_mut().expect("an object").remove("capabilities");
        }),
        bundle("bounding only", |spec, _| sets(spec, json!({ "bounding": ["CAP_KILL", "CAP_SYS_ADMIN"] }))),
        bundle("all five", |spec, _| {
            let own = json!(["CAP_NET_RAW", "CAP_CHOWN"]);
            sets(
                spec,
                json!({ "bounding": own, "effective": own, "permitted": own, "inheritable": own, "ambient": own }),
            );
        }),
        bundle("a user with ambient ones", |spec, _| {
            let own = json!(["CAP_NET_BIND_SERVICE"]);
            spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
            sets(
                spec,
                json!({ "bounding": own, "effective": own, "permitted": own, "inheritable": own, "ambient": own }),
            );
        }),
        bundle("permitted but not effective", |spec, _| {
            sets(spec, json!({ "bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"] }));
        }),
    ];
    test(|containerd| compare(containerd, &bundles, ALWAYS));
}

fn limit(spec: &mut Value, name: &str, soft: u64, hard: u64) {
    let limits = spec["process"]["rlimits"].as_array_mut().expect("a list");
    limits.push(json!({ "type": name, "soft": soft, "hard": hard }));
}

fn tmpfs(spec: &mut Value, destination: &str, options: &[&str]) {
    let mount = json!({ "destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options });
    add_mount(spec, mount);
}

#[test]
fn limits_are_the_same() {
    let bundles = [
        bundle("none", |spec, _| spec["process"]["rlimits"] = json!([])),
        bundle("some", |spec, _| {
            limit(spec, "RLIMIT_CORE", 0, 0);
            limit(spec, "RLIMIT_STACK", 1 << 20, 1 << 22);
            limit(spec, "RLIMIT_FSIZE", 12345, u64::MAX);
        }),
        bundle("for processes", |spec, _| limit(spec, "RLIMIT_NPROC", 10, 20)),
    ];
    test(|containerd| compare(containerd, &bundles, ALWAYS));
}

#[test]
fn roots_and_mounts_are_the_same() {
    fn bind(spec: &mut Value, root: &Path, options: &[&str]) {
        let source = root.parent().expect("lies in a folder").join("source");
        fs::create_dir(&source).expect("a folder");
        fs::write(source.join("file"), "x").expect("a file");
        let mount = json!({ "destination": "/data", "type": "bind", "source": source, "options": options });
        add_mount(spec, mount);
    }
    let bundles = [
        bundle("a read-only root", |spec, _| spec["root"]["readonly"] = json!(true)),
        bundle("private", |spec, _| spec["linux"]["rootfsPropagation"] = json!("private")),
        bundle("slave", |spec, _| spec["linux"]["rootfsPropagation"] = json!("slave")),
        bundle("memory", |spec, _| tmpfs(spec, "/tmp", &["size=1m", "mode=1700", "noexec", "nosuid"])),
        bundle("memory with few inodes", |spec, _| tmpfs(spec, "/made", &["nr_inodes=100", "ro"])),
        bundle("one over the other", |spec, _| {
            tmpfs(spec, "/tmp", &["size=1m"]);
            tmpfs(spec, "/tmp/below", &["size=2m"]);
        }),
        bundle("behind a link", |spec, root| {
            symlink("/tmp", root.join("link")).expect("a link");
            tmpfs(spec, "/link/below", &["size=1m"]);
        }),
        bundle("above the root", |spec, _| tmpfs(spec, "/../../above", &["size=1m"])),
        bundle("a bind", |spec, root| bind(spec, root, &["bind"])),
        bundle("a recursive bind", |spec, root| bind(spec, root, &["rbind", "rw"])),
        bundle("a read-only bind", |spec, root| bind(spec, root, &["rbind", "ro"])),
        bundle("a guarded bind", |spec, root| {
            bind(spec, root, &["bind", "nosuid", "nodev", "noexec", "noatime"]);
        }),
        bundle("a private bind", |spec, root| bind(spec, root, &["rbind", "rprivate"])),
        bundle("a slave bind", |spec, root| bind(spec, root, &["rbind", "rslave"])),
        bundle("a shared bind", |spec, root| bind(spec, root, &["rbind", "rshared"])),
        bundle("a bind of a file", |spec, root| {
            let source = root.parent().expect("lies in a folder").join("file");
            fs::write(&source, "x").expect("a file");
            let options = ["bind", "ro"];
            let mount =
                json!({ "destination": "/etc/file", "type": "bind", "source": source, "options": options });
            add_mount(spec, mount);
        }),
        bundle("little shared memory", |spec, _| {
            for mount in spec["mounts"].as_array_mut().expect("a list") {
                if mount["destination"] == "/dev/shm" {
                    mount["options"] = json!(["nosuid", "noexec", "nodev", "mode=1777", "size=1m"]);
                }
            }
        }),
        bundle("a writable sysfs", |spec, _| {
            for mount in spec["mounts"].as_array_mut().expect("a list") {
                if mount["destination"] == "/sys" {
                    mount["options"] = json!(["nosuid", "noexec", "nodev"]);
                }
            }
        }),
        bundle("no mounts but proc", |spec, _| {
            spec["mounts"].as_array_mut().expect("a list").truncate(1);
        }),
    ];
    let mode = "runc 1.1 gives a tmpfs the mode of the folder it covers, whatever its options say";
    let own = [Expected { fact: "mount /tmp root", reason: mode }];
    let expected: Vec<Expected<'_>> = ALWAYS.iter().copied().chain(own).collect();
    test(|containerd| compare(containerd, &bundles, &expected));
}

#[test]
fn guarded_paths_are_the_same() {
    let bundles = [
        bundle("nothing", |spec, _| {
            spec["linux"]["maskedPaths"] = json!([]);
            spec["linux"]["readonlyPaths"] = json!([]);
        }),
        bundle("a file and a folder of the image", |spec, root| {
            fs::write(root.join("etc/secret"), "x").expect("a file");
            spec["linux"]["maskedPaths"] = json!(["/etc/secret", "/tmp", "/no/such"]);
        }),
        bundle("read-only", |spec, _| {
            spec["linux"]["readonlyPaths"] = json!(["/etc", "/tmp", "/proc/sys", "/no/such"]);
        }),
        bundle("read-only with a mount below", |spec, _| {
            tmpfs(spec, "/etc/below", &["size=1m"]);
            spec["linux"]["readonlyPaths"] = json!(["/etc"]);
        }),
    ];
    test(|containerd| compare(containerd, &bundles, ALWAYS));
}

#[test]
fn devices_are_the_same() {
    fn device(spec: &mut Value, device: &Value) {
        spec["linux"]["devices"] = json!([device]);
    }
    let bundles = [
        bundle("one more", |spec, _| {
            let own = json!({ "path": "/dev/own", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 3, "gid": 4 });
            device(spec, &own);
            spec["linux"]["resources"]["devices"] = json!([{ "allow": false, "access": "rwm" },
                { "allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm" }]);
        }),
        bundle("in a folder", |spec, _| {
            device(
                spec,
                &json!({ "path": "/dev/net/own", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666 }),
            );
        }),
        bundle("some allowed", |spec, _| {
            spec["linux"]["resources"]["devices"] = json!([
                { "allow": false, "access": "rwm" },
                { "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw" },
                { "allow": true, "type": "b", "major": 8, "access": "r" },
                { "allow": true, "type": "c", "major": 240, "minor": 7, "access": "m" } ]);
        }),
        bundle("allowed bit by bit", |spec, _| {
            let fuse =
                |access| json!({ "allow": true, "type": "c", "major": 10, "minor": 229, "access": access });
            spec["linux"]["resources"]["devices"] =
                json!([{ "allow": false, "access": "rwm" }, fuse("r"), fuse("w"), fuse("m")]);
        }),
        bundle("all allowed", |spec, _| {
            spec["linux"]["resources"]["devices"] = json!([{ "allow": true, "access": "rwm" }]);
        }),
        bundle("a pipe", |spec, _| {
            device(spec, &json!({ "path": "/dev/pipe", "type": "p", "fileMode": 0o600 }));
        }),
    ];
    test(|containerd| compare(containerd, &bundles, ALWAYS));
}

#[test]
fn namespaces_and_settings_are_the_same() {
    let bundles = [
        bundle("a cgroup namespace", |spec, _| {
            spec["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({ "type": "cgroup" }));
        }),
        bundle("messages", |spec, _| {
            spec["linux"]["sysctl"] =
                json!({ "kernel.msgmax": "4321", "kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "20" });
        }),
        bundle("a setting of the network", |spec, _| {
            spec["linux"]["sysctl"] = json!({ "net.ipv4.ip_unprivileged_port_start": "80" });
        }),
    ];
    test(|containerd| compare(containerd, &bundles, ALWAYS));
}

/// A user namespace with the ids from 100,000 on, to whose root all files of the image belong.
fn own_users(spec: &mut Value, root: &Path) {
    let mapping = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    spec["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({ "type": "user" }));
    spec["linux"]["uidMappings"] = mapping.clone();
    spec["linux"]["gidMappings"] = mapping;
    give(root, 100_000);
}

fn give(path: &Path, owner: u32) {
    lchown(path, Some(owner), Some(owner)).expect("may be given away");
    if path.is_dir() && !path.is_symlink() {
        let entries = fs::read_dir(path).expect("a folder");
        entries.for_each(|entry| give(&entry.expect("can be listed").path(), owner));
    }
}

#[test]
fn user_namespaces_are_the_same() {
    let bundles = [
        bundle("root", own_users),
        bundle("a user", |spec, root| {
            own_users(spec, root);
            spec["process"]["user"] = json!({ "uid": 1000, "gid": 1001, "additionalGids": [5] });
        }),
        bundle("all capabilities", |spec, root| {
            own_users(spec, root);
            let all = json!(["CAP_SYS_ADMIN", "CAP_CHOWN", "CAP_NET_ADMIN"]);
            spec["process"]["capabilities"] = json!({ "bounding": all, "effective": all, "permitted": all });
        }),
        bundle("limits and a score", |spec, root| {
            own_users(spec, root);
            spec["process"]["oomScoreAdj"] = json!(300);
            limit(spec, "RLIMIT_STACK", 1 << 20, 1 << 22);
        }),
        bundle("a bind", |spec, root| {
            own_users(spec, root);
            let source = root.parent().expect("lies in a folder").join("source");
            fs::create_dir(&source).expect("a folder");
            let mount = json!({ "destination": "/data", "type": "bind", "source": source, "options": ["rbind", "ro"] });
            add_mount(spec, mount);
        }),
        bundle("a cgroup namespace", |spec, root| {
            own_users(spec, root);
            spec["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({ "type": "cgroup" }));
        }),
    ];
    test(|containerd| compare(containerd, &bundles, &with_guests_devices()));
}

fn with_guests_devices() -> Vec<Expected<'static>> {
    let devices =
        "the guest's own devices, which are mounted here, lie in a file system without set-user-id bits";
    let queues = "runc makes message queues before it has become the namespace's root group";
    let more = [
        Expected { fact: "mount /dev/* options", reason: devices },
        Expected { fact: "device /dev/mqueue owner", reason: queues },
        Expected { fact: "mount /dev/mqueue root", reason: queues },
    ];
    ALWAYS.iter().copied().chain(more).collect()
}

fn some_refused(spec: &mut Value, _: &Path) {
    let architectures = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
    let own_reason = ["mount", "umount2", "swapon", "reboot", "bpf"];
    spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures, "syscalls": [
            { "names": own_reason, "action": "SCMP_ACT_ERRNO", "errnoRet": 95 },
            { "names": ["keyctl", "add_key"], "action": "SCMP_ACT_ERRNO" },
            { "names": ["acct"], "action": "SCMP_ACT_KILL" },
            { "names": ["syslog"], "action": "SCMP_ACT_KILL_PROCESS" },
            { "names": ["sysfs"], "action": "SCMP_ACT_TRAP" },
            { "names": ["vmsplice"], "action": "SCMP_ACT_TRACE" },
            { "names": ["ptrace"], "action": "SCMP_ACT_LOG" } ] });
}

/// All that runc, the agent and the probe need.
fn some_allowed(spec: &mut Value, _: &Path) {
    let names = "access alarm arch_prctl brk capget capset chdir clone clone3 close close_range dup3 epoll_create1 \
        epoll_ctl epoll_pwait eventfd2 execve exit_group faccessat faccessat2 fchdir fchown fcntl fork fstat fstatfs \
        futex getcwd getdents64 getpid getppid getpriority getrandom gettid ioctl ioprio_get kill lseek lstat madvise \
        mmap mprotect munmap nanosleep newfstatat open openat personality pipe2 poll prctl prlimit64 read readlink \
        readlinkat rseq rt_sigaction rt_sigprocmask rt_sigreturn sched_getaffinity sched_getparam sched_getscheduler \
        sched_yield set_robust_list set_tid_address setgid setgroups setresgid setresuid setuid sigaltstack stat \
        statfs statx tgkill umask uname wait4 write writev";
    let names: Vec<&str> = names.split_whitespace().collect();
    spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{ "names": names, "action": "SCMP_ACT_ALLOW" }] });
}

/// The probe's arguments are all ones.
fn by_arguments(spec: &mut Value, _: &Path) {
    let rule = |name: &str, arg: Value| json!({ "names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": 97, "args": [arg] });
    spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [
            rule("socket", json!({ "index": 0, "value": u64::MAX, "op": "SCMP_CMP_EQ" })),
            rule("dup", json!({ "index": 0, "value": 5, "op": "SCMP_CMP_GT" })),
            rule("flock", json!({ "index": 0, "value": 255, "valueTwo": 255, "op": "SCMP_CMP_MASKED_EQ" })),
            rule("fsync", json!({ "index": 0, "value": 5, "op": "SCMP_CMP_LT" })),
            rule("fchmod", json!({ "index": 1, "value": 5, "op": "SCMP_CMP_NE" })) ] });
}

#[test]
fn system_calls_are_answered_the_same() {
    let sections = &["process", "calls"];
    let bundles = [
        bundle("some refused", some_refused).sections(sections),
        bundle("some allowed", some_allowed).sections(sections),
        bundle("by arguments", by_arguments).sections(sections),
    ];
    // A kernel may lack a call, or check its arguments in another order; `uretprobe` and `uprobe` pass every filter.
    let others = [
        139, 163, 190, 193, 199, 232, 304, 329, 330, 331, 335, 336, 447, 451, 463, 464, 465, 466, 467, 468,
        469, 470,
    ];
    let others: Vec<String> = others.iter().map(|number| format!("call {number}")).collect();
    let others = others.iter().map(|fact| Expected { fact, reason: KERNEL });
    let expected: Vec<Expected<'_>> = ALWAYS.iter().copied().chain(others).collect();
    test(|containerd| compare(containerd, &bundles, &expected));
}

#[test]
fn a_shared_root_is_shared() {
    let bundles = [bundle("shared", |spec, _| spec["linux"]["rootfsPropagation"] = json!("shared"))];
    let runcs =
        Expected { fact: "mount / passes on", reason: "runc 1.1 leaves it private, against config-linux.md" };
    let expected: Vec<Expected<'_>> = ALWAYS.iter().copied().chain([runcs]).collect();
    test(|containerd| compare(containerd, &bundles, &expected));
}

#[test]
fn added_processes_are_the_same() {
    let bundles = [
        bundle("as containerd makes it", |_, _| {}),
        bundle("a user with groups and new privileges", |spec, _| {
            spec["process"]["user"] = json!({ "uid": 7, "gid": 8, "additionalGids": [10, 9], "umask": 0o27 });
            spec["process"]["noNewPrivileges"] = json!(false);
        }),
        bundle("limits and a folder", |spec, _| {
            limit(spec, "RLIMIT_CORE", 0, 0);
            spec["process"]["cwd"] = json!("/tmp");
            spec["process"]["oomScoreAdj"] = json!(300);
        }),
        bundle("under a profile", |spec, root| {
            spec["root"]["readonly"] = json!(true);
            some_refused(spec, root);
        }),
        bundle("in a user namespace", own_users),
    ];
    let numbers = "runc uses up some process ids itself";
    let own = [
        Expected { fact: "status Pid", reason: numbers },
        Expected { fact: "status NS*", reason: numbers },
        Expected { fact: "status Umask", reason: "runc 1.1 forgets the mask of an added process" },
    ];
    let expected: Vec<Expected<'_>> = with_guests_devices().into_iter().chain(own).collect();
    test(|containerd| compare_execs(containerd, &bundles, &expected));
}

#[test]
fn what_makes_no_sense_is_refused_by_both() {
    let bundles = [
        bundle("no arguments", |spec, _| spec["process"]["args"] = json!([])),
        bundle("no such program", |spec, _| spec["process"]["args"] = json!(["/bin/no-such"])),
        bundle("not executable", |spec, root| {
            fs::write(root.join("etc/plain"), "x").expect("a file");
            spec["process"]["args"] = json!(["/etc/plain"]);
        }),
        bundle("a file as folder", |spec, _| spec["process"]["cwd"] = json!("/etc/passwd")),
        bundle("a relative folder", |spec, _| spec["process"]["cwd"] = json!("tmp")),
        bundle("an unknown namespace", |spec, _| {
            spec["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({ "type": "dream" }));
        }),
        bundle("no such root", |spec, _| spec["root"]["path"] = json!("/no/such/root")),
        bundle("soft above hard", |spec, _| limit(spec, "RLIMIT_CPU", 20, 10)),
        bundle("an unknown one", |spec, _| limit(spec, "RLIMIT_FLIGHT", 1, 1)),
        bundle("a source that is not there", |spec, _| {
            let options = ["bind"];
            add_mount(
                spec,
                json!({ "destination": "/data", "type": "bind", "source": "/no/such", "options": options }),
            );
        }),
        bundle("an unknown option", |spec, _| tmpfs(spec, "/tmp", &["no_such=1"])),
        bundle("an unknown setting", |spec, _| spec["linux"]["sysctl"] = json!({ "kernel.no_such": "1" })),
    ];
    test(|containerd| both_refuse(containerd, &bundles));
}

/// How many made-up specifications are compared.
const MADE_UP: usize = 12;

fn some_of<T: Clone + std::fmt::Debug + 'static>(all: &[T]) -> impl Strategy<Value = Vec<T>> + use<T> {
    subsequence(all.to_vec(), 0..=all.len())
}

fn capabilities() -> impl Strategy<Value = Value> {
    let all = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_SYS_ADMIN", "CAP_SETUID", "CAP_SYS_CHROOT"];
    let sets = some_of(&all).prop_flat_map(|bounding| {
        let inner = some_of(&bounding);
        (Just(bounding), inner.prop_flat_map(|own| (Just(own.clone()), some_of(&own), some_of(&own))))
    });
    sets.prop_map(|(bounding, (permitted, effective, ambient))| {
        json!({ "bounding": bounding, "permitted": permitted, "effective": effective, "inheritable": permitted,
            "ambient": ambient })
    })
}

fn limits() -> impl Strategy<Value = Vec<Value>> {
    let names = [
        "RLIMIT_CORE",
        "RLIMIT_SIGPENDING",
        "RLIMIT_FSIZE",
        "RLIMIT_NPROC",
        "RLIMIT_MSGQUEUE",
        "RLIMIT_NOFILE",
    ];
    (some_of(&names), 1_u64 << 10..1 << 12, 0_u64..1 << 10).prop_map(|(names, soft, more)| {
        let limit = |name| json!({ "type": name, "soft": soft, "hard": soft + more });
        names.into_iter().map(limit).collect()
    })
}

fn process_parts() -> impl Strategy<Value = Value> {
    let user = (0_u32..2000, 0_u32..2000, vec(0_u32..3000, 0..4), option::of(0_u32..0o100));
    let variables = ["A=1", "B=two words", "PATH=/bin:/usr/bin", "HOME=/tmp", "EMPTY=", "TERM=dumb"];
    let folder = select(vec!["/", "/tmp", "/proc", "/new/one", "/bin"]);
    let flags = (any::<bool>(), 0_i32..1000);
    (user, capabilities(), limits(), some_of(&variables), folder, flags).prop_map(
        |((uid, gid, groups, umask), capabilities, limits, env, cwd, (no_new, score))| {
            let mut user = json!({ "uid": uid, "gid": gid, "additionalGids": groups });
            if let Some(umask) = umask {
                user["umask"] = json!(umask);
            }
            json!({ "user": user, "capabilities": capabilities, "rlimits": limits, "env": env, "cwd": cwd,
                "noNewPrivileges": no_new, "oomScoreAdj": score })
        },
    )
}

fn new_mounts() -> impl Strategy<Value = Vec<Value>> {
    let places = ["/tmp", "/made", "/etc/below/it", "/mnt"];
    let options = ["ro", "nosuid", "nodev", "noexec", "noatime", "size=1m", "nr_inodes=64", "private"];
    (some_of(&places), vec(some_of(&options), places.len())).prop_map(|(places, options)| {
        let mount = |(place, options)| {
            json!({ "destination": place, "type": "tmpfs", "source": "tmpfs", "options": options })
        };
        places.into_iter().zip(options).map(mount).collect()
    })
}

/// A specification in which many properties meet.
fn made_up() -> impl Strategy<Value = Value> {
    let paths = ["/etc", "/tmp", "/proc/sys", "/proc/bus", "/bin/busybox", "/no/such"];
    let settings = ["kernel.msgmax", "kernel.shmmni", "kernel.msgmnb"];
    let spaces = ["cgroup", "user"];
    let parts = (process_parts(), new_mounts(), some_of(&paths), some_of(&paths));
    (parts, some_of(&settings), some_of(&spaces), any::<bool>()).prop_map(
        |((process, mounts, masked, readonly), settings, spaces, whole)| {
            json!({ "process": process, "mounts": mounts, "masked": masked, "readonly": readonly,
                "settings": settings, "spaces": spaces, "root": whole })
        },
    )
}

fn apply(made: &Value, spec: &mut Value, root: &Path) {
    let list = |name: &str| made[name].as_array().expect("a list").clone();
    for (name, value) in made["process"].as_object().expect("an object") {
        spec["process"][name] = value.clone();
    }
    spec["root"]["readonly"] = made["root"].clone();
    list("mounts").into_iter().for_each(|mount| add_mount(spec, mount));
    spec["linux"]["maskedPaths"] = made["masked"].clone();
    spec["linux"]["readonlyPaths"] = made["readonly"].clone();
    for name in list("settings") {
        spec["linux"]["sysctl"][name.as_str().expect("text")] = json!("4000");
    }
    for kind in list("spaces") {
        match kind.as_str() {
            Some("user") => own_users(spec, root),
            _ => spec["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({ "type": kind })),
        }
    }
}

#[test]
fn made_up_specifications_are_the_same() {
    let mut runner = TestRunner::deterministic();
    let bundles: Vec<Bundle> = (0..MADE_UP)
        .map(|number| {
            let made = made_up().new_tree(&mut runner).expect("can be made").current();
            println!("number {number}: {made}");
            Bundle::new(format!("number {number}"), move |spec, root| apply(&made, spec, root))
        })
        .collect();
    let masks = ["/etc", "/tmp", "/proc/bus", "/proc/sys", "/bin/busybox"]
        .map(|path| format!("mount {path} *options"));
    let masks = masks.iter().map(|fact| Expected { fact, reason: MASK });
    let expected: Vec<Expected<'_>> = with_guests_devices().into_iter().chain(masks).collect();
    test(|containerd| compare_made_up(containerd, &bundles, &expected));
}
