//! The JSON form of the OCI specification to messages.

use std::collections::HashMap;

use protobuf::MessageField;
use serde_json::Value;

use crate::oci;

/// A JSON object whose absent fields read as the protocol's zero.
#[derive(Clone, Copy)]
pub(super) struct Node<'a>(pub(super) &'a Value);

impl<'a> Node<'a> {
    fn text(self, key: &str) -> String {
        self.0[key].as_str().unwrap_or_default().to_owned()
    }

    fn flag(self, key: &str) -> bool {
        self.0[key].as_bool().unwrap_or_default()
    }

    fn signed(self, key: &str) -> i64 {
        self.signed_or(key, 0)
    }

    fn signed_or(self, key: &str, absent: i64) -> i64 {
        self.0[key].as_i64().unwrap_or(absent)
    }

    fn unsigned(self, key: &str) -> u64 {
        self.0[key].as_u64().unwrap_or_default()
    }

    fn word(self, key: &str) -> u32 {
        u32::try_from(self.unsigned(key)).unwrap_or(u32::MAX)
    }

    fn signed_word(self, key: &str) -> i32 {
        i32::try_from(self.signed(key)).unwrap_or(i32::MAX)
    }

    fn optional_word(self, key: &str) -> Option<u32> {
        self.0[key].as_u64().map(|number| u32::try_from(number).unwrap_or(u32::MAX))
    }

    fn strings(self, key: &str) -> Vec<String> {
        self.list(key, |item| item.0.as_str().unwrap_or_default().to_owned())
    }

    /// For sets, which come in no order.
    fn sorted(self, key: &str) -> Vec<String> {
        let mut items = self.strings(key);
        items.sort_unstable();
        items
    }

    fn list<M>(self, key: &str, convert: impl Fn(Node<'a>) -> M) -> Vec<M> {
        self.0[key].as_array().into_iter().flatten().map(|item| convert(Node(item))).collect()
    }

    fn message<M>(self, key: &str, convert: impl FnOnce(Node<'a>) -> M) -> MessageField<M> {
        match &self.0[key] {
            Value::Null => MessageField::none(),
            value => MessageField::some(convert(Node(value))),
        }
    }

    fn map(self, key: &str) -> HashMap<String, String> {
        self.messages(key, |value| value.0.as_str().unwrap_or_default().to_owned())
    }

    fn messages<M>(self, key: &str, convert: impl Fn(Node<'a>) -> M) -> HashMap<String, M> {
        let fields = self.0[key].as_object().into_iter().flatten();
        fields.map(|(name, value)| (name.clone(), convert(Node(value)))).collect()
    }
}

pub(super) fn spec(node: Node<'_>) -> oci::Spec {
    oci::Spec {
        Version: node.text("ociVersion"),
        Process: node.message("process", process),
        Root: node.message("root", |root| oci::Root {
            Path: root.text("path"),
            Readonly: root.flag("readonly"),
            ..Default::default()
        }),
        Hostname: node.text("hostname"),
        Domainname: node.text("domainname"),
        Mounts: node.list("mounts", mount),
        Hooks: node.message("hooks", hooks),
        Annotations: node.map("annotations"),
        Linux: node.message("linux", linux),
        ..Default::default()
    }
}

pub(super) fn process(node: Node<'_>) -> oci::Process {
    oci::Process {
        Terminal: node.flag("terminal"),
        ConsoleSize: node.message("consoleSize", |size| oci::Box {
            Height: size.word("height"),
            Width: size.word("width"),
            ..Default::default()
        }),
        User: node.message("user", |user| oci::User {
            UID: user.word("uid"),
            GID: user.word("gid"),
            AdditionalGids: user.list("additionalGids", |gid| {
                gid.0.as_u64().and_then(|gid| u32::try_from(gid).ok()).unwrap_or(0)
            }),
            Username: user.text("username"),
            Umask: user.optional_word("umask"),
            ..Default::default()
        }),
        Args: node.strings("args"),
        Env: node.strings("env"),
        Cwd: node.text("cwd"),
        Capabilities: node.message("capabilities", |sets| oci::LinuxCapabilities {
            Bounding: sets.sorted("bounding"),
            Effective: sets.sorted("effective"),
            Inheritable: sets.sorted("inheritable"),
            Permitted: sets.sorted("permitted"),
            Ambient: sets.sorted("ambient"),
            ..Default::default()
        }),
        Rlimits: node.list("rlimits", |limit| oci::POSIXRlimit {
            Type: limit.text("type"),
            Hard: limit.unsigned("hard"),
            Soft: limit.unsigned("soft"),
            ..Default::default()
        }),
        NoNewPrivileges: node.flag("noNewPrivileges"),
        ApparmorProfile: node.text("apparmorProfile"),
        OOMScoreAdj: node.signed("oomScoreAdj"),
        SelinuxLabel: node.text("selinuxLabel"),
        Scheduler: node.message("scheduler", scheduler),
        IOPriority: node.message("ioPriority", |io| oci::LinuxIOPriority {
            Class: io.text("class"),
            Priority: io.signed("priority"),
            ..Default::default()
        }),
        ExecCPUAffinity: node.message("execCPUAffinity", |cpus| oci::ExecCPUAffinity {
            Initial: cpus.text("initial"),
            Final: cpus.text("final"),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn scheduler(node: Node<'_>) -> oci::Scheduler {
    oci::Scheduler {
        Policy: node.text("policy"),
        Nice: node.signed_word("nice"),
        Priority: node.signed_word("priority"),
        Flags: node.strings("flags"),
        Runtime: node.unsigned("runtime"),
        Deadline: node.unsigned("deadline"),
        Period: node.unsigned("period"),
        ..Default::default()
    }
}

fn mount(node: Node<'_>) -> oci::Mount {
    oci::Mount {
        destination: node.text("destination"),
        source: node.text("source"),
        type_: node.text("type"),
        options: node.strings("options"),
        UIDMappings: node.list("uidMappings", id_mapping),
        GIDMappings: node.list("gidMappings", id_mapping),
        ..Default::default()
    }
}

fn hooks(node: Node<'_>) -> oci::Hooks {
    oci::Hooks {
        Prestart: node.list("prestart", hook),
        Poststart: node.list("poststart", hook),
        Poststop: node.list("poststop", hook),
        CreateRuntime: node.list("createRuntime", hook),
        CreateContainer: node.list("createContainer", hook),
        StartContainer: node.list("startContainer", hook),
        ..Default::default()
    }
}

fn hook(node: Node<'_>) -> oci::Hook {
    oci::Hook {
        Path: node.text("path"),
        Args: node.strings("args"),
        Env: node.strings("env"),
        Timeout: node.signed("timeout"),
        ..Default::default()
    }
}

fn linux(node: Node<'_>) -> oci::Linux {
    oci::Linux {
        UIDMappings: node.list("uidMappings", id_mapping),
        GIDMappings: node.list("gidMappings", id_mapping),
        Sysctl: node.map("sysctl"),
        Resources: node.message("resources", resources),
        CgroupsPath: node.text("cgroupsPath"),
        Namespaces: node.list("namespaces", |namespace| oci::LinuxNamespace {
            Type: namespace.text("type"),
            Path: namespace.text("path"),
            ..Default::default()
        }),
        Devices: node.list("devices", device),
        Seccomp: node.message("seccomp", seccomp),
        RootfsPropagation: node.text("rootfsPropagation"),
        MaskedPaths: node.strings("maskedPaths"),
        ReadonlyPaths: node.strings("readonlyPaths"),
        MountLabel: node.text("mountLabel"),
        IntelRdt: node.message("intelRdt", |rdt| oci::LinuxIntelRdt {
            L3CacheSchema: rdt.text("l3CacheSchema"),
            ..Default::default()
        }),
        TimeOffsets: node.messages("timeOffsets", |offset| oci::LinuxTimeOffset {
            Secs: offset.signed("secs"),
            Nanosecs: offset.word("nanosecs"),
            ..Default::default()
        }),
        Personality: node.message("personality", |persona| oci::LinuxPersonality {
            Domain: persona.text("domain"),
            Flags: persona.strings("flags"),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn id_mapping(node: Node<'_>) -> oci::LinuxIDMapping {
    oci::LinuxIDMapping {
        HostID: node.word("hostID"),
        ContainerID: node.word("containerID"),
        Size: node.word("size"),
        ..Default::default()
    }
}

fn device(node: Node<'_>) -> oci::LinuxDevice {
    oci::LinuxDevice {
        Path: node.text("path"),
        Type: node.text("type"),
        Major: node.signed("major"),
        Minor: node.signed("minor"),
        FileMode: node.word("fileMode"),
        UID: node.word("uid"),
        GID: node.word("gid"),
        ..Default::default()
    }
}

pub(super) fn resources(node: Node<'_>) -> oci::LinuxResources {
    oci::LinuxResources {
        Devices: node.list("devices", device_rule),
        Memory: node.message("memory", memory),
        CPU: node.message("cpu", cpu),
        Pids: node
            .message("pids", |pids| oci::LinuxPids { Limit: pids.signed("limit"), ..Default::default() }),
        BlockIO: node.message("blockIO", block_io),
        HugepageLimits: node.list("hugepageLimits", |limit| oci::LinuxHugepageLimit {
            Pagesize: limit.text("pageSize"),
            Limit: limit.unsigned("limit"),
            ..Default::default()
        }),
        Network: node.message("network", |network| oci::LinuxNetwork {
            ClassID: network.word("classID"),
            Priorities: network.list("priorities", |priority| oci::LinuxInterfacePriority {
                Name: priority.text("name"),
                Priority: priority.word("priority"),
                ..Default::default()
            }),
            ..Default::default()
        }),
        Unified: node.map("unified"),
        Rdma: node.messages("rdma", |limit| oci::LinuxRdma {
            HcaHandles: limit.optional_word("hcaHandles"),
            HcaObjects: limit.optional_word("hcaObjects"),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn device_rule(node: Node<'_>) -> oci::LinuxDeviceCgroup {
    oci::LinuxDeviceCgroup {
        Allow: node.flag("allow"),
        Type: node.text("type"),
        Major: node.signed_or("major", -1),
        Minor: node.signed_or("minor", -1),
        Access: node.text("access"),
        ..Default::default()
    }
}

fn memory(node: Node<'_>) -> oci::LinuxMemory {
    oci::LinuxMemory {
        Limit: node.signed("limit"),
        Reservation: node.signed("reservation"),
        Swap: node.signed("swap"),
        Kernel: node.signed("kernel"),
        KernelTCP: node.signed("kernelTCP"),
        Swappiness: node.unsigned("swappiness"),
        DisableOOMKiller: node.flag("disableOOMKiller"),
        CheckBeforeUpdate: node.flag("checkBeforeUpdate"),
        ..Default::default()
    }
}

fn cpu(node: Node<'_>) -> oci::LinuxCPU {
    oci::LinuxCPU {
        Shares: node.unsigned("shares"),
        Quota: node.signed("quota"),
        Period: node.unsigned("period"),
        RealtimeRuntime: node.signed("realtimeRuntime"),
        RealtimePeriod: node.unsigned("realtimePeriod"),
        Cpus: node.text("cpus"),
        Mems: node.text("mems"),
        Burst: node.unsigned("burst"),
        Idle: node.0["idle"].as_i64(),
        ..Default::default()
    }
}

fn block_io(node: Node<'_>) -> oci::LinuxBlockIO {
    oci::LinuxBlockIO {
        Weight: node.word("weight"),
        LeafWeight: node.word("leafWeight"),
        WeightDevice: node.list("weightDevice", |device| oci::LinuxWeightDevice {
            Major: device.signed("major"),
            Minor: device.signed("minor"),
            Weight: device.word("weight"),
            LeafWeight: device.word("leafWeight"),
            ..Default::default()
        }),
        ThrottleReadBpsDevice: node.list("throttleReadBpsDevice", throttle),
        ThrottleWriteBpsDevice: node.list("throttleWriteBpsDevice", throttle),
        ThrottleReadIOPSDevice: node.list("throttleReadIOPSDevice", throttle),
        ThrottleWriteIOPSDevice: node.list("throttleWriteIOPSDevice", throttle),
        ..Default::default()
    }
}

fn throttle(node: Node<'_>) -> oci::LinuxThrottleDevice {
    oci::LinuxThrottleDevice {
        Major: node.signed("major"),
        Minor: node.signed("minor"),
        Rate: node.unsigned("rate"),
        ..Default::default()
    }
}

fn seccomp(node: Node<'_>) -> oci::LinuxSeccomp {
    oci::LinuxSeccomp {
        DefaultAction: node.text("defaultAction"),
        Architectures: node.strings("architectures"),
        Flags: node.strings("flags"),
        Syscalls: node.list("syscalls", |rule| {
            let mut syscall = oci::LinuxSyscall {
                Names: rule.strings("names"),
                Action: rule.text("action"),
                Args: rule.list("args", |arg| oci::LinuxSeccompArg {
                    Index: arg.unsigned("index"),
                    Value: arg.unsigned("value"),
                    ValueTwo: arg.unsigned("valueTwo"),
                    Op: arg.text("op"),
                    ..Default::default()
                }),
                ..Default::default()
            };
            if let Some(errno) = rule.optional_word("errnoRet") {
                syscall.set_errnoret(errno);
            }
            syscall
        }),
        DefaultErrnoRet: node.optional_word("defaultErrnoRet"),
        ListenerPath: node.text("listenerPath"),
        ListenerMetadata: node.text("listenerMetadata"),
        ..Default::default()
    }
}
