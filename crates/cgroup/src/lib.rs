//! The host's cgroups of a sandbox.
//!
//! A container manager counts and limits what a pod uses by the cgroup that it has made for it. The sandbox has one of its own
//! below that. In it is either all of the sandbox, this process too; or only what does the pod's work, the VM's CPUs, and the
//! rest is in a cgroup below `/kata_overhead`, where no limit of the pod's holds.
//!
//! Version 2 keeps a process together: there, the VMM is with its CPUs.

mod bus;
mod hierarchy;
mod making;
mod path;
mod place;
mod shortage;
mod sys;
mod systemd;

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hierarchy::{Hierarchy, mountinfo};
use kata_intent::Intents;
use making::{Awaiting, Making};
use place::Place;
pub use place::evict;
pub use shortage::Shortage;
pub use systemd::{ScopeError, Systemd};
use tokio::process::Command;

/// The longest that systemd is waited for while a sandbox's cgroups are made and its VMM begins: for two scopes.
pub const SCOPES_PATIENCE: Duration = systemd::PATIENCE.saturating_mul(2);

/// The sandbox's cgroups are not made.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// It could not be said what was to be made.
    #[error("The intent log cannot be written")]
    Log(#[from] io::Error),
    /// systemd did not make one that is to be a unit.
    #[error(transparent)]
    Scope(#[from] ScopeError),
}

/// What a sandbox's cgroups are made for.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The specification's `linux.cgroupsPath`.
    pub cgroups_path: Option<&'a Path>,
    /// The sandbox.
    pub id: &'a str,
    /// What all of it needs, in bytes. Where the pod may have less, it is left out: the kernel would kill the VM.
    pub memory: u64,
    /// All of the sandbox is in its cgroup, not only the VM's CPUs.
    pub sandbox_only: bool,
    /// Who makes those whose path is of systemd's form; without it they are directories like all others.
    pub systemd: Option<&'a Systemd>,
}

/// The cgroups of one sandbox, or none. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Cgroup(Arc<Places>);

#[derive(Debug, Default)]
struct Places {
    /// Of this process and all that it starts.
    whole: Vec<Place>,
    /// What this process leaves instead of those, if it is in a scope.
    ways_back: Vec<Place>,
    /// Of the VM's CPUs, if they are apart.
    vcpus: Vec<Place>,
    /// Of the VMM as a whole, where its threads cannot be apart.
    vmm: Vec<Place>,
    /// The files by which it joins.
    vmm_procs: Arc<[File]>,
    /// The unit that it begins in, where systemd makes it.
    vmm_scope: Option<Awaiting>,
    /// Why systemd has not.
    refusal: OnceLock<ScopeError>,
}

impl Places {
    /// Has systemd put the VMM in its scope; whether it is there.
    fn place_vmm(&self, process: u32) -> bool {
        let placed = self.vmm_scope.as_ref().map_or(Ok(()), |scope| scope.start(process));
        placed.map_err(|error| self.refusal.set(error)).is_ok()
    }
}

impl Cgroup {
    /// None: processes stay where they are started.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Makes the sandbox's cgroups below those that the container manager has made for the pod, where it has made any. A
    /// directory that cannot be made is told in the log, and is no error.
    ///
    /// # Errors
    /// The intent log could not be written, or systemd does not make a scope.
    pub fn make(request: Request<'_>, intents: Arc<dyn Intents>) -> Result<Self, CgroupError> {
        let mountinfo = mountinfo().unwrap_or_else(|error| {
            tracing::warn!(%error, "The host's mounts cannot be read: the sandbox is in no cgroup of its own");
            String::new()
        });
        let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Making { request, membership: &membership, intents }.all(&Hierarchy::all(&mountinfo))
    }

    /// Lets this process be there, and so all that it starts from now on. Where the kernel does not let it in it stays where
    /// it is, and the log says so.
    pub fn join(&self) {
        for place in &self.0.whole {
            if let Err(error) = place.join() {
                let cgroup = place.directory.display();
                tracing::warn!(%error, %cgroup, "The sandbox is not counted in its cgroup");
            }
        }
    }

    /// Takes this process back to where it was: the cgroups can only go without it.
    pub fn leave(&self) {
        let left = if self.0.ways_back.is_empty() { &self.0.whole } else { &self.0.ways_back };
        for place in left {
            if let Err(error) = place.leave() {
                tracing::warn!(%error, cgroup = %place.directory.display(), "This process is still in its cgroup");
            }
        }
    }

    /// Lets the VMM that `command` starts be with its CPUs where they cannot be apart, from its beginning.
    ///
    /// # Errors
    /// This process has no file descriptor or thread left.
    pub fn enter(&self, command: &mut Command) -> io::Result<()> {
        if self.awaits_vmm() {
            let places = Arc::clone(&self.0);
            return sys::begin_once(command, move |process| places.place_vmm(process));
        }
        if !self.0.vmm_procs.is_empty() {
            sys::enter(command, Arc::clone(&self.0.vmm_procs));
        }
        Ok(())
    }

    /// Whether the VMM's start takes as long as systemd needs to make it a scope.
    #[must_use]
    pub fn awaits_vmm(&self) -> bool {
        self.0.vmm_scope.is_some()
    }

    /// Why systemd has made no scope for the VMM, so that it has not begun.
    #[must_use]
    pub fn refusal(&self) -> Option<&ScopeError> {
        self.0.refusal.get()
    }

    /// Whether the VM's CPUs have a place apart from the VMM.
    #[must_use]
    pub fn takes_vcpus(&self) -> bool {
        !self.0.vcpus.is_empty()
    }

    /// Lets these threads, the VM's CPUs, be where they belong.
    ///
    /// # Errors
    /// Where the kernel does not let one in; those before it are there.
    pub fn take_vcpus(&self, threads: &[u32]) -> io::Result<()> {
        for place in &self.0.vcpus {
            threads.iter().try_for_each(|thread| place.take_thread(*thread))?;
        }
        Ok(())
    }

    /// Whether the kernel has killed one of the processes for want of memory, and what limited them. `None` as well where
    /// they are in no cgroup.
    #[must_use]
    pub fn shortage(&self) -> Option<Shortage> {
        self.0.whole.iter().chain(&self.0.vmm).find_map(|place| shortage::of(&place.directory))
    }
}

#[cfg(test)]
mod tests;
