//! The kernel's table of mounts (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxFlags, major, minor, statx};

/// The number of the mount that `fd` was reached by, if the kernel tells (since Linux 5.8).
pub(crate) fn mount_id(fd: &OwnedFd) -> Option<u64> {
    let found = statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID).then_some(found.stx_mnt_id)
}

/// The mounts of this thread's namespace, in the kernel's order.
pub(crate) struct MountTable(Vec<Row>);

#[derive(Debug)]
struct Row {
    id: u64,
    /// `major:minor` of the file system.
    device: String,
    /// Which directory of the file system.
    root: PathBuf,
    point: PathBuf,
    is_mapped: bool,
}

impl MountTable {
    /// Reads it.
    pub(crate) fn read() -> io::Result<Self> {
        Ok(Self::parse(&fs::read("/proc/thread-self/mountinfo")?))
    }

    fn parse(table: &[u8]) -> Self {
        Self(table.split(|byte| *byte == b'\n').filter_map(row).collect())
    }

    /// What is mounted below `directory`: where in it, and what.
    pub(crate) fn below(&self, directory: &Path) -> Vec<(&Path, &str, &Path)> {
        let below = self.0.iter().filter_map(|row| {
            let place = row.point.strip_prefix(directory).ok()?;
            Some((place, row.device.as_str(), row.root.as_path()))
        });
        let mut below: Vec<_> = below.filter(|(place, ..)| !place.as_os_str().is_empty()).collect();
        // Copies of a tree need not be in the order of the original.
        below.sort_unstable();
        below
    }

    /// Which directory of its file system the mount with this id shows. One that was deleted has `//deleted` at its end.
    pub(crate) fn root(&self, id: u64) -> Option<&Path> {
        self.0.iter().find(|row| row.id == id).map(|row| row.root.as_path())
    }

    /// Which file or directory of its file system `path` is, which the mount with this id shows.
    pub(crate) fn path_of(&self, id: u64, path: &Path) -> Option<PathBuf> {
        let row = self.0.iter().find(|row| row.id == id)?;
        Some(row.root.join(path.strip_prefix(&row.point).ok()?))
    }

    /// Where the block device of this number is mounted.
    pub(crate) fn points_of(&self, device: u64) -> impl Iterator<Item = &Path> {
        let device = format!("{}:{}", major(device), minor(device));
        self.0.iter().filter(move |row| row.device == device).map(|row| row.point.as_path())
    }

    /// Whether the ids of files are mapped by the mount with this id, or by the one on this point.
    pub(crate) fn is_mapped(&self, id: Option<u64>, point: &Path) -> bool {
        let wanted = |row: &&Row| id.map_or_else(|| row.point == point, |id| row.id == id);
        self.0.iter().rfind(wanted).is_some_and(|row| row.is_mapped)
    }
}

fn row(line: &[u8]) -> Option<Row> {
    let mut words = line.split(|byte| *byte == b' ');
    let mut text = || words.next().map(|word| String::from_utf8_lossy(word).into_owned());
    let (id, _parent, device) = (text()?.parse().ok()?, text()?, text()?);
    let mut path = || words.next().map(unescaped);
    let (root, point) = (path()?, path()?);
    let options = words.next()?;
    let is_mapped = options.split(|byte| *byte == b',').any(|option| option == b"idmapped");
    Some(Row { id, device, root, point, is_mapped })
}

/// Space, tab, newline and backslash stand there as three octal digits behind a backslash.
fn unescaped(word: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let [first, tail @ ..] = rest {
        let code = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match (first, code.and_then(|digits| u8::from_str_radix(digits, 8).ok())) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustix::fs::makedev;

    use super::MountTable;

    const TABLE: &[u8] = b"21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
        40 21 0:30 / /data/a\\040b rw - tmpfs tmpfs rw\n\
        42 40 8:1 /x /data/a\\040b/c\\134d rw,idmapped - ext4 /dev/sda1 rw\n\
        43 40 0:31 / /data/a\\040b/a ro - tmpfs tmpfs rw\n";

    #[test]
    fn what_is_mounted_below_a_directory_is_told_without_it() {
        let table = MountTable::parse(TABLE);
        let below = table.below(Path::new("/data/a b"));
        assert_eq!(
            below,
            [(Path::new("a"), "0:31", Path::new("/")), (Path::new("c\\d"), "8:1", Path::new("/x"))]
        );
        assert!(table.below(Path::new("/data/a")).is_empty(), "a name that begins alike is another");
    }

    #[test]
    fn a_mapped_mount_is_found_by_number_and_by_place() {
        let table = MountTable::parse(TABLE);
        assert!(table.is_mapped(Some(42), Path::new("")) && !table.is_mapped(Some(43), Path::new("")));
        assert!(table.is_mapped(None, Path::new("/data/a b/c\\d")) && !table.is_mapped(None, Path::new("/")));
    }

    #[test]
    fn a_mount_is_found_by_number_and_a_device_by_all_its_places() {
        let table = MountTable::parse(TABLE);
        assert_eq!((table.root(42), table.root(41)), (Some(Path::new("/x")), None));
        assert_eq!(table.path_of(42, Path::new("/data/a b/c\\d/e")), Some("/x/e".into()));
        assert_eq!(table.path_of(42, Path::new("/data/e")), None);
        let points: Vec<_> = table.points_of(makedev(8, 1)).collect();
        assert_eq!(points, [Path::new("/"), Path::new("/data/a b/c\\d")]);
    }

    #[test]
    fn this_namespace_has_a_root() {
        assert!(MountTable::read().unwrap().0.iter().any(|row| row.point == Path::new("/")));
    }
}
