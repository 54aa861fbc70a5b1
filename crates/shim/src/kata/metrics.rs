//! A sandbox's figures: this process's, the VMM's, the guest's and the containers'. Nothing is read or asked for unless it is
//! wanted, and a guest that does not answer costs only its own.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::future::join;
use kata_metrics::{Exposition, Family, GUEST, Selection, Told, admit, hypervisor, process, shim};
use kata_sandbox::{GuestMetrics, GuestUse, Parts, Sandbox, WeakSandbox};
use tokio::time::timeout;

use super::{containers, cost};
use crate::rpcs::Rpcs;

/// How long the guest may take.
const PATIENCE: Duration = Duration::from_secs(2);

const AGENT: &str = "kata_agent_";

static AGENT_UP: Family =
    Family::gauge("kata_shim_agent_up", "Whether the agent has answered this scrape.", Told::Always);
static OVERHEAD_CPU: Family = Family::gauge(
    "kata_shim_pod_overhead_cpu",
    "Percent of a CPU that the pod costs beyond its containers, since its start.",
    Told::Always,
);
static OVERHEAD_MEMORY: Family = Family::gauge(
    "kata_shim_pod_overhead_memory_in_bytes",
    "Memory that the pod costs beyond its containers.",
    Told::Always,
);
static AGENT_RPCS: Family = Family::histogram(
    "kata_shim_agent_rpc_durations_histogram_milliseconds",
    "Requests to the agent.",
    Told::WhenAsked,
);

/// What there is to know of a sandbox, and who counts containerd's requests.
pub(super) struct Watched<'s> {
    pub(super) sandbox: &'s WeakSandbox,
    pub(super) rpcs: &'s Rpcs,
    /// When the sandbox was launched.
    pub(super) since: Instant,
}

impl Watched<'_> {
    /// The text.
    pub(super) async fn text(&self, selection: Selection) -> String {
        let sandbox = self.sandbox.upgrade();
        let parts = match &sandbox {
            Some(sandbox) => sandbox.parts().await.unwrap_or_default(),
            None => Parts::default(),
        };
        let (guest, used) = match &sandbox {
            Some(sandbox) => {
                let asked = guest(sandbox, &selection);
                join(asked, containers::stats(sandbox, &parts.containers, &selection, PATIENCE)).await
            }
            None => (None, Vec::new()),
        };
        // Who holds it longer than needed keeps it alive.
        drop(sandbox);
        let mut text = Exposition::new(selection.clone());
        if wants_guest(&selection) {
            text.one(&AGENT_UP, || Some(u8::from(guest.is_some())));
        }
        process(&mut text, &PathBuf::from("/proc/self"), shim());
        if let Some(vmm) = parts.vmm {
            process(&mut text, &PathBuf::from(format!("/proc/{vmm}")), hypervisor());
        }
        if let Some(used) = guest.as_ref().and_then(|guest| guest.containers) {
            self.overhead(&mut text, &parts, used);
        }
        self.rpcs.write(&mut text);
        text.histograms(&AGENT_RPCS, self.sandbox.requests().each());
        containers::write(&mut text, &used);
        let mut text = text.finish();
        if let Some(guest) = guest {
            text.push_str(&admit(&guest.text, &selection));
        }
        text
    }

    /// What the processes on the host use, less what the containers do.
    fn overhead(&self, text: &mut Exposition, parts: &Parts, used: GuestUse) {
        let host = HostUse::of(parts);
        text.one(&OVERHEAD_MEMORY, || Some(host?.memory_bytes.saturating_sub(used.memory_bytes)));
        text.one(&OVERHEAD_CPU, || {
            let overhead = host?.cpu.saturating_sub(used.cpu);
            let percent = 100.0 * overhead.as_secs_f64() / self.since.elapsed().as_secs_f64().max(0.001);
            Some(format!("{percent:.2}"))
        });
    }
}

fn wants_guest(selection: &Selection) -> bool {
    let families = [AGENT, GUEST, AGENT_UP.name, OVERHEAD_CPU.name, OVERHEAD_MEMORY.name];
    selection.tells_unasked() || families.iter().any(|family| selection.asks_for(family))
}

/// What agent and guest say, if they are wanted and answer in time. That they did not, the text says.
async fn guest(sandbox: &Sandbox, selection: &Selection) -> Option<GuestMetrics> {
    if !wants_guest(selection) {
        return None;
    }
    let asked = sandbox.guest_metrics(selection.words(), PATIENCE);
    // The sandbox has that deadline, too; this one counts from now.
    match timeout(PATIENCE, asked).await {
        Ok(Ok(guest)) => Some(guest),
        Ok(Err(error)) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "the agent has told no figures");
            None
        }
        Err(_) => None,
    }
}

/// What a sandbox's processes on the host use.
#[derive(Debug, Clone, Copy, Default)]
struct HostUse {
    cpu: Duration,
    memory_bytes: u64,
}

impl HostUse {
    /// `None` without a VMM. Of the daemon that shares files, and its child, the guest's memory counts with the VMM.
    fn of(parts: &Parts) -> Option<Self> {
        let mut all = Self::default();
        let vmm = cost::of(parts.vmm?).ok()?;
        let own = cost::of(std::process::id()).ok()?;
        for process in [vmm, own] {
            all.add(process.cpu.usage_usec, process.memory.usage);
        }
        for pid in parts.daemon.into_iter().flat_map(with_children) {
            if let Ok(daemon) = cost::of(pid) {
                let anonymous = daemon.memory.stat.get("anon").copied().unwrap_or_default();
                all.add(daemon.cpu.usage_usec, anonymous);
            }
        }
        Some(all)
    }

    fn add(&mut self, cpu_usec: u64, memory_bytes: u64) {
        self.cpu += Duration::from_micros(cpu_usec);
        self.memory_bytes += memory_bytes;
    }
}

fn with_children(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_ascii_whitespace().filter_map(|child| child.parse().ok());
    [pid].into_iter().chain(children).collect()
}

#[cfg(test)]
mod tests {
    use kata_sandbox::Parts;

    use super::{HostUse, Selection, wants_guest, with_children};

    #[test]
    fn the_guest_is_asked_only_for_what_it_knows() {
        let wants = |word| wants_guest(&Selection::of([word]).unwrap());
        assert!(wants("") && wants("all") && wants("kata_guest_load") && wants("kata_shim_pod_overhead_cpu"));
        assert!(wants_guest(&Selection::of(["brief", "kata_shim_rpc"]).unwrap()));
        assert!(!wants("kata_hypervisor") && !wants("kata_container") && !wants("kata_shim_rpc"));
    }

    #[test]
    fn a_sandbox_without_a_vmm_costs_nothing_that_could_be_told() {
        assert!(HostUse::of(&Parts::default()).is_none());
        let own = Parts { vmm: Some(std::process::id()), ..Parts::default() };
        assert!(HostUse::of(&own).is_some_and(|used| used.memory_bytes > 0));
    }

    #[test]
    fn a_daemons_children_count_with_it() {
        let mut child = std::process::Command::new("/bin/sleep").arg("100").spawn().unwrap();
        // The kernel keeps children by the thread that made them.
        let thread = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
        let path = format!("/proc/{}/task/{thread}/children", std::process::id());
        let there = std::fs::read_to_string(path).unwrap().contains(&child.id().to_string());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(there && with_children(u32::MAX) == [u32::MAX]);
    }
}
