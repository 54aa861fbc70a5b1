//! The kernel's routing netlink (rtnetlink(7)), as much of it as a pod's network needs. Only this module and those below
//! it know the library's types, which change often.
//!
//! Requests are sent by `netlink-packet-route` over a blocking socket of our own: the kernel answers before `send` returns,
//! so there is nothing to wait for asynchronously, and everything runs in a thread that has entered the pod's namespace
//! anyway. `rtnetlink` would bring `netlink-proto`, `netlink-sys`, `bytes` and a connection task for the same.

mod layer3;
mod links;
mod shaping;
mod traffic;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

pub(crate) use layer3::{Address, Hop, Neighbour, Route};
pub(crate) use links::Link;
pub(crate) use shaping::Sending;
pub(crate) use traffic::{Filter, Ingress};

/// The kernel's messages are not longer than 32 KiB.
const BUFFER: usize = 64 * 1024;
/// A dump that others' changes interrupted is asked for again, this often at most.
const TRIES: usize = 16;

/// Changes of links, and of addresses and routes of both families (`RTMGRP_*`).
const CHANGES: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

/// A connection with the kernel about the network namespace of the thread that opened it.
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { fd: open(0, SockFlag::empty())?, sequence: 0 })
    }

    /// A request that makes something new.
    fn create(&mut self, message: RouteNetlinkMessage) -> io::Result<()> {
        self.request(message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// A request that is only acknowledged.
    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, flags | NLM_F_ACK)?;
        let mut acknowledged = false;
        while !acknowledged {
            self.receive(|_, payload| {
                if let NetlinkPayload::Error(error) = payload {
                    acknowledged = true;
                    if error.code.is_some() {
                        return Err(error.to_io());
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// All objects of a kind, as one consistent list.
    fn dump(&mut self, message: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..TRIES {
            if let Some(objects) = self.try_dump(message.clone())? {
                return Ok(objects);
            }
        }
        Err(io::Error::new(io::ErrorKind::Interrupted, "it changes all the time"))
    }

    /// `None` if the objects changed meanwhile.
    fn try_dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Option<Vec<RouteNetlinkMessage>>> {
        self.send(message, NLM_F_DUMP)?;
        let (mut objects, mut done, mut interrupted) = (Vec::new(), false, false);
        while !done {
            self.receive(|header, payload| {
                interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                match payload {
                    NetlinkPayload::InnerMessage(object) => objects.push(object),
                    NetlinkPayload::Done(end) if end.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-end.code));
                    }
                    NetlinkPayload::Done(_) => done = true,
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => (),
                }
                Ok(())
            })?;
        }
        Ok((!interrupted).then_some(objects))
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty())?;
        Ok(())
    }

    /// Hands over the messages of one datagram that answer the last request.
    fn receive(
        &self,
        mut each: impl FnMut(&NetlinkHeader, NetlinkPayload<RouteNetlinkMessage>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        let length = loop {
            match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC) {
                Err(nix::Error::EINTR) => (),
                received => break received?,
            }
        };
        let mut rest = buffer.get(..length).ok_or(io::ErrorKind::FileTooLarge)?;
        while !rest.is_empty() {
            let message = NetlinkMessage::deserialize(rest).map_err(io::Error::other)?;
            let aligned = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(aligned..).unwrap_or_default();
            if message.header.sequence_number == self.sequence {
                each(&message.header, message.payload)?;
            }
        }
        Ok(())
    }
}

/// A socket that becomes readable when the links, addresses or routes of the thread's namespace change. It does not block.
pub(crate) fn changes() -> io::Result<OwnedFd> {
    open(CHANGES, SockFlag::SOCK_NONBLOCK)
}

/// Takes all that has arrived in a socket of [`changes`]. Messages lost for want of memory are changes like others.
pub(crate) fn drain(changes: &OwnedFd) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match recv(changes.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(_) | Err(nix::Error::ENOBUFS | nix::Error::EINTR) => (),
            Err(nix::Error::EAGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn open(groups: u32, flags: SockFlag) -> io::Result<OwnedFd> {
    let flags = flags | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(fd)
}
