//! A container's filter of system calls, and who answers some of them.

mod listener;

use kata_protocol::oci;
use kata_seccomp::Program;

use super::error::{JailError, Result};
use super::sys;
use listener::Listener;

/// A filter that waits for its moment.
#[derive(Debug)]
pub(super) struct Filter {
    program: Program,
    /// Who answers calls in place of the kernel.
    listener: Option<Listener>,
}

impl Filter {
    /// The filter of a container, if it has a profile. Its listener is reached for in the guest.
    pub(super) fn prepare(linux: &oci::Linux) -> Result<Option<Self>> {
        let Some(profile) = linux.Seccomp.as_ref() else { return Ok(None) };
        let program = Program::of(profile).map_err(|error| JailError::Refused(error.to_string()))?;
        let listener = program.asks().then(|| Listener::connect(&profile.ListenerPath)).transpose()?;
        Ok(Some(Self { program, listener }))
    }

    /// Says whose calls they are: those of this process, which still sees the guest's `/proc`.
    pub(super) fn identify(&mut self, spec: &oci::Spec, status: &str) -> Result<()> {
        self.listener.as_mut().map_or(Ok(()), |listener| listener.identify(spec, status))
    }

    /// Puts this process under it.
    pub(super) fn install(mut self) -> std::io::Result<()> {
        let calls = sys::filter_calls(&mut self.program.instructions, self.program.flags)?;
        match (self.listener, calls) {
            (Some(listener), Some(calls)) => listener.hand_over(&calls),
            _ => Ok(()),
        }
    }
}
