//! Network cards for an agent without a VM: ends of veth pairs, plugged into its network namespace from outside.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use crate::guest::Guest;

/// linux/rtnetlink.h, linux/if_link.h, linux/veth.h.
const RTM_NEWLINK: u16 = 16;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFF_UP: u32 = 1;
/// NLM_F_REQUEST and ACK; CREATE and EXCL besides.
const CHANGE: u16 = 0x5;
const CREATE: u16 = 0x605;

/// A hardware address that ends with `number`.
pub(crate) fn hardware(number: u8) -> String {
    format!("02:00:00:00:00:{number:02x}")
}

/// An agent's network namespace.
#[derive(Debug)]
pub(crate) struct Slots {
    namespace: File,
    files: String,
}

impl Slots {
    /// Those of this guest.
    pub(crate) fn of(guest: &Guest) -> Self {
        let process = format!("/proc/{}", guest.agent_id());
        let namespace = File::open(format!("{process}/ns/net")).expect("the agent's namespace");
        Self { namespace, files: format!("{process}/net") }
    }

    /// Plugs a card in, whose other end is up.
    pub(crate) fn plug(&self, name: &str, number: u8) {
        let other = text(IFLA_IFNAME, &format!("{name}-peer"));
        let peer = [vec![0; 16], other.clone()].concat();
        let data = attribute(IFLA_INFO_DATA, &attribute(VETH_INFO_PEER, &peer));
        let info = [text(IFLA_INFO_KIND, "veth"), data].concat();
        let body = [
            vec![0; 16],
            text(IFLA_IFNAME, name),
            attribute(IFLA_ADDRESS, &[2, 0, 0, 0, 0, number]),
            attribute(IFLA_LINKINFO, &info),
        ]
        .concat();
        let up = [[0; 4], [0; 4], IFF_UP.to_ne_bytes(), IFF_UP.to_ne_bytes()].concat();
        self.inside(|| {
            ask(CREATE, &body);
            ask(CHANGE, &[up, other].concat());
        });
    }

    /// A file below `/proc/net`.
    pub(crate) fn file(&self, name: &str) -> String {
        fs::read_to_string(format!("{}/{name}", self.files)).expect("a file of the kernel")
    }

    /// A thread's namespace is its own.
    fn inside(&self, work: impl FnOnce() + Send) {
        let enter = || setns(&self.namespace, CloneFlags::CLONE_NEWNET).expect("can be entered");
        thread::scope(|scope| {
            scope.spawn(|| {
                enter();
                work();
            });
        });
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).expect("is short");
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn text(kind: u16, text: &str) -> Vec<u8> {
    attribute(kind, &[text.as_bytes(), &[0]].concat())
}

fn ask(flags: u16, body: &[u8]) {
    let (kind, protocol) = (RTM_NEWLINK, SockProtocol::NetlinkRoute);
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol);
    let socket = socket.expect("a netlink socket");
    let length = u32::try_from(16 + body.len()).expect("is short");
    let header = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8]].concat();
    send(socket.as_raw_fd(), &[&header, body].concat(), MsgFlags::empty()).expect("sent");
    let mut answer = [0; 1024];
    recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()).expect("an answer");
    let error = i32::from_ne_bytes(*answer[16..].first_chunk().expect("an answer"));
    assert_eq!(error, 0, "the kernel refuses the card");
}
