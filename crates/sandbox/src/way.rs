//! The ways to the agent: vsock where the host has it, else a virtio-serial port.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use async_trait::async_trait;
use kata_transport::{Dialer, Doorbell};
use kata_vmm::{AgentChannel, Vmm};

use crate::host::{BootError, Way};
use crate::sys;

/// The host's vsock device.
const VHOST_VSOCK: &str = "/dev/vhost-vsock";

/// Context ids that are tried before giving up; each is free with near certainty.
const CID_ATTEMPTS: usize = 16;

/// Below are the hypervisor's, the local and the host's own.
const FIRST_CID: u32 = 3;

/// A way that was prepared before the VM is started.
pub(crate) enum Prepared {
    /// By vsock; the agent rings the doorbell.
    Vsock {
        /// The guest's context id.
        cid: u32,
        /// Where it rings.
        doorbell: Doorbell,
    },
    /// By the VM's virtio-serial port, whose opening is the doorbell.
    Serial,
}

/// Prepares the best way that this host has.
pub(crate) fn prepare() -> Result<(Prepared, AgentChannel), BootError> {
    match OpenOptions::new().read(true).write(true).open(Path::new(VHOST_VSOCK)) {
        Ok(device) => vsock(device.into()),
        Err(error) => {
            tracing::debug!(%error, "No {VHOST_VSOCK}: the agent is reached by virtio-serial");
            Ok((Prepared::Serial, AgentChannel::Serial))
        }
    }
}

fn vsock(vhost_fd: OwnedFd) -> Result<(Prepared, AgentChannel), BootError> {
    let doorbell = Doorbell::hang()?;
    let cid = claim_cid(&vhost_fd)?;
    Ok((Prepared::Vsock { cid, doorbell }, AgentChannel::Vsock { cid, vhost_fd }))
}

/// Takes a random context id that no other guest of this host has.
fn claim_cid(vhost: &OwnedFd) -> io::Result<u32> {
    for _ in 0..CID_ATTEMPTS {
        let mut bytes = [0; 4];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        let cid = u32::from_ne_bytes(bytes);
        if !(FIRST_CID..u32::MAX).contains(&cid) {
            continue;
        }
        match sys::set_guest_cid(vhost, cid) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            result => return result.map(|()| cid),
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "All vsock context ids that were tried are in use"))
}

impl Prepared {
    /// The vsock port of the host that the agent calls, if it is to call one.
    pub(crate) fn doorbell_port(&self) -> Option<u32> {
        match self {
            Self::Vsock { doorbell, .. } => Some(doorbell.port()),
            Self::Serial => None,
        }
    }

    /// The way, once the VM was started.
    pub(crate) fn into_way(self, vmm: &dyn Vmm) -> Result<Box<dyn Way>, BootError> {
        match self {
            Self::Vsock { cid, doorbell } => Ok(Box::new(ByVsock { cid, doorbell })),
            Self::Serial => {
                let socket = vmm.take_agent_socket().ok_or("The VMM has no serial port for the agent")?;
                Ok(Box::new(BySerial { dialer: Dialer::serial(socket)? }))
            }
        }
    }
}

struct ByVsock {
    cid: u32,
    doorbell: Doorbell,
}

#[async_trait]
impl Way for ByVsock {
    /// Nobody listens in the guest before the agent rings.
    async fn open(&mut self) -> Result<Dialer, BootError> {
        self.doorbell.rung_by(self.cid).await?;
        Ok(Dialer::vsock(self.cid))
    }

    async fn announced(&mut self) -> Result<(), BootError> {
        Ok(())
    }
}

/// By virtio-serial.
pub(crate) struct BySerial {
    pub(crate) dialer: Dialer,
}

#[async_trait]
impl Way for BySerial {
    /// The carrier holds what is sent until the guest reads it.
    async fn open(&mut self) -> Result<Dialer, BootError> {
        Ok(self.dialer.clone())
    }

    async fn announced(&mut self) -> Result<(), BootError> {
        Ok(self.dialer.answered().await?)
    }
}
