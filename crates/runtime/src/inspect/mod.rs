//! `kata-runtime inspect`: what a sandbox is now, whether it lives or not.
//!
//! The shim tells of containers, the guest of addresses and processes, the host of all else. What does not answer is
//! left out, and said so: this is for looking at what is broken.

mod guest;
mod host;
mod shown;

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use kata_sandbox::{Announced, Inspection, Intent, Interface, Route, Timeline};
use serde::Serialize;

use crate::global::Global;
use crate::management::{self, Sandbox};
use crate::{output, sandboxes};

use guest::{Guest, Processes};
use host::{Cgroup, HostProcess, Limits, Mount};

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The sandbox's id, or a beginning of it that no other has
    sandbox: String,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A sandbox, as far as it can be seen.
#[derive(Debug, Serialize)]
pub(crate) struct Seen {
    id: String,
    /// What the shim says of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    shim: Option<Inspection>,
    /// Who does not answer, and why.
    silent: Vec<String>,
    /// Whether the process that owns it lives, and which that is.
    owner: Option<u32>,
    start: Option<Start>,
    agent_url: Option<String>,
    containers: Vec<Container>,
    processes: Vec<HostProcess>,
    /// What the VMM has open on the host: disks, devices, images.
    devices: Vec<String>,
    interfaces: Vec<Interface>,
    routes: Vec<Route>,
    mounts: Vec<Mount>,
    cgroups: Vec<Cgroup>,
    /// What would be undone if the sandbox ended now, in the order in which it was made.
    intents: Vec<Intent>,
}

/// What is known of its VM since its start.
#[derive(Debug, Serialize)]
struct Start {
    vmm: Option<String>,
    accelerator: Option<String>,
    accelerator_reason: Option<String>,
    agent_version: Option<String>,
    total_us: u64,
}

/// What is known of a container beyond what the shim says.
#[derive(Debug, Serialize)]
struct Container {
    id: String,
    limits: Limits,
    processes: Processes,
}

/// Runs the subcommand.
pub(crate) fn run(args: &InspectArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let seen = look(global, &args.sandbox)?;
    if args.json {
        output::json(&seen)?;
    } else {
        output::lines(shown::tree(&seen).lines())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Looks at a sandbox from all sides.
pub(crate) fn look(global: &Global, id: &str) -> anyhow::Result<Seen> {
    let id = sandboxes::full_id(&global.root, id)?;
    let dir = global.root.join(&id);
    let log = Announced::read(&dir).unwrap_or_default();
    let mut silent = Vec::new();
    let shim = match management::inspect_all(&global.root, std::slice::from_ref(&id))?.pop() {
        Some(Ok(seen)) => Some(seen),
        Some(Err(error)) => {
            silent.push(error.to_string());
            None
        }
        None => None,
    };
    let mut guest = Guest::of(shim.as_ref(), Sandbox::find(&global.root, &id)?);
    let containers = shim.iter().flat_map(|shim| &shim.containers);
    let containers = containers.map(|container| Container {
        id: container.id.clone(),
        limits: host::limits(&container.bundle),
        processes: guest.processes(container),
    });
    let containers = containers.collect();
    let (agent_url, interfaces, routes) = (guest.agent_url(), guest.interfaces(), guest.routes());
    silent.extend(guest.silence());
    let vmm = shim.as_ref().map(|shim| shim.pid).filter(|pid| *pid != 0);
    Ok(Seen {
        start: Timeline::read(&dir).ok().map(Start::from),
        processes: host::processes(&log),
        devices: vmm.map(host::open_files).unwrap_or_default(),
        mounts: host::mounts(&log.intents),
        cgroups: host::cgroups(&log.intents),
        owner: log.owner,
        intents: log.intents,
        id,
        shim,
        silent,
        agent_url,
        containers,
        interfaces,
        routes,
    })
}

impl Seen {
    /// Its containers' ids and bundles.
    pub(crate) fn bundles(&self) -> impl Iterator<Item = (&str, &Path)> {
        let containers = self.shim.iter().flat_map(|shim| &shim.containers);
        containers.map(|container| (container.id.as_str(), container.bundle.as_path()))
    }
}

impl From<Timeline> for Start {
    fn from(timeline: Timeline) -> Self {
        let total_us = timeline.spans.iter().map(|span| span.end_us).max().unwrap_or(0);
        let Timeline { vmm, accelerator, accelerator_reason, agent_version, .. } = timeline;
        Self { vmm, accelerator, accelerator_reason, agent_version, total_us }
    }
}
