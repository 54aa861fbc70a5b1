//! What processes of the guest watch of the host's files (inotify), and the host's changes to it.
//!
//! Our kernel has a device for both (`guest/kernel/host-watch`): it says what somebody begins to watch, who waits then until
//! the host does so, too, and takes what the host has seen. Another kernel has none, and nobody is told of what the host
//! changes.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use kata_protocol::guest;
use kata_protocol::kata::{HostChange, Watch};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::mountinfo::mount_point;
use crate::sys;

/// The kernel's device.
const DEVICE: &str = "/dev/host-watch";
/// `struct request` of the device.
const REQUEST: usize = 24;
/// A path's longest.
const MAX_PATH: usize = 4096;
/// The most that is written to the device at once.
const MAX_WRITTEN: usize = 64 * 1024;

/// The device, from the first use on.
#[derive(Debug, Default)]
pub(crate) struct Watches(OnceLock<Option<Arc<Device>>>);

/// An open device.
#[derive(Debug)]
struct Device {
    requests: AsyncFd<OwnedFd>,
    answers: File,
}

/// A request of the device.
#[derive(Debug, PartialEq)]
struct Request {
    id: u32,
    device: (u32, u32),
    inode: u64,
    /// In its file system; none if it is not watched any more.
    path: Option<PathBuf>,
}

impl Watches {
    /// From now on the kernel asks who begins to watch to wait for the host.
    pub(crate) fn begin(&self) {
        self.0.get_or_init(|| match Device::open() {
            Ok(device) => Some(Arc::new(device)),
            Err(error) => {
                tracing::debug!(%error, "No {DEVICE}: who watches files is not told what the host changes");
                None
            }
        });
    }

    /// What is to be watched from now on, or not any more; `None` where the kernel does not tell.
    pub(crate) async fn next(&self) -> Option<io::Result<Vec<Watch>>> {
        let device = self.0.get().cloned().flatten()?;
        loop {
            let requests = match device.read().await {
                Ok(requests) => requests,
                Err(error) => return Some(Err(error)),
            };
            // Names need not be text.
            let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
            let (watches, others) = sort(requests, &String::from_utf8_lossy(&mounts));
            if let Err(error) = (&device.answers).write_all(&encode(&others)) {
                return Some(Err(error));
            }
            if !watches.is_empty() {
                return Some(Ok(watches));
            }
        }
    }

    /// Tells who watches. Runs where blocking is allowed, as pages may have to be written first.
    pub(crate) async fn tell(&self, changes: Vec<HostChange>) -> Option<io::Result<()>> {
        let device = self.0.get().cloned().flatten()?;
        let work = move || {
            let mut answers = &device.answers;
            changes.chunks(MAX_WRITTEN / 512).try_for_each(|changes| answers.write_all(&encode(changes)))
        };
        Some(tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error))))
    }
}

impl Device {
    fn open() -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DEVICE)?;
        let answers = file.try_clone()?;
        Ok(Self { requests: sys::watch(file.into(), Interest::READABLE)?, answers })
    }

    async fn read(&self) -> io::Result<Vec<Request>> {
        loop {
            let mut ready = self.requests.readable().await?;
            let read = ready.try_io(|_| {
                let mut buffer = [0; REQUEST + MAX_PATH];
                let length = (&self.answers).read(&mut buffer)?;
                Ok(Request::parse(&buffer[..length]))
            });
            match read {
                Ok(request) => return Ok(request?.into_iter().collect()),
                Err(_would_block) => {}
            }
        }
    }
}

impl Request {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let inode = u64::from_ne_bytes(bytes.get(16..24)?.try_into().ok()?);
        let path = OsStr::from_bytes(bytes.get(REQUEST..)?);
        let path = (!path.is_empty()).then(|| path.into());
        Some(Self { id: number(0)?, device: (number(4)?, number(8)?), inode, path })
    }
}

/// What the host is told, and answers to those that it need not know of.
fn sort(requests: Vec<Request>, mounts: &str) -> (Vec<Watch>, Vec<HostChange>) {
    let (mut watches, mut answers) = (Vec::new(), Vec::new());
    for Request { id, device, inode, path } in requests {
        let place = match path {
            Some(path) => share_path(&path, device, mounts),
            None => Some(PathBuf::new()),
        };
        match place {
            Some(path) => {
                let path = path.into_os_string().into_encoded_bytes();
                watches.push(Watch { id, path, inode, ..Default::default() });
            }
            None => answers.push(HostChange { id, ..Default::default() }),
        }
    }
    (watches, answers)
}

/// The path below the share of what is at `path` in the file system `device`; `None` if it is in no volume.
fn share_path(path: &Path, (major, minor): (u32, u32), mounts: &str) -> Option<PathBuf> {
    let device = format!("{major}:{minor}");
    let mut lines = mounts.lines().filter(|line| line.split(' ').nth(2) == Some(&device));
    let of_share = |line| mount_point(line)?.strip_prefix(guest::SHARED_DIR).ok().map(Path::to_owned);
    let place = lines.find_map(of_share)?.join(path.strip_prefix("/").ok()?);
    let is_volume = place.starts_with(guest::VOLUMES) && place.components().nth(1).is_some();
    // A root is no name.
    is_volume.then(|| place.components().collect())
}

/// As the device takes them.
fn encode(changes: &[HostChange]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for change in changes {
        let length = u32::try_from(change.name.len()).unwrap_or(u32::MAX);
        for number in [change.id, change.mask, change.cookie, length] {
            bytes.extend(number.to_ne_bytes());
        }
        bytes.extend(&change.name);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
        20 1 0:5 / /dev rw - devtmpfs devtmpfs rw\n\
        40 1 0:40 / /run/kata-containers/shared/containers rw - virtiofs kataShared rw\n\
        41 40 0:41 / /run/kata-containers/shared/containers/volumes/0-config\\040map rw - virtiofs none rw";

    fn share_path_of(path: &str, minor: u32) -> Option<String> {
        share_path(Path::new(path), (0, minor), MOUNTS).map(|path| path.to_str().unwrap().to_owned())
    }

    #[test]
    fn the_host_knows_a_file_by_its_path_in_the_share() {
        let volume = "volumes/0-config map";
        assert_eq!(share_path_of("/", 41).as_deref(), Some(volume));
        assert_eq!(share_path_of("/..data/a", 41), Some(format!("{volume}/..data/a")));
        assert_eq!(share_path_of("/volumes/1-hosts", 40).as_deref(), Some("volumes/1-hosts"));
    }

    #[test]
    fn what_is_in_no_volume_is_answered_here() {
        assert_eq!(share_path_of("/passthrough/c1/rootfs/etc", 40), None);
        assert_eq!(share_path_of("/volumes", 40), None);
        assert_eq!(share_path_of("/null", 5), None);
        let request = Request { id: 3, device: (0, 5), inode: 1, path: Some("/null".into()) };
        let (watches, answers) = sort(vec![request], MOUNTS);
        assert_eq!((watches.len(), answers[0].id, answers[0].mask), (0, 3, 0));
    }

    #[test]
    fn a_request_without_a_path_ends_a_watch() {
        let mut bytes = [0; REQUEST + 1];
        bytes[0] = 9;
        bytes[16] = 5;
        bytes[REQUEST] = b'/';
        let begun = Request { id: 9, device: (0, 0), inode: 5, path: Some("/".into()) };
        assert_eq!(Request::parse(&bytes), Some(begun));
        let ended = Request::parse(&bytes[..REQUEST]).unwrap();
        assert_eq!(ended.path, None);
        assert_eq!(sort(vec![ended], MOUNTS).0[0].path, b"");
        assert_eq!(Request::parse(&bytes[..REQUEST - 1]), None);
    }

    /// Such a request was dropped, so who watched waited for an answer, and the next ones did not wait at all.
    #[test]
    fn a_name_is_bytes_and_need_not_be_text() {
        let bytes = [&[0; REQUEST][..], b"/caf\xe9"].concat();
        let mut request = Request::parse(&bytes).unwrap();
        request.device = (0, 41);
        let (watches, answers) = sort(vec![request], MOUNTS);
        assert_eq!(watches[0].path, b"volumes/0-config map/caf\xe9");
        assert!(answers.is_empty());
    }

    #[test]
    fn changes_are_written_one_after_another() {
        let named = HostChange { id: 1, mask: 0x100, cookie: 2, name: b"ab".to_vec(), ..Default::default() };
        let bytes = encode(&[named, HostChange { id: 7, ..Default::default() }]);
        assert_eq!(bytes.len(), 16 + 2 + 16);
        assert_eq!((&bytes[12..18], bytes[18]), (&[2, 0, 0, 0, b'a', b'b'][..], 7));
    }
}
