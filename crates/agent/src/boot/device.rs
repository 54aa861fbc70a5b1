//! The device through which the host reaches the agent.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kata_protocol::guest::SERIAL_PORT;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{BootError, Result, step};
use crate::announcements;

/// How long a port of a serial device may take to appear; the kernel makes ports when the VMM announces them.
const APPEARANCE: Duration = Duration::from_secs(10);

/// Virtio device types, as sysfs prints them.
const VSOCK: &str = "0x0013";
const CONSOLE: &str = "0x0003";

/// The virtio-serial port of the agent's name, or `None` if the VM has vsock instead.
pub(crate) fn agent_port() -> Result<Option<PathBuf>> {
    let devices = virtio_devices(Path::new("/sys/bus/virtio/devices"));
    if devices.iter().any(|kind| kind == VSOCK) {
        return Ok(None);
    }
    if !devices.iter().any(|kind| kind == CONSOLE) {
        return Err(BootError::NoChannel { name: SERIAL_PORT });
    }
    wait_for_port().map_err(step(format!("find the virtio-serial port {SERIAL_PORT}"))).map(Some)
}

fn virtio_devices(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let kinds = entries.filter_map(|entry| fs::read_to_string(entry.path().join("device")).ok());
    kinds.map(|kind| kind.trim().to_owned()).collect()
}

fn wait_for_port() -> io::Result<PathBuf> {
    // Listening comes before looking, so that nothing is missed in between.
    let events = announcements::of_devices()?;
    let deadline = Instant::now() + APPEARANCE;
    loop {
        if let Some(port) = find_port(Path::new("/sys/class/virtio-ports")) {
            return Ok(port);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it did not appear"));
        }
        next_event(&events, left)?;
    }
}

fn find_port(folder: &Path) -> Option<PathBuf> {
    let mut entries = fs::read_dir(folder).ok()?.flatten();
    let port = entries.find(|entry| {
        fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim() == SERIAL_PORT)
    })?;
    Some(Path::new("/dev").join(port.file_name()))
}

fn next_event(events: &OwnedFd, left: Duration) -> io::Result<()> {
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLIN)], timeout)?;
    announcements::take(events);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_found_by_its_name() {
        let class = tempfile::tempdir().expect("temporary folder");
        for (port, name) in [("vport0p0", "console\n"), ("vport1p1", "org.katacontainers.agent.0\n")] {
            fs::create_dir(class.path().join(port)).expect("folder");
            fs::write(class.path().join(port).join("name"), name).expect("file");
        }
        assert_eq!(find_port(class.path()), Some("/dev/vport1p1".into()));
    }

    #[test]
    fn devices_are_told_by_their_type() {
        let bus = tempfile::tempdir().expect("temporary folder");
        fs::create_dir(bus.path().join("virtio0")).expect("folder");
        fs::write(bus.path().join("virtio0/device"), "0x0013\n").expect("file");
        assert_eq!(virtio_devices(bus.path()), [VSOCK]);
    }
}
