//! A VM for nobody but this tool: booted as the configuration says, with an agent that nothing was asked of yet.

use std::env;
use std::path::PathBuf;

use anyhow::Context;
use kata_config::LoadRequest;
use kata_sandbox::sizing::{Rule, Sizing};
use kata_sandbox::{FirstContainer, LaunchSpec, STATE_ROOT, Sandbox};
use oci_spec::runtime::Spec;
use tokio::signal::unix::{SignalKind, signal};

use crate::address::ServerAddress;
use crate::{auto, command};

/// Those that are driven.
const HYPERVISORS: [&str; 1] = ["qemu"];

/// Its network is a namespace of its own, which is empty.
const SPEC: &str = r#"{"ociVersion": "1.1.0", "linux": {"namespaces": [{"type": "network"}]}}"#;

/// A signal has ended the tool, and the VM with it.
#[derive(Debug, thiserror::Error)]
#[error("Ended by a signal; the VM is gone")]
pub(crate) struct Interrupted;

/// A sandbox without containers.
pub(crate) struct Vm {
    sandbox: Sandbox,
    /// Where its agent is.
    pub(crate) address: ServerAddress,
}

impl Vm {
    /// Boots one; returns when its agent answers.
    ///
    /// # Errors
    /// The hypervisor is none of ours; the configuration is wrong; the VM does not come up. Nothing is left then.
    pub(crate) async fn boot(hypervisor: &str, explicit: Option<PathBuf>) -> anyhow::Result<Self> {
        if !HYPERVISORS.contains(&hypervisor.to_ascii_lowercase().as_str()) {
            let known = HYPERVISORS.join(", ");
            let refusal = format!("--vm {hypervisor}: no such hypervisor is driven; choose one of {known}");
            return Err(command::UsageError(refusal).into());
        }
        let env_conf_file = env::var_os("KATA_CONF_FILE").map(PathBuf::from);
        let config = kata_config::load(&LoadRequest { explicit, env_conf_file, ..LoadRequest::default() })?;
        let id = format!("agent-ctl-{}", &auto::generate()?[..12]);
        let spec: Spec = serde_json::from_str(SPEC).context("A specification")?;
        let launch = LaunchSpec {
            id: id.parse()?,
            bundle: env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            sizing: Sizing::new(Rule::of(&config), None),
            config,
            spec,
            first: FirstContainer::Later,
            pod: None,
            state_root: PathBuf::from(STATE_ROOT),
            manager: "kata-agent-ctl".to_owned(),
            socket: None,
            tracer: None,
        };
        // What happens in it is nobody's concern: it ends with this.
        let (sandbox, _events) = kata_sandbox::launch(launch).await?;
        let address = async {
            anyhow::Ok(sandbox.unconfigured_agent().await.context("The VM does not come up")?.parse()?)
        };
        match unless_interrupted(address).await {
            Ok(address) => Ok(Self { sandbox, address }),
            Err(error) => {
                sandbox.shutdown().await?;
                Err(error)
            }
        }
    }

    /// Ends the VM, and leaves nothing of it.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        self.sandbox.shutdown().await.context("Something of the VM is left")
    }
}

/// The work, unless a signal comes first.
pub(crate) async fn unless_interrupted<T>(
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        done = work => done,
        _ = terminate.recv() => Err(Interrupted.into()),
        _ = interrupt.recv() => Err(Interrupted.into()),
    }
}
