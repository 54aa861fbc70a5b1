//! The agent's and the guest's figures as Prometheus text. They are read when somebody asks.

use std::path::Path;

use kata_metrics::{Exposition, Selection, agent, guest, process};

use super::observe::Metrics;

const PROC: &str = "/proc";

/// What is wanted of the agent's process, the guest's kernel, and the requests so far.
pub(super) fn text(requests: &Metrics, selection: Selection) -> String {
    let mut text = Exposition::new(selection);
    process(&mut text, &Path::new(PROC).join("self"), agent());
    guest(&mut text, Path::new(PROC));
    requests.write(&mut text);
    text.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_of_agent_and_guest_is_there_once() {
        let text = text(&Metrics::default(), Selection::all());
        for family in [
            "kata_agent_io_stat",
            "kata_agent_proc_stat",
            "kata_agent_proc_status",
            "kata_agent_process_cpu_seconds_total",
            "kata_agent_process_max_fds",
            "kata_agent_process_open_fds",
            "kata_agent_process_resident_memory_bytes",
            "kata_agent_process_start_time_seconds",
            "kata_agent_process_virtual_memory_bytes",
            "kata_agent_scrape_count",
            "kata_agent_total_rss",
            "kata_agent_total_time",
            "kata_agent_total_vm",
            "kata_guest_cpu_time",
            "kata_guest_diskstat",
            "kata_guest_load",
            "kata_guest_meminfo",
            "kata_guest_netdev_stat",
            "kata_guest_tasks",
            "kata_guest_vm_stat",
        ] {
            let heads = text.lines().filter(|line| line.starts_with(&format!("# TYPE {family} "))).count();
            assert_eq!(heads, 1, "{family}");
        }
    }

    /// A guest has a card and a disk or two; where this runs may have any number of them.
    #[test]
    fn unasked_it_is_short() {
        let text = text(&Metrics::default(), Selection::brief());
        let is_of_a_device = |line: &&str| line.contains("disk=\"") || line.contains("interface=\"");
        let length: usize =
            text.lines().filter(|line| !is_of_a_device(line)).map(|line| line.len() + 1).sum();
        assert!(length < 6 << 10, "{length} bytes");
        assert!(text.contains("kata_guest_meminfo{item=\"mem_available\"}"), "{text}");
    }
}
