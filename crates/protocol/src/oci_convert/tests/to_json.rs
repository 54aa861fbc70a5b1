//! Messages to the JSON form of the OCI specification.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::oci;

/// A JSON object that leaves out what the protocol says is not given.
#[derive(Default)]
struct Object(Map<String, Value>);

impl Object {
    fn always(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }

    /// Unless zero, false or empty.
    fn given(self, key: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        let absent = match &value {
            Value::Null => true,
            Value::Bool(flag) => !flag,
            Value::Number(number) => number.as_i64() == Some(0),
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
        };
        if absent { self } else { self.always(key, value) }
    }

    fn message<M>(self, key: &str, message: Option<&M>, convert: impl FnOnce(&M) -> Value) -> Self {
        match message {
            Some(message) => self.always(key, convert(message)),
            None => self,
        }
    }

    fn list<M>(self, key: &str, items: &[M], convert: impl Fn(&M) -> Value) -> Self {
        self.given(key, items.iter().map(convert).collect::<Vec<_>>())
    }

    fn strings(self, key: &str, items: &[String]) -> Self {
        self.given(key, items.to_vec())
    }

    fn map(self, key: &str, items: &HashMap<String, String>) -> Self {
        self.messages(key, items, |text| Value::from(text.as_str()))
    }

    fn messages<M>(self, key: &str, items: &HashMap<String, M>, convert: impl Fn(&M) -> Value) -> Self {
        let fields: Map<_, _> = items.iter().map(|(name, item)| (name.clone(), convert(item))).collect();
        self.given(key, fields)
    }

    fn done(self) -> Value {
        Value::Object(self.0)
    }
}

fn object() -> Object {
    Object::default()
}

pub(super) fn spec(spec: &oci::Spec) -> Value {
    object()
        .always("ociVersion", spec.Version.as_str())
        .message("process", spec.Process.as_ref(), process)
        .message("root", spec.Root.as_ref(), |root| json!({ "path": root.Path, "readonly": root.Readonly }))
        .given("hostname", spec.Hostname.as_str())
        .list("mounts", &spec.Mounts, mount)
        .message("hooks", spec.Hooks.as_ref(), hooks)
        .map("annotations", &spec.Annotations)
        .message("linux", spec.Linux.as_ref(), linux)
        .done()
}

pub(super) fn process(process: &oci::Process) -> Value {
    object()
        .given("terminal", process.Terminal)
        .message(
            "consoleSize",
            process.ConsoleSize.as_ref(),
            |size| json!({ "height": size.Height, "width": size.Width }),
        )
        .always("user", user(process.User.get_or_default()))
        .strings("args", &process.Args)
        .strings("env", &process.Env)
        .always("cwd", process.Cwd.as_str())
        .message("capabilities", process.Capabilities.as_ref(), |sets| {
            object()
                .strings("bounding", &sets.Bounding)
                .strings("effective", &sets.Effective)
                .strings("inheritable", &sets.Inheritable)
                .strings("permitted", &sets.Permitted)
                .strings("ambient", &sets.Ambient)
                .done()
        })
        .list(
            "rlimits",
            &process.Rlimits,
            |limit| json!({ "type": limit.Type, "hard": limit.Hard, "soft": limit.Soft }),
        )
        .always("noNewPrivileges", process.NoNewPrivileges)
        .given("apparmorProfile", process.ApparmorProfile.as_str())
        .given("oomScoreAdj", process.OOMScoreAdj)
        .given("selinuxLabel", process.SelinuxLabel.as_str())
        .message("scheduler", process.Scheduler.as_ref(), scheduler)
        .message(
            "ioPriority",
            process.IOPriority.as_ref(),
            |io| json!({ "class": io.Class, "priority": io.Priority }),
        )
        .message("execCPUAffinity", process.ExecCPUAffinity.as_ref(), |cpus| {
            object().given("initial", cpus.Initial.as_str()).given("final", cpus.Final.as_str()).done()
        })
        .done()
}

fn scheduler(scheduler: &oci::Scheduler) -> Value {
    object()
        .always("policy", scheduler.Policy.as_str())
        .given("nice", scheduler.Nice)
        .given("priority", scheduler.Priority)
        .strings("flags", &scheduler.Flags)
        .given("runtime", scheduler.Runtime)
        .given("deadline", scheduler.Deadline)
        .given("period", scheduler.Period)
        .done()
}

fn user(user: &oci::User) -> Value {
    object()
        .always("uid", user.UID)
        .always("gid", user.GID)
        .given("additionalGids", user.AdditionalGids.clone())
        .given("username", user.Username.as_str())
        .done()
}

fn mount(mount: &oci::Mount) -> Value {
    object()
        .always("destination", mount.destination.as_str())
        .given("source", mount.source.as_str())
        .given("type", mount.type_.as_str())
        .strings("options", &mount.options)
        .list("uidMappings", &mount.UIDMappings, id_mapping)
        .list("gidMappings", &mount.GIDMappings, id_mapping)
        .done()
}

fn hooks(hooks: &oci::Hooks) -> Value {
    object()
        .list("prestart", &hooks.Prestart, hook)
        .list("poststart", &hooks.Poststart, hook)
        .list("poststop", &hooks.Poststop, hook)
        .list("createRuntime", &hooks.CreateRuntime, hook)
        .list("createContainer", &hooks.CreateContainer, hook)
        .list("startContainer", &hooks.StartContainer, hook)
        .done()
}

fn hook(hook: &oci::Hook) -> Value {
    object()
        .always("path", hook.Path.as_str())
        .strings("args", &hook.Args)
        .strings("env", &hook.Env)
        .given("timeout", hook.Timeout)
        .done()
}

fn linux(linux: &oci::Linux) -> Value {
    object()
        .list("uidMappings", &linux.UIDMappings, id_mapping)
        .list("gidMappings", &linux.GIDMappings, id_mapping)
        .map("sysctl", &linux.Sysctl)
        .message("resources", linux.Resources.as_ref(), resources)
        .given("cgroupsPath", linux.CgroupsPath.as_str())
        .list("namespaces", &linux.Namespaces, |namespace| {
            object().always("type", namespace.Type.as_str()).given("path", namespace.Path.as_str()).done()
        })
        .list("devices", &linux.Devices, device)
        .message("seccomp", linux.Seccomp.as_ref(), seccomp)
        .given("rootfsPropagation", linux.RootfsPropagation.as_str())
        .strings("maskedPaths", &linux.MaskedPaths)
        .strings("readonlyPaths", &linux.ReadonlyPaths)
        .given("mountLabel", linux.MountLabel.as_str())
        .message("intelRdt", linux.IntelRdt.as_ref(), |rdt| {
            object().given("l3CacheSchema", rdt.L3CacheSchema.as_str()).done()
        })
        .messages(
            "timeOffsets",
            &linux.TimeOffsets,
            |offset| json!({ "secs": offset.Secs, "nanosecs": offset.Nanosecs }),
        )
        .message("personality", linux.Personality.as_ref(), |persona| {
            object().always("domain", persona.Domain.as_str()).strings("flags", &persona.Flags).done()
        })
        .done()
}

fn id_mapping(mapping: &oci::LinuxIDMapping) -> Value {
    json!({ "hostID": mapping.HostID, "containerID": mapping.ContainerID, "size": mapping.Size })
}

fn device(device: &oci::LinuxDevice) -> Value {
    object()
        .always("path", device.Path.as_str())
        .always("type", device.Type.as_str())
        .always("major", device.Major)
        .always("minor", device.Minor)
        .given("fileMode", device.FileMode)
        .given("uid", device.UID)
        .given("gid", device.GID)
        .done()
}

pub(super) fn resources(resources: &oci::LinuxResources) -> Value {
    object()
        .list("devices", &resources.Devices, device_rule)
        .message("memory", resources.Memory.as_ref(), memory)
        .message("cpu", resources.CPU.as_ref(), cpu)
        .message("pids", resources.Pids.as_ref(), |pids| json!({ "limit": pids.Limit }))
        .message("blockIO", resources.BlockIO.as_ref(), block_io)
        .list(
            "hugepageLimits",
            &resources.HugepageLimits,
            |limit| json!({ "pageSize": limit.Pagesize, "limit": limit.Limit }),
        )
        .message("network", resources.Network.as_ref(), |network| {
            object()
                .given("classID", network.ClassID)
                .list(
                    "priorities",
                    &network.Priorities,
                    |priority| json!({ "name": priority.Name, "priority": priority.Priority }),
                )
                .done()
        })
        .messages("rdma", &resources.Rdma, |limit| {
            let count = |count: &u32| Value::from(*count);
            object()
                .message("hcaHandles", limit.HcaHandles.as_ref(), count)
                .message("hcaObjects", limit.HcaObjects.as_ref(), count)
                .done()
        })
        .done()
}

/// A rule for every device of a type carries -1 for its numbers; older callers send 0 and 0.
fn device_rule(rule: &oci::LinuxDeviceCgroup) -> Value {
    let mut fields = object()
        .always("allow", rule.Allow)
        .given("type", rule.Type.as_str())
        .given("access", rule.Access.as_str());
    let any_major = rule.Major <= 0;
    if !any_major {
        fields = fields.always("major", rule.Major);
    }
    if rule.Minor > 0 || (rule.Minor == 0 && !any_major) {
        fields = fields.always("minor", rule.Minor);
    }
    fields.done()
}

fn memory(memory: &oci::LinuxMemory) -> Value {
    object()
        .given("limit", memory.Limit)
        .given("reservation", memory.Reservation)
        .given("swap", memory.Swap)
        .given("kernel", memory.Kernel)
        .given("kernelTCP", memory.KernelTCP)
        .given("swappiness", memory.Swappiness)
        .given("disableOOMKiller", memory.DisableOOMKiller)
        .given("checkBeforeUpdate", memory.CheckBeforeUpdate)
        .done()
}

fn cpu(cpu: &oci::LinuxCPU) -> Value {
    object()
        .given("shares", cpu.Shares)
        .given("quota", cpu.Quota)
        .given("period", cpu.Period)
        .given("realtimeRuntime", cpu.RealtimeRuntime)
        .given("realtimePeriod", cpu.RealtimePeriod)
        .given("cpus", cpu.Cpus.as_str())
        .given("mems", cpu.Mems.as_str())
        .done()
}

fn block_io(io: &oci::LinuxBlockIO) -> Value {
    object()
        .given("weight", io.Weight)
        .given("leafWeight", io.LeafWeight)
        .list("weightDevice", &io.WeightDevice, |device| {
            object()
                .always("major", device.Major)
                .always("minor", device.Minor)
                .given("weight", device.Weight)
                .given("leafWeight", device.LeafWeight)
                .done()
        })
        .list("throttleReadBpsDevice", &io.ThrottleReadBpsDevice, throttle)
        .list("throttleWriteBpsDevice", &io.ThrottleWriteBpsDevice, throttle)
        .list("throttleReadIOPSDevice", &io.ThrottleReadIOPSDevice, throttle)
        .list("throttleWriteIOPSDevice", &io.ThrottleWriteIOPSDevice, throttle)
        .done()
}

fn throttle(device: &oci::LinuxThrottleDevice) -> Value {
    json!({ "major": device.Major, "minor": device.Minor, "rate": device.Rate })
}

fn seccomp(seccomp: &oci::LinuxSeccomp) -> Value {
    object()
        .always("defaultAction", seccomp.DefaultAction.as_str())
        .strings("architectures", &seccomp.Architectures)
        .strings("flags", &seccomp.Flags)
        .message("defaultErrnoRet", seccomp.DefaultErrnoRet.as_ref(), |errno| Value::from(*errno))
        .given("listenerPath", seccomp.ListenerPath.as_str())
        .given("listenerMetadata", seccomp.ListenerMetadata.as_str())
        .list("syscalls", &seccomp.Syscalls, |rule| {
            let errno = rule.ErrnoRet.as_ref().map(|_| rule.errnoret());
            object()
                .always("names", rule.Names.clone())
                .always("action", rule.Action.as_str())
                .message("errnoRet", errno.as_ref(), |errno| Value::from(*errno))
                .list("args", &rule.Args, |arg| {
                    object()
                        .always("index", arg.Index)
                        .always("value", arg.Value)
                        .given("valueTwo", arg.ValueTwo)
                        .always("op", arg.Op.as_str())
                        .done()
                })
                .done()
        })
        .done()
}
