//! Limits of the OCI runtime specification (`config-linux.md`, "Control groups") as files of cgroup v2.

use kata_protocol::oci::{LinuxBlockIO, LinuxCPU, LinuxMemory, LinuxResources};

/// The period of a CPU quota that has none, in microseconds.
const CPU_PERIOD: u64 = 100_000;
/// cgroup v1's range of CPU shares and of block devices' weights, and v2's of weights.
const SHARES: (u64, u64) = (2, 262_144);
const IO_WEIGHTS: (u64, u64) = (10, 1000);
const WEIGHTS: (u64, u64) = (1, 10_000);

/// A limit whose file would be somewhere else.
#[derive(Debug, thiserror::Error)]
#[error("{name:?} is no file of a cgroup; correct unified or hugepageLimits in linux.resources")]
pub(crate) struct NameError {
    name: String,
}

/// A file of the cgroup and what is written to it.
type Setting = (String, String);

/// The settings in the order in which they are written. Zero stands for "not given", and a negative limit for none.
pub(super) fn settings(resources: &LinuxResources) -> Result<Vec<Setting>, NameError> {
    let mut settings = Vec::new();
    if let Some(cpu) = resources.CPU.as_ref() {
        add_cpu(&mut settings, cpu);
    }
    if let Some(memory) = resources.Memory.as_ref() {
        add_memory(&mut settings, memory);
    }
    if let Some(pids) = resources.Pids.as_ref().filter(|pids| pids.Limit != 0) {
        add(&mut settings, "pids.max", maximum(pids.Limit));
    }
    if let Some(io) = resources.BlockIO.as_ref() {
        add_io(&mut settings, io);
    }
    for limit in &resources.HugepageLimits {
        // Reservations, too: mapping more fails then, in place of the first use of what was mapped.
        for kind in ["max", "rsvd.max"] {
            add(&mut settings, &format!("hugetlb.{}.{kind}", limit.Pagesize), limit.Limit.to_string());
        }
    }
    for (device, limit) in &resources.Rdma {
        let count = |count: Option<u32>| count.map_or_else(|| "max".to_owned(), |count| count.to_string());
        let (handles, objects) = (count(limit.HcaHandles), count(limit.HcaObjects));
        add(&mut settings, "rdma.max", format!("{device} hca_handle={handles} hca_object={objects}"));
    }
    // What is said in v2's own words comes last, and so wins.
    for (file, value) in &resources.Unified {
        add(&mut settings, file, value.clone());
    }
    match settings.iter().find(|(file, _)| !is_file_name(file)) {
        Some((file, _)) => Err(NameError { name: file.clone() }),
        None => Ok(settings),
    }
}

/// A path would lead out of the cgroup, and an absolute one anywhere.
fn is_file_name(name: &str) -> bool {
    !name.contains(['/', '\0']) && !matches!(name, "" | "." | "..")
}

fn add(settings: &mut Vec<Setting>, file: &str, value: String) {
    settings.push((file.to_owned(), value));
}

fn maximum(limit: i64) -> String {
    if limit < 0 { "max".to_owned() } else { limit.to_string() }
}

fn add_cpu(settings: &mut Vec<Setting>, cpu: &LinuxCPU) {
    if let Some(idle) = cpu.Idle {
        add(settings, "cpu.idle", idle.to_string());
    }
    if cpu.Shares != 0 {
        add(settings, "cpu.weight", weight(cpu.Shares).to_string());
    }
    if cpu.Quota != 0 || cpu.Period != 0 {
        let period = if cpu.Period == 0 { CPU_PERIOD } else { cpu.Period };
        let quota = if cpu.Quota > 0 { cpu.Quota.to_string() } else { "max".to_owned() };
        add(settings, "cpu.max", format!("{quota} {period}"));
    }
    if cpu.Burst != 0 {
        add(settings, "cpu.max.burst", cpu.Burst.to_string());
    }
    for (file, set) in [("cpuset.cpus", &cpu.Cpus), ("cpuset.mems", &cpu.Mems)] {
        if !set.is_empty() {
            add(settings, file, set.clone());
        }
    }
}

/// Shares to weight, as Kubernetes (KEP-2254) has it.
fn weight(shares: u64) -> u64 {
    scaled(shares, SHARES)
}

/// A number of v1's, of this range, as one of v2's weights, linearly.
fn scaled(number: u64, (least, most): (u64, u64)) -> u64 {
    WEIGHTS.0 + (number.clamp(least, most) - least) * (WEIGHTS.1 - WEIGHTS.0) / (most - least)
}

/// v1's swap limit counts memory and swap together, v2's swap only.
fn add_memory(settings: &mut Vec<Setting>, memory: &LinuxMemory) {
    if memory.Limit != 0 {
        add(settings, "memory.max", maximum(memory.Limit));
    }
    if memory.Reservation != 0 {
        add(settings, "memory.low", maximum(memory.Reservation));
    }
    if memory.Swap != 0 {
        let swap = if memory.Swap < 0 { -1 } else { (memory.Swap - memory.Limit.max(0)).max(0) };
        add(settings, "memory.swap.max", maximum(swap));
    }
}

fn io_weight(weight: u32) -> u64 {
    scaled(weight.into(), IO_WEIGHTS)
}

fn add_io(settings: &mut Vec<Setting>, io: &LinuxBlockIO) {
    if io.Weight != 0 {
        add(settings, "io.weight", format!("default {}", io_weight(io.Weight)));
    }
    for device in io.WeightDevice.iter().filter(|device| device.Weight != 0) {
        let value = format!("{}:{} {}", device.Major, device.Minor, io_weight(device.Weight));
        add(settings, "io.weight", value);
    }
    let throttles = [
        ("rbps", &io.ThrottleReadBpsDevice),
        ("wbps", &io.ThrottleWriteBpsDevice),
        ("riops", &io.ThrottleReadIOPSDevice),
        ("wiops", &io.ThrottleWriteIOPSDevice),
    ];
    for (key, devices) in throttles {
        for device in devices {
            let value = format!("{}:{} {key}={}", device.Major, device.Minor, device.Rate);
            add(settings, "io.max", value);
        }
    }
}

#[cfg(test)]
mod tests {
    use kata_protocol::oci::{
        LinuxHugepageLimit, LinuxPids, LinuxRdma, LinuxThrottleDevice, LinuxWeightDevice,
    };
    use protobuf::MessageField;

    use super::*;

    fn of(resources: &LinuxResources) -> Vec<(String, String)> {
        settings(resources).expect("the files are the cgroup's")
    }

    fn one(file: &str, value: &str) -> Vec<(String, String)> {
        vec![(file.to_owned(), value.to_owned())]
    }

    #[test]
    fn nothing_given_is_nothing_written() {
        let resources = LinuxResources {
            CPU: MessageField::some(LinuxCPU::default()),
            Memory: MessageField::some(LinuxMemory::default()),
            Pids: MessageField::some(LinuxPids::default()),
            ..Default::default()
        };
        assert_eq!(of(&resources), []);
    }

    #[test]
    fn shares_become_a_weight() {
        assert_eq!((weight(2), weight(1024), weight(262_144), weight(1)), (1, 39, 10_000, 1));
    }

    #[test]
    fn a_quota_has_a_period() {
        let cpu = |quota, period| LinuxResources {
            CPU: MessageField::some(LinuxCPU { Quota: quota, Period: period, ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(of(&cpu(50_000, 0)), one("cpu.max", "50000 100000"));
        assert_eq!(of(&cpu(-1, 20_000)), one("cpu.max", "max 20000"));
    }

    #[test]
    fn the_swap_limit_is_without_memory() {
        let memory = |limit, swap| LinuxResources {
            Memory: MessageField::some(LinuxMemory { Limit: limit, Swap: swap, ..Default::default() }),
            ..Default::default()
        };
        let written = |value: &str| {
            [("memory.max", "100"), ("memory.swap.max", value)].map(|(f, v)| (f.to_owned(), v.to_owned()))
        };
        assert_eq!(of(&memory(100, 150)), written("50"));
        assert_eq!(of(&memory(100, -1)), written("max"));
        assert_eq!(of(&memory(-1, 0)), one("memory.max", "max"));
    }

    #[test]
    fn throttles_name_their_device() {
        let device = LinuxThrottleDevice { Major: 8, Minor: 16, Rate: 1024, ..Default::default() };
        let io = LinuxBlockIO { ThrottleReadBpsDevice: vec![device], ..Default::default() };
        let resources = LinuxResources { BlockIO: MessageField::some(io), ..Default::default() };
        assert_eq!(of(&resources), one("io.max", "8:16 rbps=1024"));
    }

    #[test]
    fn weights_may_be_of_one_device() {
        let device = LinuxWeightDevice { Major: 8, Minor: 16, Weight: 1000, ..Default::default() };
        let io = LinuxBlockIO { Weight: 10, WeightDevice: vec![device], ..Default::default() };
        let resources = LinuxResources { BlockIO: MessageField::some(io), ..Default::default() };
        let written = ["default 1", "8:16 10000"].map(|value| ("io.weight".to_owned(), value.to_owned()));
        assert_eq!(of(&resources), written);
    }

    #[test]
    fn huge_pages_are_limited_before_they_are_used() {
        let limit = LinuxHugepageLimit { Pagesize: "2MB".to_owned(), Limit: 7, ..Default::default() };
        let resources = LinuxResources { HugepageLimits: vec![limit], ..Default::default() };
        let written =
            ["hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"].map(|file| (file.to_owned(), "7".to_owned()));
        assert_eq!(of(&resources), written);
    }

    #[test]
    fn rdma_devices_have_two_limits() {
        let limit = LinuxRdma { HcaHandles: Some(3), ..Default::default() };
        let resources = LinuxResources { Rdma: [("mlx5_1".to_owned(), limit)].into(), ..Default::default() };
        assert_eq!(of(&resources), one("rdma.max", "mlx5_1 hca_handle=3 hca_object=max"));
    }

    #[test]
    fn version_2s_own_words_come_last() {
        let pids = MessageField::some(LinuxPids { Limit: 5, ..Default::default() });
        let mut resources = LinuxResources { Pids: pids, ..Default::default() };
        resources.Unified.insert("pids.max".to_owned(), "7".to_owned());
        assert_eq!(of(&resources).last(), one("pids.max", "7").last());
    }

    /// A limit named `../../x` or `/etc/x` was written to that file of the guest.
    #[test]
    fn a_limit_that_leads_out_of_the_cgroup_is_refused() {
        for name in ["../memory.max", "/etc/passwd", "sub/pids.max", "..", ".", ""] {
            let mut resources = LinuxResources::default();
            resources.Unified.insert(name.to_owned(), "1".to_owned());
            assert!(settings(&resources).is_err(), "{name:?} was accepted");
        }
        let limit = LinuxHugepageLimit { Pagesize: "x/../../2MB".to_owned(), ..Default::default() };
        let resources = LinuxResources { HugepageLimits: vec![limit], ..Default::default() };
        assert!(settings(&resources).unwrap_err().to_string().contains("2MB"));
    }
}
