//! What a container uses, from the files of its cgroup.

mod upstream;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use kata_protocol::kata;
use protobuf::MessageField;

use super::Cgroup;

pub(crate) use upstream::to_upstream;

/// "No limit", as a number.
const NO_LIMIT: u64 = u64::MAX;

/// "No limit" of RDMA objects, which the kernel counts in 32 bits.
const NO_RDMA_LIMIT: u32 = u32::MAX;

/// The statistics in cgroup v2's own terms. A file that the kernel has not counts as empty.
pub(crate) fn read(cgroup: &Cgroup) -> kata::StatsResponse {
    kata::StatsResponse {
        cpu: MessageField::some(cpu(cgroup)),
        memory: MessageField::some(memory(cgroup)),
        pids: MessageField::some(kata::PidsStats {
            current: number(&cgroup.read("pids.current")),
            limit: limit(&cgroup.read("pids.max")),
            ..Default::default()
        }),
        io: io(&cgroup.read("io.stat")),
        io_pressure: pressure(&cgroup.read("io.pressure")),
        hugetlb: hugetlb(cgroup),
        rdma: rdma(&cgroup.read("rdma.current"), &cgroup.read("rdma.max")),
        ..Default::default()
    }
}

/// CPU time in microseconds, and memory in bytes.
pub(crate) fn sums(cgroup: &Cgroup) -> (u64, u64) {
    let cpu = cgroup.read("cpu.stat");
    let usage = cpu.lines().find_map(|line| line.strip_prefix("usage_usec ")).map_or(0, number);
    (usage, number(&cgroup.read("memory.current")))
}

fn cpu(cgroup: &Cgroup) -> kata::CpuStats {
    let stat = keyed(&cgroup.read("cpu.stat"));
    let field = |name: &str| stat.get(name).copied().unwrap_or_default();
    kata::CpuStats {
        usage_usec: field("usage_usec"),
        user_usec: field("user_usec"),
        system_usec: field("system_usec"),
        nr_periods: field("nr_periods"),
        nr_throttled: field("nr_throttled"),
        throttled_usec: field("throttled_usec"),
        nr_bursts: field("nr_bursts"),
        burst_usec: field("burst_usec"),
        pressure: pressure(&cgroup.read("cpu.pressure")),
        ..Default::default()
    }
}

fn memory(cgroup: &Cgroup) -> kata::MemoryStats {
    kata::MemoryStats {
        usage: number(&cgroup.read("memory.current")),
        usage_limit: limit(&cgroup.read("memory.max")),
        usage_peak: number(&cgroup.read("memory.peak")),
        swap_usage: number(&cgroup.read("memory.swap.current")),
        swap_limit: limit(&cgroup.read("memory.swap.max")),
        swap_peak: number(&cgroup.read("memory.swap.peak")),
        stat: keyed(&cgroup.read("memory.stat")),
        events: MessageField::some(memory_events(&cgroup.read("memory.events"))),
        swap_events: MessageField::some(swap_events(&cgroup.read("memory.swap.events"))),
        pressure: pressure(&cgroup.read("memory.pressure")),
        ..Default::default()
    }
}

fn memory_events(events: &str) -> kata::MemoryEvents {
    let events = keyed(events);
    let event = |name: &str| events.get(name).copied().unwrap_or_default();
    kata::MemoryEvents {
        low: event("low"),
        high: event("high"),
        max: event("max"),
        oom: event("oom"),
        oom_kill: event("oom_kill"),
        oom_group_kill: event("oom_group_kill"),
        ..Default::default()
    }
}

fn swap_events(events: &str) -> kata::SwapEvents {
    let events = keyed(events);
    let event = |name: &str| events.get(name).copied().unwrap_or_default();
    kata::SwapEvents { high: event("high"), max: event("max"), fail: event("fail"), ..Default::default() }
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, then `full …`; nothing where the kernel does not measure it.
fn pressure(text: &str) -> MessageField<kata::Pressure> {
    let times = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        MessageField::from_option(line.map(pressure_times))
    };
    let pressure = kata::Pressure { some: times("some"), full: times("full"), ..Default::default() };
    MessageField::from_option(pressure.some.is_some().then_some(pressure))
}

fn pressure_times(line: &str) -> kata::PressureTimes {
    let fields = pairs(line);
    let share = |name: &str| fields.get(name).and_then(|value| value.parse().ok()).unwrap_or_default();
    kata::PressureTimes {
        avg10: share("avg10"),
        avg60: share("avg60"),
        avg300: share("avg300"),
        total_usec: fields.get("total").map_or(0, |value| number(value)),
        ..Default::default()
    }
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …` per device.
fn io(stat: &str) -> Vec<kata::IoEntry> {
    stat.lines().filter_map(io_entry).collect()
}

fn io_entry(line: &str) -> Option<kata::IoEntry> {
    let (device, fields) = line.split_once(' ')?;
    let (major, minor) = device.split_once(':')?;
    let fields = pairs(fields);
    let field = |name: &str| fields.get(name).map_or(0, |value| number(value));
    Some(kata::IoEntry {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        rbytes: field("rbytes"),
        wbytes: field("wbytes"),
        rios: field("rios"),
        wios: field("wios"),
        dbytes: field("dbytes"),
        dios: field("dios"),
        device: device_name(device),
        ..Default::default()
    })
}

/// The kernel's name of the block device with this number; empty if it is gone.
fn device_name(number: &str) -> String {
    let folder = fs::read_link(Path::new("/sys/dev/block").join(number)).unwrap_or_default();
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// One entry for each size of huge pages the kernel has.
fn hugetlb(cgroup: &Cgroup) -> Vec<kata::HugetlbStats> {
    let files = fs::read_dir(&cgroup.path).into_iter().flatten().flatten();
    let names = files.filter_map(|entry| entry.file_name().into_string().ok());
    let size = |name: String| Some(name.strip_prefix("hugetlb.")?.strip_suffix(".current")?.to_owned());
    // What is only reserved is another file: `hugetlb.2MB.rsvd.current`.
    let mut sizes: Vec<String> = names.filter_map(size).filter(|size| !size.contains('.')).collect();
    sizes.sort();
    sizes.into_iter().map(|size| hugetlb_of(cgroup, size)).collect()
}

fn hugetlb_of(cgroup: &Cgroup, page_size: String) -> kata::HugetlbStats {
    let file = |what: &str| cgroup.read(&format!("hugetlb.{page_size}.{what}"));
    kata::HugetlbStats {
        current: number(&file("current")),
        limit: limit(&file("max")),
        max_events: keyed(&file("events")).get("max").copied().unwrap_or_default(),
        page_size,
        ..Default::default()
    }
}

/// `mlx4_0 hca_handle=2 hca_object=2000` per device.
fn rdma(current: &str, maximum: &str) -> Vec<kata::RdmaStats> {
    let limits: HashMap<&str, &str> = maximum.lines().filter_map(|line| line.split_once(' ')).collect();
    let device = |line: &str| {
        let (device, used) = line.split_once(' ')?;
        let (used, limits) = (pairs(used), pairs(limits.get(device).copied().unwrap_or_default()));
        let used = |name: &str| used.get(name).and_then(|value| value.parse().ok()).unwrap_or_default();
        let limit =
            |name: &str| limits.get(name).and_then(|value| value.parse().ok()).unwrap_or(NO_RDMA_LIMIT);
        Some(kata::RdmaStats {
            device: device.to_owned(),
            hca_handles: used("hca_handle"),
            hca_objects: used("hca_object"),
            hca_handles_limit: limit("hca_handle"),
            hca_objects_limit: limit("hca_object"),
            ..Default::default()
        })
    };
    current.lines().filter_map(device).collect()
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or_default()
}

fn limit(text: &str) -> u64 {
    text.trim().parse().unwrap_or(NO_LIMIT)
}

/// `name number` per line.
fn keyed(text: &str) -> HashMap<String, u64> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, value)| (name.to_owned(), number(value)))
        .collect()
}

/// `name=value` between spaces.
fn pairs(line: &str) -> HashMap<&str, &str> {
    line.split_whitespace().filter_map(|word| word.split_once('=')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with these files, as a cgroup.
    fn cgroup(files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroup) {
        let folder = tempfile::tempdir().expect("temporary folder");
        for (name, content) in files {
            fs::write(folder.path().join(name), content).expect("writable");
        }
        let cgroup = Cgroup { path: folder.path().to_owned() };
        (folder, cgroup)
    }

    #[test]
    fn cpu_times_are_read() {
        let stat = "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 4\nnr_bursts 2\nburst_usec 7\n";
        let (_folder, cgroup) = cgroup(&[("cpu.stat", stat)]);
        let cpu = cpu(&cgroup);
        assert_eq!((cpu.usage_usec, cpu.user_usec, cpu.system_usec, cpu.nr_periods), (30, 20, 10, 4));
        assert_eq!((cpu.nr_bursts, cpu.burst_usec, cpu.pressure.is_some()), (2, 7, false));
        assert_eq!(sums(&cgroup), (30, 0), "its memory is not counted here");
    }

    #[test]
    fn memory_has_its_peaks_and_events() {
        let (_folder, cgroup) = cgroup(&[
            ("memory.current", "10\n"),
            ("memory.max", "max\n"),
            ("memory.peak", "40\n"),
            ("memory.swap.peak", "6\n"),
            ("memory.events", "low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\n"),
            ("memory.swap.events", "high 7\nmax 8\nfail 9\n"),
        ]);
        let memory = memory(&cgroup);
        assert_eq!((memory.usage, memory.usage_limit), (10, NO_LIMIT));
        assert_eq!((memory.usage_peak, memory.swap_peak), (40, 6));
        assert_eq!((memory.events.max, memory.events.oom_kill, memory.events.oom_group_kill), (3, 5, 6));
        assert_eq!((memory.swap_events.high, memory.swap_events.max, memory.swap_events.fail), (7, 8, 9));
    }

    #[test]
    fn pressure_is_read() {
        let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n";
        let pressure = pressure(text).unwrap();
        assert_eq!((pressure.some.avg10, pressure.some.avg60, pressure.some.total_usec), (1.5, 0.25, 12));
        assert_eq!(pressure.full.total_usec, 3);
    }

    #[test]
    fn a_limit_may_be_absent() {
        assert_eq!((limit("max\n"), limit("4096\n"), limit("")), (NO_LIMIT, 4096, NO_LIMIT));
    }

    #[test]
    fn devices_without_traffic_count_as_zero() {
        let entries = io("8:16 rbytes=4096 wbytes=1 rios=2 wios=3 dbytes=5 dios=1\n254:0 \n");
        assert_eq!(
            (entries[0].major, entries[0].minor, entries[0].rbytes, entries[0].wios, entries[0].dbytes),
            (8, 16, 4096, 3, 5)
        );
        assert_eq!((entries[1].major, entries[1].rbytes), (254, 0));
    }

    #[test]
    fn huge_pages_are_counted_by_size_and_reservations_are_not() {
        let (_folder, cgroup) = cgroup(&[
            ("hugetlb.2MB.current", "4194304\n"),
            ("hugetlb.2MB.max", "max\n"),
            ("hugetlb.2MB.events", "max 2\n"),
            ("hugetlb.2MB.rsvd.current", "1\n"),
            ("hugetlb.1GB.current", "0\n"),
            ("hugetlb.1GB.max", "1073741824\n"),
        ]);
        let pages = hugetlb(&cgroup);
        let sizes: Vec<_> = pages.iter().map(|page| page.page_size.as_str()).collect();
        assert_eq!(sizes, ["1GB", "2MB"]);
        assert_eq!((pages[0].current, pages[0].limit), (0, 1 << 30));
        assert_eq!((pages[1].current, pages[1].limit, pages[1].max_events), (4 << 20, NO_LIMIT, 2));
    }

    #[test]
    fn rdma_devices_may_have_limits() {
        let devices = rdma(
            "mlx4_0 hca_handle=2 hca_object=2000\nocrdma1 hca_handle=0 hca_object=1\n",
            "mlx4_0 hca_handle=3 hca_object=max\n",
        );
        assert_eq!((devices[0].hca_handles, devices[0].hca_objects), (2, 2000));
        assert_eq!((devices[0].hca_handles_limit, devices[0].hca_objects_limit), (3, NO_RDMA_LIMIT));
        assert_eq!((devices[1].device.as_str(), devices[1].hca_handles_limit), ("ocrdma1", NO_RDMA_LIMIT));
    }
}
