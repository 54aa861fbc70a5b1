//! The tree for people.

use std::time::{Duration, UNIX_EPOCH};

use kata_sandbox::clock::rfc3339;
use kata_sandbox::sizing::{SizePlan, Term};
use kata_sandbox::{ContainerInspection, Interface, IpAddress, PidInfo, ProcessInspection, Route};

use crate::tree::Node;

use super::host::{Cgroup, HostProcess, Mount};
use super::{Container, Seen, Start};

/// All of it; what is empty is left out.
pub(super) fn tree(seen: &Seen) -> Node {
    let containers = seen.shim.iter().flat_map(|shim| &shim.containers).zip(&seen.containers);
    Node::new(format!("sandbox {}", seen.id))
        .fact("status", Some(status(seen)))
        .fact("ended because", seen.shim.as_ref().and_then(|shim| shim.reason.as_deref()))
        .branch("no answer", seen.silent.iter().map(Node::new))
        .fact("agent", seen.agent_url.as_deref())
        .branch("vm", size(seen).into_iter().chain(seen.start.iter().flat_map(vm)))
        .branch("containers", containers.map(|(told, more)| container(told, more)))
        .branch("processes on the host", seen.processes.iter().map(process))
        .branch("devices and files of the VMM", seen.devices.iter().map(Node::new))
        .branch("interfaces", seen.interfaces.iter().map(interface))
        .branch("routes", seen.routes.iter().map(|route: &Route| Node::new(route.to_string())))
        .branch("mounts", seen.mounts.iter().map(mount))
        .branch("cgroups", seen.cgroups.iter().map(cgroup))
        .branch("intent log, undone from the end", seen.intents.iter().map(intent))
}

fn status(seen: &Seen) -> String {
    match (&seen.shim, seen.owner) {
        (Some(shim), _) => format!("{:?}", shim.status).to_lowercase(),
        (None, Some(pid)) => format!("hung: its shim (pid {pid}) lives and does not answer"),
        (None, None) => {
            "dead: its shim has gone; containerd runs `containerd-shim-kata-v2 delete`, or the next \
                         sandbox that starts cleans up"
                .to_owned()
        }
    }
}

fn size(seen: &Seen) -> Option<Node> {
    let SizePlan { boot, most } = seen.shim.as_ref()?.size.as_ref()?;
    let term = |term: &Term, amount: String| Node::new(format!("{}: {amount}", term.what));
    // As decimal fractions without needless zeros.
    let cpus = boot.millicpus.iter().map(|one| term(one, (one.amount as f64 / 1000.0).to_string()));
    let mib = boot.mib.iter().map(|one| term(one, format!("{} MiB", one.amount)));
    let size = Node::new(format!("size: {}", boot.size)).branch("vCPUs", cpus).branch("memory", mib);
    Some(size.fact("at most", Some(most)))
}

fn vm(start: &Start) -> Vec<Node> {
    let Start { vmm, accelerator, accelerator_reason, agent_version, total_us } = start;
    let accelerator = accelerator.as_ref().map(|name| match accelerator_reason {
        Some(reason) => format!("{name} ({reason})"),
        None => name.clone(),
    });
    let facts =
        [("vmm", vmm.clone()), ("accelerator", accelerator), ("agent version", agent_version.clone())];
    let facts = facts.into_iter().filter_map(|(name, value)| Some(Node::new(format!("{name}: {}", value?))));
    facts.chain([Node::new(format!("start took: {} ms", total_us / 1000))]).collect()
}

fn container(told: &ContainerInspection, more: &Container) -> Node {
    let kind = if told.pause { " (pause: nothing of it is in the guest)" } else { "" };
    let exec =
        |exec: &kata_sandbox::ExecInspection| Node::new(format!("{}: {}", exec.id, state(&exec.process)));
    let pid = |info: &PidInfo| match &info.exec {
        Some(exec) => Node::new(format!("{} ({exec})", info.pid)),
        None => Node::new(info.pid.to_string()),
    };
    Node::new(format!("{}{kind}", told.id))
        .fact("status", Some(state(&told.process)))
        .fact("created", Some(rfc3339(UNIX_EPOCH + Duration::from_nanos(told.created_ns))))
        .fact("bundle", Some(told.bundle.display()))
        .branch("added processes", told.execs.iter().map(exec))
        .branch("pids in the guest", more.processes.0.iter().map(pid))
        .branch("limits", more.limits.iter().map(|(name, value)| Node::new(format!("{name}: {value}"))))
}

fn state(process: &ProcessInspection) -> String {
    let terminal = if process.terminal { ", with a terminal" } else { "" };
    match process.exit_status {
        Some(code) => format!("{}, exit status {code}{terminal}", process.status),
        None => format!("{}{terminal}", process.status),
    }
}

fn process(process: &HostProcess) -> Node {
    let HostProcess { pid, name, resident_kib, threads } = process;
    Node::new(format!("{pid} {name}: {resident_kib} KiB resident, {threads} threads"))
}

fn interface(interface: &Interface) -> Node {
    let addresses: Vec<String> = interface.addresses.iter().map(IpAddress::to_string).collect();
    let on = if interface.device.is_empty() { String::new() } else { format!(" on {}", interface.device) };
    let Interface { name, mac, mtu, .. } = interface;
    Node::new(format!("{name}{on}: {mac}, MTU {mtu}, {}", addresses.join(" ")).trim_end_matches([',', ' ']))
}

fn mount(mount: &Mount) -> Node {
    let what = mount.what.as_deref().unwrap_or("not there");
    Node::new(format!("{}: {what}", mount.target.display()))
}

fn cgroup(cgroup: &Cgroup) -> Node {
    let values = cgroup.values.iter().map(|(name, value)| Node::new(format!("{name}: {value}")));
    Node::new(cgroup.path.display().to_string()).with(values)
}

fn intent(intent: &kata_sandbox::Intent) -> Node {
    Node::new(intent.to_string())
}
