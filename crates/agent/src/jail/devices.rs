//! Device nodes and links in a container's `/dev` (OCI `config-linux.md`, "Default Devices").

use std::io;
use std::path::Path;

use kata_protocol::oci;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Uid, chmodat, chownat, fstat, makedev, mknodat, statat, symlinkat,
    unlinkat,
};
use rustix::io::Errno;

use super::error::{JailError, Named, Result};
use super::mounts::{attach, copy, guest_has};
use super::namespaces;
use super::rootfs::Root;

/// Name, major and minor number of what every container has.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];
const LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/core", "/proc/kcore"),
];
const EVERYBODY: u32 = 0o666;

/// Fills `/dev`, unless the specification binds one from elsewhere, or it is the guest's own.
pub(super) fn make_all(root: &Root, spec: &oci::Spec) -> Result<()> {
    let bound = |mount: &oci::Mount| {
        Path::new(&mount.destination) == Path::new("/dev")
            && (matches!(mount.type_.as_str(), "bind" | "devtmpfs")
                || mount.options.iter().any(|option| option.ends_with("bind")))
    };
    if spec.Mounts.iter().any(bound) {
        return Ok(());
    }
    // In a user namespace there are no devices but those that have been made outside.
    let make = if namespaces::has(&spec.Linux, "user") { Node::bind } else { Node::make };
    for (path, major, minor) in DEFAULT {
        let node = Node { kind: FileType::CharacterDevice, major, minor, mode: EVERYBODY, owner: (0, 0) };
        make(&node, root, Path::new(path)).at("make the device", path)?;
    }
    for device in &spec.Linux.Devices {
        let made = make(&Node::of(device)?, root, Path::new(&device.Path));
        made.at("make the device", &device.Path)?;
    }
    make_links(root)
}

fn make_links(root: &Root) -> Result<()> {
    for (path, target) in LINKS {
        if path == "/dev/core" && !guest_has(target) {
            continue;
        }
        link(root, path, target).at("make the link", path)?;
    }
    // Whatever stands there is of another instance of the terminals.
    let (dev, name) = root.make_parent(Path::new("/dev/ptmx")).step("open /dev")?;
    let _ = unlinkat(&dev, name, AtFlags::empty());
    link(root, "/dev/ptmx", "pts/ptmx").at("make the link", "/dev/ptmx")
}

fn link(root: &Root, path: &str, target: &str) -> io::Result<()> {
    let (folder, name) = root.make_parent(Path::new(path))?;
    match symlinkat(target, folder, name) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

struct Node {
    kind: FileType,
    major: u32,
    minor: u32,
    mode: u32,
    owner: (u32, u32),
}

impl Node {
    fn of(device: &oci::LinuxDevice) -> Result<Self> {
        let kind = match device.Type.as_str() {
            "c" | "u" => FileType::CharacterDevice,
            "b" => FileType::BlockDevice,
            "p" => FileType::Fifo,
            other => {
                let text = format!(
                    "The device {} has the unknown type {other:?}; it must be c, u, b or p",
                    device.Path
                );
                return Err(JailError::Refused(text));
            }
        };
        let number = |number: i64| {
            u32::try_from(number).map_err(|_| {
                let (path, major, minor) = (&device.Path, device.Major, device.Minor);
                JailError::Refused(format!(
                    "The device {path} cannot have the numbers {major}:{minor}; correct them"
                ))
            })
        };
        let mode = if device.FileMode == 0 { EVERYBODY } else { device.FileMode & 0o7777 };
        let owner = (device.UID, device.GID);
        Ok(Self { kind, major: number(device.Major)?, minor: number(device.Minor)?, mode, owner })
    }

    /// Mounts the guest's own device of that name.
    fn bind(&self, root: &Root, path: &Path) -> io::Result<()> {
        if self.kind == FileType::Fifo {
            return self.make(root, path);
        }
        let device = copy(CWD, path, false)?;
        let found = fstat(&device)?;
        let same = FileType::from_raw_mode(found.st_mode) == self.kind
            && found.st_rdev == makedev(self.major, self.minor);
        match same {
            true => attach(device, root.make_file(path)?),
            false => Err(io::Error::other("the guest has another device of this name")),
        }
    }

    fn make(&self, root: &Root, path: &Path) -> io::Result<()> {
        let (folder, name) = root.make_parent(path)?;
        let number = makedev(self.major, self.minor);
        let mode = Mode::from_raw_mode(self.mode);
        match mknodat(&folder, name, self.kind, mode, number) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let found = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(found.st_mode) == self.kind && found.st_rdev == number {
                    return Ok(());
                }
                return Err(io::Error::other("something else has its name"));
            }
            Err(errno) => return Err(errno.into()),
        }
        // The mask of this process has taken bits away.
        chmodat(&folder, name, mode, AtFlags::empty())?;
        let (uid, gid) = self.owner;
        if self.owner != (0, 0) {
            chownat(&folder, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::empty())?;
        }
        Ok(())
    }
}
