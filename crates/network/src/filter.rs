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

/// Tells by the filters of an interface whose they are. `links` must have been read after them.
pub(crate) fn owner(ingress: Option<&Ingress>, links: &[Link]) -> Owner {
    let Some(ingress) = ingress else { return Owner::None };
    if ingress.kind != "ingress" {
        return Owner::Other;
    }
    if ingress.filters.is_empty() {
        // A VM's process is between two steps, or died there: its TAP device is made first.
        let live = links.iter().any(|link| names::is_ours(&link.name));
        return if live { Owner::Vm } else { Owner::Leftover };
    }
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

#[cfg(test)]
mod tests {
    use super::{Owner, owner};
    use crate::netlink::{Filter, Ingress, Link};

    fn named(index: u32, name: &str) -> Link {
        Link { index, name: name.to_owned(), ..Link::default() }
    }

    #[test]
    fn the_owner_is_told_by_every_filter() {
        let links = [named(2, "eth0"), named(3, "tap0_kata"), named(4, "ifb0")];
        let cases = [
            (vec![], Owner::Vm),
            (vec![Filter::Redirect(0)], Owner::Leftover),
            (vec![Filter::Redirect(9)], Owner::Leftover),
            (vec![Filter::Redirect(3)], Owner::Vm),
            (vec![Filter::Redirect(3), Filter::Redirect(0)], Owner::Vm),
            (vec![Filter::Redirect(4)], Owner::Other),
            (vec![Filter::Other, Filter::Redirect(3)], Owner::Other),
        ];
        for (filters, expected) in cases {
            let ingress = Ingress { kind: "ingress".to_owned(), filters };
            assert_eq!(owner(Some(&ingress), &links), expected, "{ingress:?}");
        }
        let empty = Ingress { kind: "ingress".to_owned(), filters: Vec::new() };
        assert_eq!(owner(Some(&empty), &links[..1]), Owner::Leftover);
        let clsact = Ingress { kind: "clsact".to_owned(), filters: vec![Filter::Redirect(3)] };
        assert_eq!(owner(Some(&clsact), &links), Owner::Other);
        assert_eq!(owner(None, &links), Owner::None);
    }
}
