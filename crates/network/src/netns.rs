//! Network namespaces: work inside one, and questions about one.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{FsType, fstatfs};
use tokio::sync::oneshot;

/// The file system of namespaces, `NSFS_MAGIC` of `linux/magic.h`.
const NSFS: FsType = FsType(0x6e73_6673);

/// Whether `netns` is the network namespace of the host's init, or of this process itself. Such a namespace cannot belong
/// to a VM.
///
/// # Errors
/// `netns` cannot be read. Where init's cannot be (it takes the right to trace it), only this process's counts.
pub fn is_hosts(netns: &Path) -> io::Result<bool> {
    let namespace = identity(netns)?;
    Ok(["/proc/1/ns/net", "/proc/self/ns/net"]
        .iter()
        .any(|hosts| identity(Path::new(hosts)).is_ok_and(|hosts| hosts == namespace)))
}

/// The ids of the processes that are in the network namespace `netns`, in no order. Whether an interface there is used by
/// containers that share the host's kernel can only be told from them. Ask before the VM's own processes are there.
///
/// # Errors
/// `netns` or `/proc` cannot be read. Processes that end meanwhile are none.
pub fn processes_in(netns: &Path) -> io::Result<Vec<u32>> {
    let namespace = identity(netns)?;
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if identity(&entry.path().join("ns/net")).is_ok_and(|its| its == namespace) {
            processes.push(process);
        }
    }
    Ok(processes)
}

/// A namespace is one file, under whatever path.
fn identity(netns: &Path) -> io::Result<(u64, u64)> {
    let file = fs::metadata(netns)?;
    Ok((file.dev(), file.ino()))
}

/// Runs `work` in the namespace `netns`.
///
/// A namespace belongs to a thread; so a thread of its own enters it, works and ends. No other thread of this process ever
/// changes its namespace.
pub(crate) async fn run_in<T: Send + 'static>(
    netns: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (sender, receiver) = oneshot::channel();
    start(netns, move |entered| {
        // Nobody waits any more: what was made is announced, and its log takes it back.
        let _ = sender.send(entered.map(|()| work()));
    })?;
    receiver.await.unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
}

/// As [`run_in`], for callers that may block.
pub(crate) fn run_in_and_wait<T: Send + 'static>(
    netns: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let thread = start(netns, move |entered| entered.map(|()| work()))?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
}

fn start<T: Send + 'static>(
    netns: &Path,
    work: impl FnOnce(io::Result<()>) -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let namespace = File::open(netns)?;
    if fstatfs(&namespace)?.filesystem_type() != NSFS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a namespace"));
    }
    thread::Builder::new()
        .name("netns".to_owned())
        .spawn(move || work(setns(namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)))
}
