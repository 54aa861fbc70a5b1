//! Devices by their places on the PCI bus.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where the kernel shows devices by what they are.
const CLASSES: &str = "/sys/class";
/// The bus, as links in there name it.
const ROOT: &str = "../../devices/pci0000:00";

/// The slots on the way to a device, through bridges: device and function of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place(Vec<(u8, u8)>);

impl FromStr for Place {
    type Err = ();

    /// Like `02/03` or `1c.1/00.0`, in hexadecimal.
    fn from_str(text: &str) -> Result<Self, ()> {
        let number = |text: &str, most| {
            let plain = text.bytes().all(|digit| digit.is_ascii_hexdigit());
            u8::from_str_radix(text, 16).ok().filter(|number| plain && *number <= most)
        };
        let slot = |text: &str| {
            let (device, function) = text.split_once('.').unwrap_or((text, "0"));
            Some((number(device, 0x1f)?, number(function, 7)?))
        };
        text.split('/').map(slot).collect::<Option<_>>().map(Self).ok_or(())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slots = self.0.iter().map(|(device, function)| format!("{device:02x}.{function}"));
        f.write_str(&slots.collect::<Vec<_>>().join("/"))
    }
}

impl Place {
    /// The name that the kernel has given, in a class such as `net` or `block`, to what is there.
    pub(crate) fn name_in(&self, class: &str) -> Option<String> {
        self.name_among(&Path::new(CLASSES).join(class))
    }

    /// In a class's folder there is a link for each of its devices, which tells the way to it.
    fn name_among(&self, class: &Path) -> Option<String> {
        let found = entries(class).into_iter().find(|link| {
            let way = fs::read_link(link).unwrap_or_default();
            self.is_at(way.strip_prefix(ROOT).unwrap_or(Path::new("")))
        })?;
        Some(found.file_name()?.to_string_lossy().into_owned())
    }

    /// Whether the way from the bus leads to a device of what is here, and not of what is behind it: `SLOT/net/eth0`, or
    /// `SLOT/virtio0/net/eth0`, as a virtio device stands below its card.
    fn is_at(&self, way: &Path) -> bool {
        let mut parts = way.iter().map(OsStr::to_string_lossy);
        let is_slot = |(device, function): &(u8, u8), part: Option<Cow<'_, str>>| {
            part.is_some_and(|part| part.ends_with(&format!(":{device:02x}.{function}")))
        };
        self.0.iter().all(|slot| is_slot(slot, parts.next()))
            && match parts.collect::<Vec<_>>()[..] {
                [_, _] => true,
                [ref card, _, _] => card.starts_with("virtio"),
                _ => false,
            }
    }
}

/// What is in a folder; nothing if it is not there.
pub(crate) fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_device_is_found_by_its_way_from_the_bus() {
        let class = tempfile::tempdir().expect("temporary folder");
        for way in [
            "0000:00:02.0/0000:01:03.0/virtio4/net/eth7",
            "0000:00:03.0/virtio1/net/eth1",
            "0000:00:05.0/0000:02:00.0/virtio5/block/vdb/vdb1",
            "0000:00:05.0/0000:02:00.0/virtio5/block/vdb",
            "0000:00:06.0/net/card",
        ] {
            let way = Path::new(ROOT).join(way);
            symlink(&way, class.path().join(way.file_name().expect("a name"))).expect("linked");
        }
        symlink("../../devices/virtual/net/lo", class.path().join("lo")).expect("linked");
        let find = |text: &str| text.parse::<Place>().expect("is a place").name_among(class.path());
        assert_eq!(find("02/03").as_deref(), Some("eth7"));
        assert_eq!(find("03.0").as_deref(), Some("eth1"));
        assert_eq!(find("05/00").as_deref(), Some("vdb"));
        assert_eq!(find("06").as_deref(), Some("card"));
        assert_eq!(find("02"), None);
        assert_eq!(find("05"), None);
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in ["", "/", "02/", "20", "1.8", "../02", "+1", "0x2"] {
            assert_eq!(text.parse::<Place>(), Err(()), "{text:?}");
        }
    }
}
