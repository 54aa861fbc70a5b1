//! A kernel's figures, from `/proc`: those of a guest.

use std::fs;
use std::path::Path;

use crate::exposition::{Exposition, Samples};
use crate::families::{CPU_TIME, DISKS, LOAD, MEMINFO, NETDEV, TASKS, VM_STAT};
use crate::family::Family;
use crate::numbers::{colons, first};
use crate::process::net_dev;

/// Writes the families of the kernel whose files are in `proc`, as far as they are wanted.
pub fn guest(text: &mut Exposition, proc: &Path) {
    let mut each = |family: &'static Family, file: &str, write: fn(Samples<'_>, &str)| {
        if let Some(samples) = text.family(family) {
            write(samples, &fs::read_to_string(proc.join(file)).unwrap_or_default());
        }
    };
    each(&CPU_TIME, "stat", cpu_time);
    each(&LOAD, "loadavg", load);
    each(&TASKS, "loadavg", tasks);
    each(&MEMINFO, "meminfo", meminfo);
    each(&VM_STAT, "vmstat", vm_stat);
    each(&NETDEV, "net/dev", net_dev);
    each(&DISKS, "diskstats", disks);
}

const CPU_ITEMS: &str = "user nice system idle iowait irq softirq steal guest guest_nice";

/// `cpu  1 2 3 …`, then `cpu0 1 2 3 …` per CPU. Single CPUs are for who asks.
fn cpu_time(mut samples: Samples<'_>, stat: &str) {
    for line in stat.lines().map_while(|line| line.strip_prefix("cpu")) {
        let Some((name, numbers)) = line.split_once(' ') else { continue };
        let cpu = if name.is_empty() { "total" } else { name };
        if !name.is_empty() && !samples.wants_all() {
            return;
        }
        samples.columns("cpu", cpu, CPU_ITEMS, numbers);
    }
}

/// `0.20 0.18 0.12 1/80 11206`
fn load(mut samples: Samples<'_>, loadavg: &str) {
    for (item, load) in ["load1", "load5", "load15"].into_iter().zip(loadavg.split_ascii_whitespace()) {
        if load.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            samples.item(item, load);
        }
    }
}

fn tasks(mut samples: Samples<'_>, loadavg: &str) {
    let Some((running, all)) = loadavg.split_ascii_whitespace().nth(3).and_then(|word| word.split_once('/'))
    else {
        return;
    };
    for (item, number) in [("cur", running), ("max", all)] {
        if let Some(number) = first(number) {
            samples.item(item, number);
        }
    }
}

fn meminfo(mut samples: Samples<'_>, meminfo: &str) {
    let mut item = String::new();
    for (name, kib) in colons(meminfo) {
        meminfo_item(name, &mut item);
        samples.item(&item, kib);
    }
}

/// `Active(anon)` is `active_anon`, `SReclaimable` `s_reclaimable`, `DirectMap2M` `direct_map_2M`.
fn meminfo_item(name: &str, item: &mut String) {
    item.clear();
    let letters = name.as_bytes();
    for (index, letter) in letters.iter().enumerate() {
        let before = index.checked_sub(1).map_or(b'_', |before| letters[before]);
        let is_next_lower = letters.get(index + 1).is_some_and(u8::is_ascii_lowercase);
        let begins_word = match letter {
            b'A'..=b'Z' => before.is_ascii_lowercase() || (before.is_ascii_uppercase() && is_next_lower),
            b'0'..=b'9' => before.is_ascii_lowercase(),
            _ => false,
        };
        if begins_word {
            item.push('_');
        }
        match letter {
            b'(' => item.push('_'),
            b')' => {}
            // A unit.
            letter if before.is_ascii_digit() => item.push(char::from(*letter)),
            letter => item.push(char::from(letter.to_ascii_lowercase())),
        }
    }
    // Upstream's words.
    for (kernels, upstreams) in [("huge_pages", "hugepages"), ("percpu", "per_cpu")] {
        if let Some(at) = item.find(kernels) {
            item.replace_range(at..at + kernels.len(), upstreams);
        }
    }
}

/// `name number` per line.
fn vm_stat(mut samples: Samples<'_>, vmstat: &str) {
    for (name, number) in vmstat.lines().filter_map(|line| line.split_once(' ')) {
        if samples.wants(name)
            && let Some(number) = first(number)
        {
            samples.item(name, number);
        }
    }
}

const DISK_ITEMS: &str = "reads merged sectors_read time_reading writes writes_merged sectors_written time_writing in_progress time_in_progress weighted_time_in_progress discards discards_merged sectors_discarded time_discarding flushes time_flushing";

/// `254 0 vda 1 2 3 …` per disk; one that was never used is for who asks.
fn disks(mut samples: Samples<'_>, diskstats: &str) {
    for line in diskstats.lines() {
        let Some((disk, columns)) =
            after_word(line).and_then(after_word).and_then(|rest| rest.split_once(' '))
        else {
            continue;
        };
        if samples.wants_all() || columns.bytes().any(|byte| (b'1'..=b'9').contains(&byte)) {
            samples.columns("disk", disk, DISK_ITEMS, columns);
        }
    }
}

/// What stands behind the first word.
fn after_word(text: &str) -> Option<&str> {
    Some(text.trim_start().split_once(' ')?.1.trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selection::Selection;

    fn told(
        selection: Selection,
        family: &'static Family,
        write: fn(Samples<'_>, &str),
        file: &str,
    ) -> String {
        let mut text = Exposition::new(selection);
        write(text.family(family).unwrap(), file);
        text.finish()
    }

    #[track_caller]
    fn assert_lines(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|there| there == *line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn cpu_time_is_told_in_total_and_of_each_cpu_to_who_asks() {
        let stat = "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 11 0 0 0 0 0 0 0 0 0\nintr 1\n";
        let all = told(Selection::all(), &CPU_TIME, cpu_time, stat);
        assert_lines(
            &all,
            &[
                "kata_guest_cpu_time{cpu=\"total\",item=\"guest_nice\"} 10",
                "kata_guest_cpu_time{cpu=\"0\",item=\"user\"} 11",
            ],
        );
        let brief = told(Selection::brief(), &CPU_TIME, cpu_time, stat);
        assert_lines(&brief, &["kata_guest_cpu_time{cpu=\"total\",item=\"steal\"} 8"]);
        assert!(!brief.contains("cpu=\"0\"") && !brief.contains("guest_nice"), "{brief}");
    }

    #[test]
    fn load_and_tasks_are_in_one_file() {
        let file = "0.20 0.18 0.12 1/80 11206\n";
        let text = told(Selection::brief(), &LOAD, load, file);
        assert_lines(
            &text,
            &["kata_guest_load{item=\"load15\"} 0.12", "kata_guest_load{item=\"load1\"} 0.20"],
        );
        let text = told(Selection::brief(), &TASKS, tasks, file);
        assert_lines(&text, &["kata_guest_tasks{item=\"cur\"} 1", "kata_guest_tasks{item=\"max\"} 80"]);
    }

    #[test]
    fn memory_goes_by_upstreams_names() {
        let names = [
            ("MemTotal", "mem_total"),
            ("Active(anon)", "active_anon"),
            ("AnonPages", "anon_pages"),
            ("AnonHugePages", "anon_hugepages"),
            ("HugePages_Total", "hugepages_total"),
            ("Hugepagesize", "hugepagesize"),
            ("KReclaimable", "k_reclaimable"),
            ("SUnreclaim", "s_unreclaim"),
            ("NFS_Unstable", "nfs_unstable"),
            ("Committed_AS", "committed_as"),
            ("Percpu", "per_cpu"),
            ("ShmemPmdMapped", "shmem_pmd_mapped"),
            ("WritebackTmp", "writeback_tmp"),
            ("DirectMap4k", "direct_map_4k"),
            ("DirectMap2M", "direct_map_2M"),
            ("VmallocChunk", "vmalloc_chunk"),
        ];
        let mut item = String::new();
        for (kernels, upstreams) in names {
            meminfo_item(kernels, &mut item);
            assert_eq!(item, upstreams, "{kernels}");
        }
        let text = told(Selection::brief(), &MEMINFO, meminfo, "MemTotal:  65 kB\nHugePages_Total:  3\n");
        assert_lines(&text, &["kata_guest_meminfo{item=\"mem_total\"} 65"]);
        assert!(!text.contains("hugepages"), "{text}");
    }

    #[test]
    fn faults_are_told_unasked_and_the_rest_to_who_asks() {
        let file = "nr_free_pages 12\npgfault 34\n";
        let text = told(Selection::brief(), &VM_STAT, vm_stat, file);
        assert!(text.contains("item=\"pgfault\"} 34") && !text.contains("nr_free_pages"), "{text}");
        let text = told(Selection::all(), &VM_STAT, vm_stat, file);
        assert_lines(&text, &["kata_guest_vm_stat{item=\"nr_free_pages\"} 12"]);
    }

    #[test]
    fn disks_that_were_never_used_are_for_who_asks() {
        let file = " 254 0 vda 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17\n 7 0 loop0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n";
        let brief = told(Selection::brief(), &DISKS, disks, file);
        assert_lines(&brief, &["kata_guest_diskstat{disk=\"vda\",item=\"sectors_written\"} 7"]);
        assert!(!brief.contains("loop0") && !brief.contains("flushes"), "{brief}");
        let all = told(Selection::all(), &DISKS, disks, file);
        assert_lines(
            &all,
            &[
                "kata_guest_diskstat{disk=\"vda\",item=\"time_flushing\"} 17",
                "kata_guest_diskstat{disk=\"loop0\",item=\"reads\"} 0",
            ],
        );
    }
}
