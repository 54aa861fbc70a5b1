//! Devices by their places on the PCI bus.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where the kernel shows the bus.
const ROOT: &str = "/sys/devices/pci0000:00";

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
        self.name_below(Path::new(ROOT), class)
    }

    fn name_below(&self, root: &Path, class: &str) -> Option<String> {
        let mut folder = root.to_owned();
        for (device, function) in &self.0 {
            let end = format!(":{device:02x}.{function}");
            folder = entries(&folder)
                .into_iter()
                .find(|path| path.as_os_str().to_string_lossy().ends_with(&end))?;
        }
        // A virtio device stands below the card.
        let mut holders = entries(&folder);
        holders.insert(0, folder);
        let found = holders.iter().find_map(|holder| entries(&holder.join(class)).into_iter().next())?;
        Some(found.file_name()?.to_string_lossy().into_owned())
    }
}

/// What is in a folder; nothing if it is not there.
pub(crate) fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_behind_a_bridge_is_found_by_its_class() {
        let bus = tempfile::tempdir().expect("temporary folder");
        for path in [
            "0000:00:02.0/0000:01:03.0/virtio4/net/eth7",
            "0000:00:03.0/virtio1/net/eth1",
            "0000:00:05.0/0000:02:00.0/virtio5/block/vdb/vdb1",
        ] {
            fs::create_dir_all(bus.path().join(path)).expect("folders");
        }
        let find =
            |text: &str, class| text.parse::<Place>().expect("is a place").name_below(bus.path(), class);
        assert_eq!(find("02/03", "net"), Some("eth7".to_owned()));
        assert_eq!(find("03.0", "net"), Some("eth1".to_owned()));
        assert_eq!(find("05/00", "block"), Some("vdb".to_owned()));
        assert_eq!(find("02", "net"), None);
        assert_eq!(find("03", "block"), None);
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in ["", "/", "02/", "20", "1.8", "../02", "+1", "0x2"] {
            assert_eq!(text.parse::<Place>(), Err(()), "{text:?}");
        }
    }
}
