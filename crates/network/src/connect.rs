//! Connects the interfaces of the namespace that the thread is in.

use std::io;
use std::os::fd::OwnedFd;

use kata_intent::{Intent, IntentId, undo_all};

use crate::endpoint::{self, Way};
use crate::filter::{self, Owner};
use crate::netlink::{Link, Sending, Socket};
use crate::scan::Scan;
use crate::{Backend, GuestNetwork, Model, NetworkError, Nic, PodNetwork, Rates, Request, View};
use crate::{guest, macvtap, names, tap, undo};

/// Connects every interface of a namespace that no VM has yet.
pub(crate) fn all(request: &Request) -> Result<PodNetwork, NetworkError> {
    let (mut work, scan) = Work::start(request)?;
    if let Some(tap) = scan.links.iter().find(|link| names::is_ours(&link.name)) {
        return Err(NetworkError::Occupied { interface: tap.name.clone() });
    }
    let chosen = endpoint::choose(&scan)?;
    let nics = work.connect_all(&chosen)?;
    Ok(PodNetwork { nics, guest: guest::network(&scan, &chosen) })
}

/// Connects one interface more.
pub(crate) fn one(request: &Request, name: &str) -> Result<(Nic, GuestNetwork), NetworkError> {
    let (mut work, scan) = Work::start(request)?;
    let chosen = endpoint::choose(&scan)?;
    let link = chosen.into_iter().find(|link| link.name == name);
    let link = link.ok_or_else(|| NetworkError::Missing { interface: name.to_owned() })?;
    let nics = work.connect_all(&[link])?;
    let nic = nics.into_iter().next().expect("one interface was connected");
    Ok((nic, guest::network(&scan, &[link])))
}

/// What the guest would configure if everything were connected.
pub(crate) fn look(netns: &std::path::Path) -> Result<View, NetworkError> {
    let unreadable = |source| NetworkError::Read { path: netns.to_owned(), source };
    let scan = Socket::open().and_then(|mut socket| Scan::of(&mut socket)).map_err(unreadable)?;
    let chosen = endpoint::choose(&scan)?;
    Ok(View {
        guest: guest::network(&scan, &chosen),
        indices: chosen.iter().map(|link| link.index).collect(),
    })
}

struct Work<'a> {
    request: &'a Request,
    socket: Socket,
    /// All that has been announced, to be taken back if the rest fails.
    announced: Vec<(IntentId, Intent)>,
}

impl<'a> Work<'a> {
    fn start(request: &'a Request) -> Result<(Self, Scan), NetworkError> {
        let unreadable = |source| NetworkError::Read { path: request.netns.clone(), source };
        let mut socket = Socket::open().map_err(unreadable)?;
        let scan = Scan::of(&mut socket).map_err(unreadable)?;
        Ok((Self { request, socket, announced: Vec::new() }, scan))
    }

    /// All of them, or none.
    fn connect_all(&mut self, links: &[&Link]) -> Result<Vec<Nic>, NetworkError> {
        let nics: Result<_, _> = links.iter().map(|link| self.connect(link)).collect();
        if nics.is_err() {
            self.take_back();
        }
        nics
    }

    fn take_back(&mut self) {
        let steps = std::mem::take(&mut self.announced);
        for left in undo_all(steps, undo::here, |id| self.request.intents.done(id)) {
            tracing::warn!(intent = ?left.intent, error = ?left.error, "Left in the namespace, and in the intent log");
        }
    }

    fn connect(&mut self, link: &Link) -> Result<Nic, NetworkError> {
        let before = self.announced.len();
        let way = endpoint::way(link);
        let by_filters = way == Way::Connected && self.request.model == Model::TcFilter;
        if self.request.rates != Rates::default() && !by_filters {
            return Err(NetworkError::NoRate { interface: link.name.clone() });
        }
        let queues = match way {
            Way::Tap => own(link, "open", tap::open(&link.name, link.multi_queue, self.request.queues))?,
            Way::MacVtap => step(link, "open", macvtap::open(link, self.request.queues))?,
            Way::Connected if self.request.model == Model::MacVtap => self.through_macvtap(link)?,
            Way::Connected => self.through_filters(link)?,
        };
        if !link.up {
            step(link, "set up", self.socket.set_up(link.index, None))?;
        }
        let vhost = if self.request.vhost { tap::vhost(queues.len()) } else { Ok(Vec::new()) };
        let vhost = step(link, "open /dev/vhost-net for", vhost)?;
        let mac = link.mac.as_slice().try_into().expect("interfaces with other addresses are not chosen");
        Ok(Nic {
            name: link.name.clone(),
            index: link.index,
            mac,
            mtu: link.mtu,
            backend: Backend::Tap { queues, vhost },
            announced: self.announced[before..].to_vec(),
        })
    }

    fn through_filters(&mut self, link: &Link) -> Result<Vec<OwnedFd>, NetworkError> {
        let name = names::free(&self.claim(link)?);
        let queues = own(link, "make a TAP device for", tap::make(&name, self.request.queues))?;
        let tap = step(link, "find the TAP device of", self.find(&name))?;
        step(link, "set up the TAP device of", self.set_up(&tap, link.mtu))?;
        let ingress = Intent::Ingress { netns: self.request.netns.clone(), interface: link.name.clone() };
        self.make(link, ingress, "connect", |socket| socket.add_ingress(link.index))?;
        step(link, "add filters to", filter::connect(&mut self.socket, link, &tap))?;
        self.limit(link, &tap)?;
        Ok(queues)
    }

    /// What the guest receives is sent by the TAP device, and what it sends by the interface.
    fn limit(&mut self, link: &Link, tap: &Link) -> Result<(), NetworkError> {
        const STEP: &str = "limit the rate (sch_tbf) of";
        let Rates { receive, send } = self.request.rates;
        if receive > 0 {
            step(link, STEP, self.socket.limit(tap.index, receive))?;
        }
        if send == 0 {
            return Ok(());
        }
        // A limit of ours is a dead VM's.
        if step(link, "look at", self.socket.sending(link.index))? == Sending::Other {
            return Err(NetworkError::Shaped { interface: link.name.clone() });
        }
        let limit = Intent::Limit { netns: self.request.netns.clone(), interface: link.name.clone() };
        self.make(link, limit, STEP, |socket| socket.limit(link.index, send))
    }

    /// What `link` receives must be nobody's, or a VM's that is gone. Returns the interfaces that there are.
    fn claim(&mut self, link: &Link) -> Result<Vec<Link>, NetworkError> {
        let ingress = step(link, "read the filters of", self.socket.ingress(link.index))?;
        let links = step(link, "look at", self.socket.links())?;
        if links.iter().any(|above| names::is_ours(&above.name) && above.lower == Some(link.index)) {
            return Err(NetworkError::Occupied { interface: link.name.clone() });
        }
        match filter::owner(ingress.as_ref(), &links) {
            Owner::None => (),
            Owner::Leftover => step(link, "remove old filters of", self.socket.delete_ingress(link.index))?,
            Owner::Vm => return Err(NetworkError::Occupied { interface: link.name.clone() }),
            Owner::Other => return Err(NetworkError::Filtered { interface: link.name.clone() }),
        }
        Ok(links)
    }

    fn through_macvtap(&mut self, link: &Link) -> Result<Vec<OwnedFd>, NetworkError> {
        if ["macvlan", "ipvlan"].iter().any(|kind| link.is(kind)) {
            return Err(NetworkError::NoMacVtap { interface: link.name.clone() });
        }
        let name = names::free(&self.claim(link)?);
        let interface = Intent::Interface { netns: self.request.netns.clone(), name: name.clone() };
        self.make(link, interface, "connect", |socket| socket.make_macvtap(&name, link.index, link.mtu))?;
        let tap = step(link, "find the macvtap device of", self.find(&name))?;
        step(link, "set up the macvtap device of", self.set_up(&tap, link.mtu))?;
        step(link, "open the macvtap device of", macvtap::open(&tap, self.request.queues))
    }

    fn find(&mut self, name: &str) -> io::Result<Link> {
        self.socket.link(name)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn set_up(&mut self, tap: &Link, mtu: u32) -> io::Result<()> {
        // It has no end in this namespace: solicitations of its own would only reach the guest.
        self.socket.no_own_ipv6(tap.index)?;
        self.socket.set_up(tap.index, Some(mtu))
    }

    /// Announces `intent` and makes it. What is there already belongs to somebody else, and is not taken back.
    fn make(
        &mut self,
        link: &Link,
        intent: Intent,
        name: &'static str,
        make: impl FnOnce(&mut Socket) -> io::Result<()>,
    ) -> Result<(), NetworkError> {
        let id =
            self.request.intents.will(intent.clone()).map_err(|source| NetworkError::Announce { source })?;
        match make(&mut self.socket) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.request.intents.done(id);
                Err(NetworkError::Occupied { interface: link.name.clone() })
            }
            made => {
                self.announced.push((id, intent));
                step(link, name, made)
            }
        }
    }
}

/// As [`step`], for what only one process can have.
fn own<T>(link: &Link, name: &'static str, result: io::Result<T>) -> Result<T, NetworkError> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            Err(NetworkError::Occupied { interface: link.name.clone() })
        }
        result => step(link, name, result),
    }
}

fn step<T>(link: &Link, step: &'static str, result: io::Result<T>) -> Result<T, NetworkError> {
    result.map_err(|source| NetworkError::Connect { interface: link.name.clone(), step, source })
}
