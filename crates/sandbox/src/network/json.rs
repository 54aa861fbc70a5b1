//! Interfaces and routes in the words of upstream's agent protocol, as JSON: what the management socket and
//! `kata-runtime network` speak. A field that is left out is the default; one that is not known is an error.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use kata_protocol::types;
use serde::{Deserialize, Serialize};

/// `RTNH_F_ONLINK` of `linux/rtnetlink.h`.
const ONLINK: u32 = 4;
/// `RT_SCOPE_LINK` of `linux/rtnetlink.h`.
const SCOPE_LINK: u32 = 253;

/// An interface of the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Interface {
    /// The interface of the pod's namespace that it is connected to; empty for one that is connected to none.
    pub device: String,
    /// Its name in the guest.
    pub name: String,
    /// Its addresses.
    #[serde(rename = "IPAddresses")]
    pub addresses: Vec<IpAddress>,
    /// The largest packet, in bytes.
    pub mtu: u32,
    /// Its hardware address: `02:00:00:00:00:01`.
    #[serde(rename = "hwAddr")]
    pub mac: String,
    /// What the kernel calls a device without hardware, such as `veth`; else empty.
    #[serde(rename = "type")]
    pub kind: String,
    /// Upstream's; the place of a card is the runtime's to choose.
    #[serde(rename = "devicePath", skip_serializing_if = "String::is_empty")]
    pub device_path: String,
    /// Upstream's; the flags are those of the namespace's interface.
    #[serde(skip_serializing_if = "is_zero")]
    pub raw_flags: u32,
}

/// A route of the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Route {
    /// `10.0.0.0/8`; empty or `default`: everything that no other route leads to.
    pub dest: String,
    /// The next hop; empty: it is on the link.
    pub gateway: String,
    /// The guest's interface.
    pub device: String,
    /// The address that packets are sent from.
    pub source: String,
    /// As in `linux/rtnetlink.h`; 253 is the link.
    pub scope: u32,
    /// Of a default route without a gateway.
    pub family: Family,
    /// As in `linux/rtnetlink.h`; 4 is "onlink".
    pub flags: u32,
    /// The largest packet, in bytes; 0: the interface's.
    pub mtu: u32,
    /// The lower, the better.
    pub metric: u32,
    /// 0: the main table.
    pub table: u32,
}

/// A family of addresses: `"v4"` or `"v6"`, also as upstream's numbers 0 and 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "FamilyWord", rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum FamilyWord {
    Number(u32),
    Text(String),
}

impl TryFrom<FamilyWord> for Family {
    type Error = TextError;

    fn try_from(word: FamilyWord) -> Result<Self, TextError> {
        match word {
            FamilyWord::Number(0) => Ok(Self::V4),
            FamilyWord::Number(1) => Ok(Self::V6),
            FamilyWord::Text(text) if text == "v4" => Ok(Self::V4),
            FamilyWord::Text(text) if text == "v6" => Ok(Self::V6),
            FamilyWord::Number(number) => Err(TextError::family(&number.to_string())),
            FamilyWord::Text(text) => Err(TextError::family(&text)),
        }
    }
}

impl Family {
    fn of(address: IpAddr) -> Self {
        if address.is_ipv6() { Self::V6 } else { Self::V4 }
    }
}

/// An address with the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "IpAddressText", into = "IpAddressText")]
pub struct IpAddress {
    /// The address.
    pub address: IpAddr,
    /// At most 32 or 128.
    pub prefix: u8,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IpAddressText {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    family: Option<Family>,
    address: String,
    mask: String,
}

/// A text that means nothing here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}")]
pub struct TextError {
    text: String,
    what: &'static str,
}

impl TextError {
    fn new(text: &str, what: &'static str) -> Self {
        Self { text: text.to_owned(), what }
    }

    fn family(text: &str) -> Self {
        Self::new(text, "family of addresses; write \"v4\" or \"v6\"")
    }
}

impl FromStr for IpAddress {
    type Err = TextError;

    /// From `10.1.0.2/24`.
    fn from_str(text: &str) -> Result<Self, TextError> {
        let parts = text.split_once('/').and_then(|(address, prefix)| {
            let address: IpAddr = address.parse().ok()?;
            let longest = if address.is_ipv6() { 128 } else { 32 };
            let prefix = prefix.parse().ok().filter(|prefix| *prefix <= longest)?;
            Some(Self { address, prefix })
        });
        parts.ok_or_else(|| TextError::new(text, "address with a prefix, such as 10.1.0.2/24"))
    }
}

impl fmt::Display for IpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl TryFrom<IpAddressText> for IpAddress {
    type Error = TextError;

    fn try_from(IpAddressText { family, address, mask }: IpAddressText) -> Result<Self, TextError> {
        let whole: Self = format!("{address}/{mask}").parse()?;
        match family {
            Some(family) if family != Family::of(whole.address) => {
                Err(TextError::new(&address, "address of the family that is named"))
            }
            _ => Ok(whole),
        }
    }
}

impl From<IpAddress> for IpAddressText {
    fn from(IpAddress { address, prefix }: IpAddress) -> Self {
        Self { family: Some(Family::of(address)), address: address.to_string(), mask: prefix.to_string() }
    }
}

impl From<IpAddress> for types::IPAddress {
    fn from(IpAddress { address, prefix }: IpAddress) -> Self {
        Self {
            family: Family::of(address).message().into(),
            address: address.to_string(),
            mask: prefix.to_string(),
            ..Self::default()
        }
    }
}

impl Family {
    fn message(self) -> types::IPFamily {
        match self {
            Self::V4 => types::IPFamily::v4,
            Self::V6 => types::IPFamily::v6,
        }
    }
}

impl Interface {
    /// As the guest tells it: what has no meaning in it is left out. It is connected to nothing yet.
    pub(crate) fn told(message: &types::Interface, words: impl Fn(&str) -> String) -> Self {
        let address = |ip: &types::IPAddress| format!("{}/{}", ip.address, ip.mask).parse().ok();
        Self {
            name: words(&message.name),
            addresses: message.IPAddresses.iter().filter_map(address).collect(),
            mtu: u32::try_from(message.mtu).unwrap_or(u32::MAX),
            mac: words(&message.hwAddr),
            kind: words(&message.type_),
            ..Self::default()
        }
    }
}

impl Route {
    /// As the guest tells it.
    pub(crate) fn told(message: &types::Route, words: impl Fn(&str) -> String) -> Self {
        Self {
            dest: words(&message.dest),
            gateway: words(&message.gateway),
            device: words(&message.device),
            source: words(&message.source),
            scope: message.scope,
            family: if message.family.enum_value() == Ok(types::IPFamily::v6) {
                Family::V6
            } else {
                Family::V4
            },
            flags: message.flags,
            mtu: message.mtu,
            metric: message.metric,
            table: message.table,
        }
    }
}

impl From<Route> for types::Route {
    fn from(route: Route) -> Self {
        let dest = if route.dest == "default" { String::new() } else { route.dest };
        Self {
            dest,
            gateway: route.gateway,
            device: route.device,
            source: route.source,
            scope: route.scope,
            family: route.family.message().into(),
            flags: route.flags,
            mtu: route.mtu,
            metric: route.metric,
            table: route.table,
            ..Self::default()
        }
    }
}

impl fmt::Display for Route {
    /// As ip-route(8) writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.dest.is_empty() { "default" } else { &self.dest })?;
        for (word, value) in [("via", &self.gateway), ("dev", &self.device), ("src", &self.source)] {
            if !value.is_empty() {
                write!(f, " {word} {value}")?;
            }
        }
        match self.scope {
            0 => {}
            SCOPE_LINK => f.write_str(" scope link")?,
            scope => write!(f, " scope {scope}")?,
        }
        for (word, value) in [("mtu", self.mtu), ("metric", self.metric), ("table", self.table)] {
            if value != 0 {
                write!(f, " {word} {value}")?;
            }
        }
        f.write_str(if self.flags & ONLINK == 0 { "" } else { " onlink" })
    }
}

impl FromStr for Route {
    type Err = TextError;

    /// From what ip-route(8) takes: `default via 10.1.0.1 dev eth0 metric 100`.
    fn from_str(text: &str) -> Result<Self, TextError> {
        let wrong = |what| TextError::new(text, what);
        let mut words = text.split_whitespace();
        let dest = words.next().ok_or_else(|| wrong("route"))?;
        let mut route = Self { dest: dest.to_owned(), ..Self::default() };
        if dest == "default" {
            route.dest.clear();
        }
        while let Some(word) = words.next() {
            if word == "onlink" {
                route.flags |= ONLINK;
                continue;
            }
            let value = words.next().ok_or_else(|| wrong("whole route: its last word lacks a value"))?;
            let number = || value.parse().map_err(|_| wrong("route: a number in it is none"));
            match word {
                "via" => value.clone_into(&mut route.gateway),
                "dev" => value.clone_into(&mut route.device),
                "src" => value.clone_into(&mut route.source),
                "scope" if value == "link" => route.scope = SCOPE_LINK,
                "scope" if value == "global" => route.scope = 0,
                "scope" => route.scope = number()?,
                "mtu" => route.mtu = number()?,
                "metric" => route.metric = number()?,
                "table" => route.table = number()?,
                _ => {
                    return Err(wrong(
                        "route of the form \"DEST [via ADDRESS] [dev NAME] [src ADDRESS] [scope link] [mtu N] [metric N] \
                         [table N] [onlink]\"",
                    ));
                }
            }
        }
        let address = [&route.gateway, &route.source].into_iter().find_map(|text| text.parse().ok());
        route.family = address.map_or(Family::V4, Family::of);
        Ok(route)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::{Interface, IpAddress, Route};

    #[test]
    fn upstreams_json_is_an_interface() {
        let text = r#"{"device":"eth1","name":"net1","IPAddresses":[{"family":0,"address":"10.9.0.2","mask":"24"},
            {"family":"v6","address":"fd00::2","mask":"64"}],"mtu":1400,"hwAddr":"02:00:00:00:00:01"}"#;
        let interface: Interface = serde_json::from_str(text).unwrap();
        assert_eq!(
            (interface.device.as_str(), interface.name.as_str(), interface.mtu),
            ("eth1", "net1", 1400)
        );
        let addresses: Vec<_> = interface.addresses.iter().map(IpAddress::to_string).collect();
        assert_eq!(addresses, ["10.9.0.2/24", "fd00::2/64"]);
        let again = serde_json::to_string(&interface).unwrap();
        assert_eq!(serde_json::from_str::<Interface>(&again).unwrap(), interface);
    }

    #[test]
    fn what_means_nothing_is_refused_in_json() {
        for (text, word) in [
            (r#"{"nmae":"eth0"}"#, "nmae"),
            (r#"{"IPAddresses":[{"address":"10.9.0","mask":"24"}]}"#, "10.9.0/24"),
            (r#"{"IPAddresses":[{"address":"10.9.0.2","mask":"33"}]}"#, "10.9.0.2/33"),
            (r#"{"IPAddresses":[{"family":1,"address":"10.9.0.2","mask":"24"}]}"#, "10.9.0.2"),
            (r#"{"IPAddresses":[{"family":2,"address":"10.9.0.2","mask":"24"}]}"#, "family"),
        ] {
            let error = serde_json::from_str::<Interface>(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn a_route_is_read_as_it_is_shown() {
        for text in [
            "default via 10.1.0.1 dev eth0",
            "10.0.0.0/8 dev eth0 src 10.1.0.2 scope link mtu 1300 metric 7 table 100",
            "fd00:9::/64 via fd00::1 dev eth0 onlink",
        ] {
            assert_eq!(text.parse::<Route>().unwrap().to_string(), text);
        }
        for text in ["", "10.0.0.0/8 through eth0", "10.0.0.0/8 dev", "10.0.0.0/8 dev eth0 metric many"] {
            assert!(text.parse::<Route>().is_err(), "{text}");
        }
    }
}
