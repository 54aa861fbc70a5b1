//! Traffic control (tc(8)): the queueing discipline of what an interface receives, and filters in it.

use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirror, TcActionMirrorOption, TcActionOption, TcActionType,
    TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcMessage, TcMirror, TcMirrorActionType, TcOption,
    TcU32Key, TcU32Selector, TcU32SelectorFlags,
};

use super::Socket;

/// The handle that every ingress discipline has.
const INGRESS: TcHandle = TcHandle { major: u16::MAX, minor: 0 };
/// `ETH_P_ALL`, as it stands in a message: in the network's byte order.
const EVERY_PROTOCOL: u16 = 3_u16.to_be();
/// The filter's place among others; 0 would let the kernel choose.
const PRIORITY: u32 = 1;

/// What is hooked to an interface's receiving side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ingress {
    /// "ingress", or "clsact", which is for both directions.
    pub(crate) kind: String,
    pub(crate) filters: Vec<Filter>,
}

/// A filter of an [`Ingress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filter {
    /// Every packet that it matches is sent out of another interface, of this index; 0 if that is gone.
    Redirect(u32),
    /// Anything else.
    Other,
}

impl Socket {
    /// What is hooked to the receiving side of the interface with this index.
    pub(crate) fn ingress(&mut self, index: u32) -> io::Result<Option<Ingress>> {
        let discipline = self.discipline(index, TcHandle::INGRESS)?;
        let kind = discipline.and_then(|message| {
            message.attributes.into_iter().find_map(|attribute| match attribute {
                TcAttribute::Kind(kind) => Some(kind),
                _ => None,
            })
        });
        let Some(kind) = kind else { return Ok(None) };
        let mut request = to(index)?;
        request.header.parent = INGRESS;
        let filters = self.dump(&RouteNetlinkMessage::GetTrafficFilter(request))?;
        let filters = filters.iter().filter_map(|object| match object {
            RouteNetlinkMessage::NewTrafficFilter(message) => filter(message),
            _ => None,
        });
        Ok(Some(Ingress { kind, filters: filters.collect() }))
    }

    /// The queueing discipline at this place of the interface with this index.
    pub(super) fn discipline(&mut self, index: u32, parent: TcHandle) -> io::Result<Option<TcMessage>> {
        let request = to(index)?;
        let wanted = request.header.index;
        let disciplines = self.dump(&RouteNetlinkMessage::GetQueueDiscipline(request))?;
        Ok(disciplines.into_iter().find_map(|object| match object {
            RouteNetlinkMessage::NewQueueDiscipline(message)
                if message.header.index == wanted && message.header.parent == parent =>
            {
                Some(message)
            }
            _ => None,
        }))
    }

    /// Makes an ingress discipline; an error of the kind "already exists" if there is one.
    pub(crate) fn add_ingress(&mut self, index: u32) -> io::Result<()> {
        self.create(RouteNetlinkMessage::NewQueueDiscipline(ingress(index)?))
    }

    /// Deletes it, with its filters.
    pub(crate) fn delete_ingress(&mut self, index: u32) -> io::Result<()> {
        self.request(RouteNetlinkMessage::DelQueueDiscipline(ingress(index)?), 0)
    }

    /// Sends every packet that the interface `from` receives out of the interface `to_index`.
    pub(crate) fn redirect(&mut self, from: u32, to_index: u32) -> io::Result<()> {
        let mut mirror = TcMirror::default();
        mirror.generic.action = TcActionType::Stolen;
        mirror.eaction = TcMirrorActionType::EgressRedir;
        mirror.ifindex = to_index;
        let mut action = TcAction::default();
        action.attributes = vec![
            TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
            TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))]),
        ];
        let mut everything = TcU32Selector::default();
        everything.flags = TcU32SelectorFlags::Terminal;
        everything.nkeys = 1;
        everything.keys = vec![TcU32Key::default()];
        let mut message = to(from)?;
        message.header.parent = INGRESS;
        message.header.info = (PRIORITY << 16) | u32::from(EVERY_PROTOCOL);
        message.attributes = vec![
            TcAttribute::Kind(TcFilterU32::KIND.to_owned()),
            TcAttribute::Options(vec![
                TcOption::U32(TcFilterU32Option::Selector(everything)),
                TcOption::U32(TcFilterU32Option::Action(vec![action])),
            ]),
        ];
        self.create(RouteNetlinkMessage::NewTrafficFilter(message))
    }
}

/// A message about the interface with this index.
pub(super) fn to(index: u32) -> io::Result<TcMessage> {
    let mut message = TcMessage::default();
    message.header.index = i32::try_from(index).map_err(io::Error::other)?;
    Ok(message)
}

fn ingress(index: u32) -> io::Result<TcMessage> {
    let mut message = to(index)?;
    message.header.handle = INGRESS;
    message.header.parent = TcHandle::INGRESS;
    message.attributes = vec![TcAttribute::Kind("ingress".to_owned())];
    Ok(message)
}

/// `None` for the hash tables of u32, which are told like filters.
fn filter(message: &TcMessage) -> Option<Filter> {
    let kind = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.as_str()),
        _ => None,
    });
    if kind != Some(TcFilterU32::KIND) {
        return Some(Filter::Other);
    }
    let options = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options.as_slice()),
        _ => None,
    })?;
    if !options.iter().any(|option| matches!(option, TcOption::U32(TcFilterU32Option::Selector(_)))) {
        return None;
    }
    let actions = options.iter().find_map(|option| match option {
        TcOption::U32(TcFilterU32Option::Action(actions)) => Some(actions.as_slice()),
        _ => None,
    });
    let [action] = actions.unwrap_or_default() else { return Some(Filter::Other) };
    Some(redirection(action).map_or(Filter::Other, Filter::Redirect))
}

/// The interface that an action redirects to.
fn redirection(action: &TcAction) -> Option<u32> {
    action.attributes.iter().find_map(|attribute| {
        let TcActionAttribute::Options(options) = attribute else { return None };
        options.iter().find_map(|option| match option {
            TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))
                if mirror.eaction == TcMirrorActionType::EgressRedir =>
            {
                Some(mirror.ifindex)
            }
            _ => None,
        })
    })
}
