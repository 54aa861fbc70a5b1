//! A conversation with the kernel (rtnetlink(7)). It answers within the call that asks, so nothing here waits: an answer
//! that is not there at once would never come.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, connect, recv, send, socket,
};

use super::sys;
use super::wire::{Message, Received, attributes, messages, number, text};

/// linux/netlink.h.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLM_F_DUMP: u16 = 0x300;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// linux/rtnetlink.h.
const RTMGRP_LINK: u32 = 1;

/// What is there already is changed.
pub(super) const REPLACE: u16 = 0x100;
/// What is not there is made.
pub(super) const CREATE: u16 = 0x400;
/// What is there already stays, and comes first.
pub(super) const APPEND: u16 = 0x800;

/// The kernel fills the buffer of a list up to this size.
const BUFFER: usize = 32 * 1024;

/// Room for a yes, or for a no with its reason.
const SHORT_BUFFER: usize = 1024;

/// How often a list is asked for that changes while it is read.
const READINGS: usize = 8;

/// The kernel did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetlinkError {
    /// It says why.
    #[error("{words}")]
    Refused { words: String, source: io::Error },
    /// There is no conversation.
    #[error("The guest's kernel cannot be asked over netlink")]
    Socket(#[source] io::Error),
    /// Its answer is not understood.
    #[error("The kernel's answer over netlink is cut short")]
    CutShort,
    /// Somebody changes what is being read.
    #[error("The kernel's list changed {READINGS} times while it was read; try again")]
    Unstable,
}

impl NetlinkError {
    /// What the kernel refused with.
    pub(super) fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

type Result<T> = std::result::Result<T, NetlinkError>;

/// A socket of the network namespace in which it was made.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: AtomicU32,
}

impl Netlink {
    /// Nobody but the kernel can answer on it.
    pub(super) fn open() -> Result<Self> {
        let open = || -> io::Result<OwnedFd> {
            let socket = route_socket()?;
            connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
            sys::ask_for_words(&socket)?;
            Ok(socket)
        };
        Ok(Self { socket: open().map_err(NetlinkError::Socket)?, sequence: AtomicU32::new(1) })
    }

    /// Asks for something to be done. `flags` are [`CREATE`] and the like.
    pub(super) fn change(&self, message: Message, flags: u16) -> Result<()> {
        let sequence = self.send(message, NLM_F_ACK | flags)?;
        let mut buffer = [0; SHORT_BUFFER];
        loop {
            for message in messages(self.receive(&mut buffer)?) {
                if message.sequence == sequence && message.kind == NLMSG_ERROR {
                    return outcome(&message);
                }
            }
        }
    }

    /// Asks for a list; the bodies of its messages.
    pub(super) fn list(&self, kind: u16, fixed: &[u8]) -> Result<Vec<Vec<u8>>> {
        for _ in 0..READINGS {
            if let Some(list) = self.read_list(Message::new(kind, fixed))? {
                return Ok(list);
            }
        }
        Err(NetlinkError::Unstable)
    }

    /// Nothing if it changed meanwhile.
    fn read_list(&self, request: Message) -> Result<Option<Vec<Vec<u8>>>> {
        let sequence = self.send(request, NLM_F_DUMP)?;
        let (mut list, mut stable) = (Vec::new(), true);
        let mut buffer = vec![0; BUFFER];
        loop {
            for message in messages(self.receive(&mut buffer)?) {
                if message.sequence != sequence {
                    continue;
                }
                stable &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    NLMSG_DONE => return outcome(&message).map(|()| stable.then_some(list)),
                    NLMSG_ERROR => outcome(&message)?,
                    _ => list.push(message.body.to_owned()),
                }
            }
        }
    }

    fn send(&self, message: Message, flags: u16) -> Result<u32> {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let bytes = message.into_bytes(NLM_F_REQUEST | flags, sequence);
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty())
            .map_err(|errno| NetlinkError::Socket(errno.into()))?;
        Ok(sequence)
    }

    fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<&'a [u8]> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
        let length = recv(self.socket.as_raw_fd(), buffer, flags)
            .map_err(|errno| NetlinkError::Socket(errno.into()))?;
        buffer.get(..length).ok_or(NetlinkError::CutShort)
    }
}

/// A socket of the kernel's tables of links, addresses, routes and neighbours.
fn route_socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?)
}

/// A socket on which the kernel announces every change of a link.
pub(super) fn announcements() -> io::Result<OwnedFd> {
    let socket = route_socket()?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, RTMGRP_LINK))?;
    Ok(socket)
}

/// What `struct nlmsgerr` says: zero or an error, and the kernel's words behind it.
fn outcome(message: &Received<'_>) -> Result<()> {
    let code = number(message.body, 0).ok_or(NetlinkError::CutShort)?.cast_signed();
    if code >= 0 {
        return Ok(());
    }
    let source = io::Error::from_raw_os_error(code.saturating_neg());
    // The error and the header of the request.
    let behind = message.body.get(20..).filter(|_| message.flags & NLM_F_ACK_TLVS != 0).unwrap_or_default();
    let words = attributes(behind).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG);
    let words = words.map_or_else(|| "The guest's kernel refuses".to_owned(), |(_, words)| text(words));
    Err(NetlinkError::Refused { words, source })
}
