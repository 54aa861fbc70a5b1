//! A writer for the "newc" cpio format, which is what the kernel unpacks as its first root file system
//! (Documentation/driver-api/early-userspace/buffer-format.rst). Equal input gives equal bytes: entries are sorted,
//! owners are 0, times are 0, inodes are counted.

use std::collections::BTreeMap;

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFCHR: u32 = 0o020_000;
const TRAILER: &str = "TRAILER!!!";

/// What an archive holds, by path without a leading slash.
#[derive(Default)]
pub(crate) struct Archive {
    entries: BTreeMap<String, Entry>,
}

struct Entry {
    mode: u32,
    device: (u32, u32),
    data: Vec<u8>,
}

impl Archive {
    /// An empty directory.
    pub(crate) fn directory(&mut self, path: &str, mode: u32) -> &mut Self {
        self.insert(path, Entry { mode: S_IFDIR | mode, device: (0, 0), data: Vec::new() })
    }

    /// A regular file.
    pub(crate) fn file(&mut self, path: &str, mode: u32, data: Vec<u8>) -> &mut Self {
        self.insert(path, Entry { mode: S_IFREG | mode, device: (0, 0), data })
    }

    /// A character device.
    pub(crate) fn device(&mut self, path: &str, mode: u32, major: u32, minor: u32) -> &mut Self {
        self.insert(path, Entry { mode: S_IFCHR | mode, device: (major, minor), data: Vec::new() })
    }

    fn insert(&mut self, path: &str, entry: Entry) -> &mut Self {
        self.entries.insert(path.to_owned(), entry);
        self
    }

    /// The archive's bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let trailer = Entry { mode: 0, device: (0, 0), data: Vec::new() };
        let named = self.entries.iter().map(|(name, entry)| (name.as_str(), entry));
        for (inode, (name, entry)) in (1..).zip(named) {
            append(&mut bytes, inode, name, entry);
        }
        append(&mut bytes, 0, TRAILER, &trailer);
        bytes
    }
}

/// Header (6 bytes of magic and 13 fields of 8 hexadecimal digits), name with NUL, data; each part fills up to 4 bytes.
fn append(bytes: &mut Vec<u8>, inode: u32, name: &str, entry: &Entry) {
    let links = if entry.mode & S_IFDIR == 0 { 1 } else { 2 };
    let length = |n: usize| u32::try_from(n).expect("nothing in an initrd is over 4 GiB");
    let (major, minor) = entry.device;
    let fields = [
        inode,
        entry.mode,
        0, // uid
        0, // gid
        links,
        0, // mtime
        length(entry.data.len()),
        0, // device of the file itself: major, minor
        0,
        major,
        minor,
        length(name.len() + 1),
        0, // checksum, unused by this format
    ];
    bytes.extend_from_slice(b"070701");
    for field in fields {
        bytes.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(0);
    fill(bytes);
    bytes.extend_from_slice(&entry.data);
    fill(bytes);
}

fn fill(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests;
