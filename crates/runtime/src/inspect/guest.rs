//! What only the guest knows. A guest that does not answer once is not asked again: each question waits for some seconds.

use kata_sandbox::{ContainerInspection, Inspection, Interface, PidInfo, Route, SandboxStatus};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::management::{CallError, Sandbox, part};

/// The processes of a container, by their numbers in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct Processes(pub(super) Vec<PidInfo>);

/// A guest that may answer.
pub(super) struct Guest {
    sandbox: Option<Sandbox>,
    complaints: Vec<String>,
}

impl Guest {
    /// The guest of a sandbox; of one that does not run there is none.
    pub(super) fn of(shim: Option<&Inspection>, sandbox: Sandbox) -> Self {
        let runs = shim.is_some_and(|shim| shim.status == SandboxStatus::Running);
        Self { sandbox: Some(sandbox).filter(|_| runs), complaints: Vec::new() }
    }

    pub(super) fn processes(&mut self, container: &ContainerInspection) -> Processes {
        let runs = ["running", "paused"].contains(&container.process.status.as_str());
        let path = format!("/processes/{}", part(&container.id));
        let found = if runs && !container.pause { self.ask(&path) } else { None };
        Processes(found.unwrap_or_default())
    }

    pub(super) fn interfaces(&mut self) -> Vec<Interface> {
        self.ask("/network/interfaces").unwrap_or_default()
    }

    pub(super) fn routes(&mut self) -> Vec<Route> {
        self.ask("/network/routes").unwrap_or_default()
    }

    /// Not every VM has one; its absence is no complaint.
    pub(super) fn agent_url(&self) -> Option<String> {
        let url = self.sandbox.as_ref()?.glance_text("/agent-url").ok()?;
        Some(url)
    }

    /// Who did not answer.
    pub(super) fn silence(self) -> Vec<String> {
        self.complaints
    }

    fn ask<T: DeserializeOwned>(&mut self, path: &str) -> Option<T> {
        match self.sandbox.as_ref()?.glance(path) {
            Ok(answer) => Some(answer),
            Err(error) => {
                if matches!(error.downcast_ref(), Some(CallError::Silent { .. })) {
                    self.sandbox = None;
                }
                self.complaints.push(format!("{path}: {error:#}"));
                None
            }
        }
    }
}
