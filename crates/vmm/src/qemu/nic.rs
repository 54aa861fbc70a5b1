//! Network cards, in QEMU's words.

use std::fmt;
use std::os::fd::RawFd;

use serde_json::{Map, Value, json};

use crate::plan::{Nic, NicBackend};

/// The properties of a `virtio-net-pci`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Card<'a> {
    id: &'a str,
    mac: [u8; 6],
    queues: usize,
}

impl<'a> Card<'a> {
    /// The card and its back end have the same id.
    pub(super) fn of(nic: &'a Nic) -> Self {
        let queues = match &nic.backend {
            NicBackend::Tap { queues, .. } => queues.len(),
            NicBackend::VhostUser { queues, .. } => usize::from(*queues),
            NicBackend::User => 1,
        };
        Self { id: &nic.id, mac: nic.mac, queues }
    }

    /// The arguments of `device_add`, for the root port of that id.
    pub(super) fn to_json(&self, port: &str) -> Map<String, Value> {
        let mut properties = Map::from_iter([
            ("driver".to_owned(), json!("virtio-net-pci")),
            ("id".to_owned(), json!(self.id)),
            ("netdev".to_owned(), json!(self.id)),
            ("bus".to_owned(), json!(port)),
            ("mac".to_owned(), json!(mac(self.mac))),
            ("romfile".to_owned(), json!("")),
            ("disable-legacy".to_owned(), json!("on")),
        ]);
        if self.queues > 1 {
            properties.insert("mq".to_owned(), json!(true));
            properties.insert("vectors".to_owned(), json!(self.vectors()));
        }
        properties
    }

    /// Interrupts: two for each pair of queues, one for the control queue, one for the configuration.
    fn vectors(&self) -> usize {
        2 * self.queues + 2
    }
}

impl fmt::Display for Card<'_> {
    /// Without a boot ROM, which only firmware would read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "id={},netdev={},mac={},romfile=", self.id, self.id, mac(self.mac))?;
        match self.queues {
            0 | 1 => Ok(()),
            _ => write!(f, ",mq=on,vectors={}", self.vectors()),
        }
    }
}

/// As everybody writes it.
pub(super) fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// The value of `-netdev` for a TAP device of these descriptors.
pub(super) fn tap(id: &str, queues: Vec<RawFd>, vhost: Vec<RawFd>) -> String {
    let list = |fds: Vec<RawFd>| fds.iter().map(RawFd::to_string).collect::<Vec<_>>().join(":");
    let several = if queues.len() > 1 { "s" } else { "" };
    let vhost = match vhost.is_empty() {
        true => String::new(),
        false => format!(",vhost=on,vhostfd{several}={}", list(vhost)),
    };
    format!("tap,id={id},fd{several}={}{vhost}", list(queues))
}
