//! Whoever answers system calls in a workload's place (`SCMP_ACT_NOTIFY`): a program of the guest's, at the socket
//! `listenerPath`, gets the descriptor for it with the process's state (OCI `config-linux.md`, "The Container Process
//! State").

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use kata_protocol::oci;

use crate::hooks::{State, quoted};
use crate::jail::error::{JailError, Named, Result};
use crate::jail::passing;

/// The name of the descriptor in the state.
const DESCRIPTOR: &str = "seccompFd";

/// A socket to the listener, and what it will be told.
#[derive(Debug)]
pub(super) struct Listener {
    socket: UnixStream,
    state: String,
}

impl Listener {
    /// The listener at a profile's `listenerPath`. The process that is meant is not this one yet.
    pub(super) fn connect(path: &str) -> Result<Self> {
        if path.is_empty() {
            let text =
                "SCMP_ACT_NOTIFY needs somebody to answer; name its socket in linux.seccomp.listenerPath";
            return Err(JailError::Refused(text.to_owned()));
        }
        let socket = UnixStream::connect(path)
            .at("reach linux.seccomp.listenerPath, which must be a socket in the guest,", path)?;
        Ok(Self { socket, state: String::new() })
    }

    /// In the process that is meant, while it sees the guest's `/proc`.
    pub(super) fn identify(&mut self, spec: &oci::Spec, status: &str) -> Result<()> {
        let own = std::fs::read_link("/proc/self").step("learn this process's id")?;
        let pid = own.to_str().and_then(|text| text.parse().ok()).unwrap_or(0);
        let metadata = quoted(&spec.Linux.Seccomp.get_or_default().ListenerMetadata);
        let (version, state) = (quoted(&spec.Version), State::of(spec).json(status, Some(pid)));
        self.state = format!(
            "{{\"ociVersion\":{version},\"fds\":[\"{DESCRIPTOR}\"],\"pid\":{pid},\"metadata\":{metadata},\"state\":{state}}}"
        );
        Ok(())
    }

    /// Hands the calls over, in one system call.
    pub(super) fn hand_over(self, calls: &OwnedFd) -> io::Result<()> {
        passing::send(&self.socket, self.state.as_bytes(), calls)
    }
}
