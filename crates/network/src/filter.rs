//! The model "tcfilter": every packet that the interface receives is sent out of the TAP device, and the other way round.

use std::io;

use crate::names;
use crate::netlink::{Filter, Ingress, Link, Socket};

/// To whom the receiving side of an interface belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Nobody.
    None,
    /// A VM that is gone: its TAP device is.
    Leftover,
    /// A VM whose TAP device is there.
    Vm,
    /// Another program.
    Other,
}

/// Tells by the filters of an interface whose they are.
pub(crate) fn owner(ingress: Option<&Ingress>, links: &[Link]) -> Owner {
    let Some(ingress) = ingress else { return Owner::None };
    if ingress.kind != "ingress" {
        return Owner::Other;
    }
    // No filter at all: this process, or one like it, died between the two steps.
    ingress.filters.iter().map(|filter| target(*filter, links)).fold(Owner::Leftover, |all, one| {
        match (all, one) {
            (Owner::Other, _) | (_, Owner::Other) => Owner::Other,
            (Owner::Vm, _) | (_, Owner::Vm) => Owner::Vm,
            _ => Owner::Leftover,
        }
    })
}

fn target(filter: Filter, links: &[Link]) -> Owner {
    let Filter::Redirect(to) = filter else { return Owner::Other };
    match links.iter().find(|link| link.index == to) {
        None => Owner::Leftover,
        Some(link) if names::is_ours(&link.name) => Owner::Vm,
        Some(_) => Owner::Other,
    }
}

/// Hooks the two together. The interface's receiving side must be free, the TAP device must be new.
pub(crate) fn connect(socket: &mut Socket, interface: &Link, tap: &Link) -> io::Result<()> {
    socket.add_ingress(tap.index)?;
    socket.redirect(tap.index, interface.index)?;
    socket.redirect(interface.index, tap.index)
}
