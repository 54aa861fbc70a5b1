//! Seccomp profiles are compiled on the host: an agent of ours is sent the programs.

use kata_protocol::kata::ContainerRequest;
use kata_seccomp::Program;

use crate::error::{Result, SandboxError as Error};

/// The request of a container for an agent of ours.
pub(super) fn compiled(request: &ContainerRequest) -> Result<ContainerRequest> {
    let mut request = request.clone();
    let linux = request.oci.as_mut().and_then(|spec| spec.Linux.as_mut());
    if let Some(profile) = linux.and_then(|linux| linux.Seccomp.as_mut()) {
        let program = Program::compile(profile)
            .map_err(|source| Error::Seccomp { id: request.container_id.clone(), source })?;
        program.replace(profile);
    }
    Ok(request)
}
