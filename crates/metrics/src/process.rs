//! A process's figures, from the files of its directory in `/proc` (proc(5)).

use std::cell::OnceCell;
use std::fs;
use std::path::Path;

use crate::exposition::{Exposition, Samples};
use crate::families::Source;
use crate::family::Family;
use crate::numbers::{colons, first, seconds, ticks_per_second};

/// Writes the families of the process whose directory is `dir` (for example `/proc/7`), as far as they are wanted. One that
/// has ended has none.
pub fn process(text: &mut Exposition, dir: &Path, families: &'static [(Source, Family)]) {
    let files = Files { dir, stat: OnceCell::new(), status: OnceCell::new(), limits: OnceCell::new() };
    for (source, family) in families {
        match source {
            Source::Io => files.items(text.family(family), &files.read("io"), Some),
            Source::Status => files.items(text.family(family), files.status(), status_item),
            Source::NetDev => {
                if let Some(samples) = text.family(family) {
                    net_dev(samples, &files.read("net/dev"));
                }
            }
            Source::Times => {
                if let Some(samples) = text.family(family) {
                    files.times(samples);
                }
            }
            single => text.one(family, || files.single(*single)),
        }
    }
}

/// What has been read of the files that several families need.
struct Files<'d> {
    dir: &'d Path,
    stat: OnceCell<String>,
    status: OnceCell<String>,
    limits: OnceCell<String>,
}

impl Files<'_> {
    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join(name)).unwrap_or_default()
    }

    fn status(&self) -> &str {
        self.status.get_or_init(|| self.read("status"))
    }

    /// A field of `stat`, counted from the process's state as 0. Before that is a name, which may contain anything.
    fn stat(&self, field: usize) -> Option<u64> {
        let stat = self.stat.get_or_init(|| self.read("stat"));
        first(stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(field)?)
    }

    fn limit(&self, name: &str) -> Option<String> {
        let limits = self.limits.get_or_init(|| self.read("limits"));
        let soft =
            limits.lines().find_map(|line| line.strip_prefix(name))?.split_ascii_whitespace().next()?;
        // As upstream has it.
        Some(if soft == "unlimited" { u64::MAX.to_string() } else { soft.to_owned() })
    }

    fn kib(&self, name: &str) -> Option<u64> {
        colons(self.status()).find(|(there, _)| *there == name).map(|(_, kib)| kib.saturating_mul(1024))
    }

    fn single(&self, source: Source) -> Option<String> {
        let number = match source {
            Source::Fds => fs::read_dir(self.dir.join("fd")).ok().map(|fds| fds.count() as u64),
            Source::Threads => self.stat(17),
            Source::Resident => self.kib("VmRSS"),
            Source::Virtual => self.kib("VmSize"),
            Source::CpuSeconds => return Some(seconds(self.stat(11)?.saturating_add(self.stat(12)?))),
            Source::StartTime => return self.start_time(),
            Source::MaxFds => return self.limit("Max open files"),
            Source::VirtualMax => return self.limit("Max address space"),
            Source::Io | Source::NetDev | Source::Times | Source::Status => None,
        };
        number.map(|number| number.to_string())
    }

    /// In seconds since the epoch.
    fn start_time(&self) -> Option<String> {
        let after_boot = self.stat(19)?;
        let kernel = fs::read_to_string("/proc/stat").ok()?;
        let boot = first(kernel.lines().find_map(|line| line.strip_prefix("btime "))?)?;
        Some(seconds(after_boot.saturating_add(boot.saturating_mul(ticks_per_second()))))
    }

    fn times(&self, mut samples: Samples<'_>) {
        for (field, item) in ["utime", "stime", "cutime", "cstime"].into_iter().enumerate() {
            if let Some(ticks) = self.stat(11 + field) {
                samples.item(item, ticks);
            }
        }
    }

    /// Lines with names as items.
    fn items<'f>(
        &self,
        samples: Option<Samples<'_>>,
        file: &'f str,
        item: impl Fn(&'f str) -> Option<&'f str>,
    ) {
        let Some(mut samples) = samples else { return };
        for (name, number) in colons(file) {
            if let Some(item) = item(name) {
                samples.item(&item.to_ascii_lowercase(), number);
            }
        }
    }
}

/// What is a figure in `status`.
fn status_item(name: &str) -> Option<&str> {
    let is_figure = ["Vm", "Rss", "Hugetlb", "voluntary", "nonvoluntary"].iter().any(|p| name.starts_with(p));
    is_figure.then_some(name)
}

const NET_ITEMS: &str = "recv_bytes recv_packets recv_errs recv_drop recv_fifo recv_frame recv_compressed recv_multicast sent_bytes sent_packets sent_errs sent_drop sent_fifo sent_colls sent_carrier sent_compressed";

/// `/proc/net/dev`: two lines of headings, then per interface its name and 16 numbers. The loopback is for who asks.
pub(crate) fn net_dev(mut samples: Samples<'_>, table: &str) {
    for line in table.lines().skip(2) {
        // A name may hold a colon (an alias); the numbers hold none.
        let Some((name, numbers)) = line.rsplit_once(':') else { continue };
        let name = name.trim();
        if name == "lo" && !samples.wants_all() {
            continue;
        }
        samples.columns("interface", name, NET_ITEMS, numbers);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::selection::Selection;
    use crate::{agent, hypervisor, shim};

    /// A process's directory.
    struct Process(PathBuf);

    impl Process {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("kata-metrics-{}-{name}", std::process::id()));
            fs::create_dir_all(dir.join("fd")).unwrap();
            fs::create_dir_all(dir.join("net")).unwrap();
            let files = [
                ("stat", "7 (a ) b) S 1 1 1 0 -1 4 0 0 0 0 250 50 3 4 20 0 5 0 900 1 2"),
                (
                    "status",
                    "Name:\ta\nVmSize:\t 40 kB\nVmRSS:\t 10 kB\nRssAnon:\t 8 kB\nThreads:\t5\nvoluntary_ctxt_switches:\t9\n",
                ),
                ("io", "rchar: 1\nwchar: 2\nsyscr: 3\nread_bytes: 5\ncancelled_write_bytes: 7\n"),
                (
                    "limits",
                    "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 4096                 files\nMax address space         unlimited            unlimited            bytes\n",
                ),
                (
                    "net/dev",
                    "x\ny\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 2 3 4 5 6 7 8 90 10 11 12 13 14 15 16\n",
                ),
                ("fd/0", ""),
                ("fd/1", ""),
            ];
            for (name, content) in files {
                fs::write(dir.join(name), content).unwrap();
            }
            Self(dir)
        }

        fn told(&self, selection: Selection, families: &'static [(Source, Family)]) -> String {
            let mut text = Exposition::new(selection);
            process(&mut text, &self.0, families);
            text.finish()
        }
    }

    impl Drop for Process {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[track_caller]
    fn assert_lines(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|there| there == *line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn each_family_has_what_its_file_says() {
        let text = Process::new("all").told(Selection::all(), shim());
        assert_lines(
            &text,
            &[
                "# TYPE kata_shim_process_cpu_seconds_total counter",
                "kata_shim_process_cpu_seconds_total 3.00",
                "kata_shim_process_resident_memory_bytes 10240",
                "kata_shim_process_virtual_memory_bytes 40960",
                "kata_shim_process_virtual_memory_max_bytes 18446744073709551615",
                "kata_shim_process_open_fds 2",
                "kata_shim_process_max_fds 1024",
                "kata_shim_threads 5",
                "kata_shim_proc_stat{item=\"cstime\"} 4",
                "kata_shim_proc_status{item=\"rssanon\"} 8",
                "kata_shim_proc_status{item=\"voluntary_ctxt_switches\"} 9",
                "kata_shim_io_stat{item=\"cancelled_write_bytes\"} 7",
                "kata_shim_netdev{interface=\"lo\",item=\"recv_bytes\"} 1",
                "kata_shim_netdev{interface=\"eth0\",item=\"recv_multicast\"} 8",
                "kata_shim_netdev{interface=\"eth0\",item=\"sent_compressed\"} 16",
            ],
        );
        assert!(!text.contains("item=\"threads\"") && !text.contains("item=\"name\""), "{text}");
    }

    #[test]
    fn unasked_only_the_most_important_is_told() {
        let text = Process::new("brief").told(Selection::brief(), hypervisor());
        assert_lines(&text, &["kata_hypervisor_fds 2", "kata_hypervisor_proc_stat{item=\"utime\"} 250"]);
        assert!(!text.contains("cutime") && !text.contains("netdev") && !text.contains("syscr"), "{text}");
    }

    #[test]
    fn a_process_that_has_ended_has_no_families() {
        let mut text = Exposition::new(Selection::all());
        process(&mut text, Path::new("/proc/4294967295"), agent());
        assert_eq!(text.finish(), "");
    }

    #[test]
    fn this_process_began_after_the_epoch_and_before_now() {
        let mut text = Exposition::new(Selection::all());
        process(&mut text, Path::new("/proc/self"), agent());
        let text = text.finish();
        let line =
            text.lines().find(|line| line.starts_with("kata_agent_process_start_time_seconds ")).unwrap();
        let start: f64 = line.rsplit_once(' ').unwrap().1.parse().unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(start > now - 86_400.0 && start < now + 2.0, "{start} {now}");
    }
}
