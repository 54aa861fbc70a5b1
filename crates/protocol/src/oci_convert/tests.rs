//! What the protocol holds is taken from OCI whole.
#![expect(non_snake_case, reason = "the strategies bind the protocol's own field names")]

use proptest::{collection::vec, option, prelude::*, sample::select};
use protobuf::MessageField;

use super::{process_to_grpc, spec_to_grpc, unsupported};
use crate::oci;

mod to_json;

fn text() -> impl Strategy<Value = String> {
    "[a-z0-9/_.=-]{1,12}"
}

fn message<S: Strategy>(strategy: S) -> impl Strategy<Value = MessageField<S::Value>>
where
    S::Value: Clone,
{
    option::of(strategy).prop_map(|value| value.map_or_else(MessageField::none, MessageField::some))
}

prop_compose! {
    fn user()(UID in any::<u32>(), GID in any::<u32>(), AdditionalGids in vec(any::<u32>(), 0..4),
              Username in text()) -> oci::User {
        oci::User { UID, GID, AdditionalGids, Username, ..Default::default() }
    }
}

fn capability_set() -> impl Strategy<Value = Vec<String>> {
    proptest::sample::subsequence(vec!["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_SYS_ADMIN"], 0..4)
        .prop_map(|set| set.into_iter().map(str::to_owned).collect())
}

prop_compose! {
    fn capabilities()(Bounding in capability_set(), Effective in capability_set(), Inheritable in capability_set(),
                      Permitted in capability_set(), Ambient in capability_set()) -> oci::LinuxCapabilities {
        oci::LinuxCapabilities { Bounding, Effective, Inheritable, Permitted, Ambient, ..Default::default() }
    }
}

prop_compose! {
    fn scheduler()(policy in select(vec!["SCHED_OTHER", "SCHED_FIFO", "SCHED_DEADLINE"]), Nice in any::<i32>(),
                   Priority in any::<i32>(), reset in any::<bool>(), Runtime in any::<u64>(),
                   Deadline in any::<u64>(), Period in any::<u64>()) -> oci::Scheduler {
        let Flags = if reset { vec!["SCHED_RESET_ON_FORK".to_owned()] } else { Vec::new() };
        let Policy = policy.to_owned();
        oci::Scheduler { Policy, Nice, Priority, Flags, Runtime, Deadline, Period, ..Default::default() }
    }
}

prop_compose! {
    fn io_priority()(class in select(vec!["IOPRIO_CLASS_RT", "IOPRIO_CLASS_IDLE"]), Priority in 0i64..8)
                    -> oci::LinuxIOPriority {
        oci::LinuxIOPriority { Class: class.to_owned(), Priority, ..Default::default() }
    }
}

prop_compose! {
    fn affinity()(Initial in "|[0-9]", Final in "[0-9]-1[0-9],20") -> oci::ExecCPUAffinity {
        oci::ExecCPUAffinity { Initial, Final, ..Default::default() }
    }
}

prop_compose! {
    fn process()(Terminal in any::<bool>(), User in user(), Args in vec(text(), 0..4), Env in vec(text(), 0..4),
                 Cwd in text(), Capabilities in message(capabilities()), NoNewPrivileges in any::<bool>(),
                 OOMScoreAdj in -1000i64..1000, size in option::of(any::<(u32, u32)>()),
                 limits in vec((select(vec!["RLIMIT_NOFILE", "RLIMIT_CORE"]), any::<(u64, u64)>()), 0..3),
                 Scheduler in message(scheduler()), IOPriority in message(io_priority()),
                 ExecCPUAffinity in message(affinity()))
                -> oci::Process {
        oci::Process {
            Scheduler, IOPriority, ExecCPUAffinity,
            Terminal, User: MessageField::some(User), Args, Env, Cwd, Capabilities, NoNewPrivileges, OOMScoreAdj,
            ConsoleSize: size.map_or_else(MessageField::none, |(Height, Width)| {
                MessageField::some(oci::Box { Height, Width, ..Default::default() })
            }),
            Rlimits: limits.into_iter().map(|(kind, (Hard, Soft))| {
                oci::POSIXRlimit { Type: kind.to_owned(), Hard, Soft, ..Default::default() }
            }).collect(),
            ..Default::default()
        }
    }
}

prop_compose! {
    fn device_rule()(Allow in any::<bool>(), kind in select(vec!["a", "b", "c"]),
                     (Major, Minor) in prop_oneof![Just((-1, -1)), (1i64..500, -1i64..500)], Access in "[rwm]{1,3}")
                    -> oci::LinuxDeviceCgroup {
        oci::LinuxDeviceCgroup { Allow, Type: kind.to_owned(), Major, Minor, Access, ..Default::default() }
    }
}

prop_compose! {
    fn resources()(Devices in vec(device_rule(), 0..3), Limit in any::<i64>(), Swap in any::<i64>(),
                   Swappiness in 0u64..100, Shares in any::<u64>(), Quota in any::<i64>(), Cpus in text(),
                   pids in any::<i64>(), DisableOOMKiller in any::<bool>(), rate in any::<u64>(),
                   weight in any::<u16>(), huge in 0..i64::MAX as u64) -> oci::LinuxResources {
        let throttle = oci::LinuxThrottleDevice { Major: 8, Minor: 1, Rate: rate, ..Default::default() };
        let memory = oci::LinuxMemory {
            Limit, Swap, Swappiness, DisableOOMKiller, CheckBeforeUpdate: DisableOOMKiller, ..Default::default()
        };
        oci::LinuxResources {
            Devices,
            Memory: MessageField::some(memory),
            CPU: MessageField::some(oci::LinuxCPU { Shares, Quota, Cpus, ..Default::default() }),
            Pids: MessageField::some(oci::LinuxPids { Limit: pids, ..Default::default() }),
            BlockIO: MessageField::some(oci::LinuxBlockIO {
                Weight: weight.into(),
                WeightDevice: vec![oci::LinuxWeightDevice { Major: 8, Weight: weight.into(), ..Default::default() }],
                ThrottleReadBpsDevice: vec![throttle.clone()],
                ThrottleWriteIOPSDevice: vec![throttle],
                ..Default::default()
            }),
            HugepageLimits: vec![
                oci::LinuxHugepageLimit { Pagesize: "2MB".to_owned(), Limit: huge, ..Default::default() },
            ],
            Network: MessageField::some(oci::LinuxNetwork { ClassID: 7, ..Default::default() }),
            Rdma: [("mlx5_1".to_owned(), oci::LinuxRdma { HcaHandles: Some(3), ..Default::default() })].into(),
            ..Default::default()
        }
    }
}

fn seccomp_rule(errno: Option<u32>, name: String, value: u64) -> oci::LinuxSyscall {
    let argument = oci::LinuxSeccompArg {
        Index: 1,
        Value: value,
        ValueTwo: value,
        Op: "SCMP_CMP_MASKED_EQ".to_owned(),
        ..Default::default()
    };
    let mut rule = oci::LinuxSyscall {
        Names: vec![name],
        Action: "SCMP_ACT_ERRNO".to_owned(),
        Args: vec![argument],
        ..Default::default()
    };
    if let Some(errno) = errno {
        rule.set_errnoret(errno);
    }
    rule
}

prop_compose! {
    fn seccomp()(rules in vec((option::of(any::<u32>()), text(), any::<u64>()), 0..3), DefaultErrnoRet in option::of(any::<u32>()),
                 ListenerPath in text(), ListenerMetadata in text()) -> oci::LinuxSeccomp {
        oci::LinuxSeccomp {
            DefaultAction: "SCMP_ACT_ALLOW".to_owned(),
            Architectures: vec!["SCMP_ARCH_X86_64".to_owned()],
            Flags: vec!["SECCOMP_FILTER_FLAG_LOG".to_owned()],
            Syscalls: rules.into_iter().map(|(errno, name, value)| seccomp_rule(errno, name, value)).collect(),
            DefaultErrnoRet, ListenerPath, ListenerMetadata,
            ..Default::default()
        }
    }
}

prop_compose! {
    fn linux()(Resources in message(resources()), CgroupsPath in text(), Seccomp in message(seccomp()),
               Sysctl in proptest::collection::hash_map(text(), text(), 0..3), ids in any::<(u32, u32, u32)>(),
               kinds in vec((select(vec!["pid", "network", "mount", "ipc", "uts", "user", "cgroup"]), text()), 0..4),
               MaskedPaths in vec(text(), 0..3), ReadonlyPaths in vec(text(), 0..3), RootfsPropagation in text(),
               MountLabel in text(), mode in 0u32..0o7777, (Secs, Nanosecs) in any::<(i64, u32)>(),
               domain in select(vec!["LINUX", "LINUX32"])) -> oci::Linux {
        let offset = oci::LinuxTimeOffset { Secs, Nanosecs, ..Default::default() };
        let personality = oci::LinuxPersonality { Domain: domain.to_owned(), ..Default::default() };
        let mapping = oci::LinuxIDMapping { HostID: ids.0, ContainerID: ids.1, Size: ids.2, ..Default::default() };
        let device = oci::LinuxDevice {
            Path: "/dev/x".to_owned(), Type: "c".to_owned(), Major: 1, Minor: 3, FileMode: mode, ..Default::default()
        };
        oci::Linux {
            UIDMappings: vec![mapping.clone()], GIDMappings: vec![mapping], Sysctl, Resources, CgroupsPath, Seccomp,
            MaskedPaths, ReadonlyPaths, RootfsPropagation, MountLabel, Devices: vec![device],
            Namespaces: kinds.into_iter().map(|(kind, Path)| {
                oci::LinuxNamespace { Type: kind.to_owned(), Path, ..Default::default() }
            }).collect(),
            IntelRdt: MessageField::some(oci::LinuxIntelRdt {
                L3CacheSchema: "L3:0=f".to_owned(), ..Default::default()
            }),
            TimeOffsets: [("boottime".to_owned(), offset)].into(),
            Personality: MessageField::some(personality),
            ..Default::default()
        }
    }
}

fn hooks() -> oci::Hooks {
    let hook = oci::Hook {
        Path: "/bin/hook".to_owned(),
        Args: vec!["hook".to_owned()],
        Env: vec!["A=b".to_owned()],
        Timeout: 3,
        ..Default::default()
    };
    oci::Hooks {
        Prestart: vec![hook.clone()],
        Poststart: vec![hook.clone()],
        Poststop: vec![hook.clone()],
        CreateRuntime: vec![hook.clone()],
        CreateContainer: vec![hook.clone()],
        StartContainer: vec![hook],
        ..Default::default()
    }
}

prop_compose! {
    fn spec()(Process in message(process()), Hostname in text(), Linux in message(linux()), readonly in any::<bool>(),
              Annotations in proptest::collection::hash_map(text(), text(), 0..3), options in vec(text(), 0..3))
             -> oci::Spec {
        let mount = oci::Mount {
            destination: "/proc".to_owned(), source: "proc".to_owned(), type_: "proc".to_owned(), options,
            UIDMappings: vec![oci::LinuxIDMapping { HostID: 1000, Size: 5, ..Default::default() }],
            ..Default::default()
        };
        oci::Spec {
            Version: "1.2.0".to_owned(), Process, Hostname, Annotations, Linux, Mounts: vec![mount],
            Root: MessageField::some(oci::Root {
                Path: "/rootfs".to_owned(), Readonly: readonly, ..Default::default()
            }),
            Hooks: MessageField::some(hooks()),
            ..Default::default()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn nothing_of_a_specification_is_lost(wanted in spec()) {
        let given = serde_json::from_value(to_json::spec(&wanted)).expect("generated specifications are valid");
        prop_assert_eq!(spec_to_grpc(&given), wanted);
    }

    #[test]
    fn nothing_of_a_process_is_lost(wanted in process()) {
        let given = serde_json::from_value(to_json::process(&wanted)).expect("generated processes are valid");
        prop_assert_eq!(process_to_grpc(&given), wanted);
    }
}

#[test]
fn the_default_specification_is_taken_whole() {
    let spec = oci_spec::runtime::Spec::default();
    let back: oci_spec::runtime::Spec =
        serde_json::from_value(to_json::spec(&spec_to_grpc(&spec))).expect("made from a valid one");
    assert_eq!(back.process().as_ref().map(|p| p.args()), spec.process().as_ref().map(|p| p.args()));
    assert_eq!(back.mounts(), spec.mounts());
    assert_eq!(
        back.linux().as_ref().map(|l| l.namespaces().clone()),
        spec.linux().as_ref().map(|l| l.namespaces().clone())
    );
}

#[test]
fn a_rule_for_all_devices_has_minus_one_for_numbers() {
    let spec = serde_json::json!({ "ociVersion": "1.2.0", "linux": { "resources": { "devices": [
        { "allow": false, "access": "rwm" } ] } } });
    let sent = spec_to_grpc(&serde_json::from_value(spec).expect("is a specification"));
    let rule = &sent.Linux.Resources.Devices[0];
    assert_eq!((rule.Major, rule.Minor), (-1, -1));
}

#[test]
fn what_would_be_lost_is_named() {
    let of =
        |json: serde_json::Value| unsupported(&serde_json::from_value(json).expect("is a specification"));
    let plain = serde_json::json!({ "ociVersion": "1.2.0", "linux": { "netDevices": {} }, "mounts": [
        { "destination": "/data", "type": "bind", "source": "/srv" } ] });
    assert_eq!(of(plain), None);
    let network = serde_json::json!({ "ociVersion": "1.2.0", "linux": { "netDevices": { "eth0": {} } } });
    assert_eq!(of(network).as_deref(), Some("linux.netDevices"));
}
