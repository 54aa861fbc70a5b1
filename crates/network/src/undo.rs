//! Takes back what was announced.

use std::io;

use kata_intent::Intent;
use nix::libc;

use crate::filter::{self, Owner};
use crate::names;
use crate::netlink::{Link, Sending, Socket};
use crate::netns;

/// Takes back an [`Intent::Interface`], [`Intent::Ingress`] or [`Intent::Limit`]. It is no error if it was never made or is gone, or if
/// the namespace is. What is there under the same name but is not a VM's stays: a path like `/proc/PID/ns/net` can lead
/// to another namespace by now.
///
/// # Errors
/// It is still there; or the intent is of another kind. Filters stay, with an error of the kind "resource busy", as long as
/// the TAP device behind them is there: undo them after the VM's end, when nobody holds the device's descriptors.
pub fn undo(intent: &Intent) -> io::Result<()> {
    let (Intent::Interface { netns, .. } | Intent::Ingress { netns, .. } | Intent::Limit { netns, .. }) =
        intent
    else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is nothing in a network"));
    };
    if netns::is_hosts(netns).unwrap_or_default() {
        return Ok(());
    }
    let owned = intent.clone();
    match netns::run_in_and_wait(netns, move || here(&owned)) {
        Err(error) if is_gone(&error) => Ok(()),
        entered => entered?,
    }
}

/// No file, no process, or not a namespace (any more).
fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | InvalidInput)
        || error.raw_os_error() == Some(libc::ESRCH)
}

/// As [`undo`], in the namespace that the thread is in.
pub(crate) fn here(intent: &Intent) -> io::Result<()> {
    let undone = match intent {
        Intent::Interface { name, .. } => delete_macvtap(name),
        Intent::Ingress { interface, .. } => delete_filters(interface),
        Intent::Limit { interface, .. } => delete_limit(interface),
        _ => Ok(()),
    };
    match undone {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT)) => Ok(()),
        undone => undone,
    }
}

fn delete_macvtap(name: &str) -> io::Result<()> {
    let mut socket = Socket::open()?;
    match socket.link(name)? {
        Some(link) if link.is("macvtap") && names::is_ours(name) => socket.delete_link(link.index),
        _ => Ok(()),
    }
}

fn delete_filters(interface: &str) -> io::Result<()> {
    let mut socket = Socket::open()?;
    let Some(link) = socket.link(interface)? else { return Ok(()) };
    match owner(&mut socket, &link)? {
        Owner::Leftover => socket.delete_ingress(link.index),
        // They may be another sandbox's, which came after this one's VM died.
        Owner::Vm => Err(occupied()),
        Owner::None | Owner::Other => Ok(()),
    }
}

fn delete_limit(interface: &str) -> io::Result<()> {
    let mut socket = Socket::open()?;
    let Some(link) = socket.link(interface)? else { return Ok(()) };
    match (socket.sending(link.index)?, owner(&mut socket, &link)?) {
        (Sending::Limited, Owner::Vm) => Err(occupied()),
        (Sending::Limited, _) => socket.delete_limit(link.index),
        _ => Ok(()),
    }
}

fn owner(socket: &mut Socket, link: &Link) -> io::Result<Owner> {
    let ingress = socket.ingress(link.index)?;
    let links = socket.links()?;
    Ok(filter::owner(ingress.as_ref(), &links))
}

fn occupied() -> io::Error {
    io::Error::new(io::ErrorKind::ResourceBusy, "a VM that runs has its filters there")
}
