//! Figures of storage: containers, measured by `kata-storage-bench`, against bare guests with the same daemon or disk and the
//! same program (`kata-probe storage`).

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use serde::Deserialize;
use tempfile::TempDir;

use super::backing;
use super::bare::BareGuest;
use super::containers::{Containers, RUNC, busybox_tree};
use super::payload;
use super::program::{Bench, Program};
use crate::containerd::RUNTIME;
use crate::process;

const PROGRAM: &str = "kata-storage-bench";
/// What is read from the share and from the disk.
const READ_BYTES: usize = 512 << 20;
const DISK_BYTES: usize = 256 << 20;

/// Seconds for each kind of work in a shared directory.
#[derive(Deserialize)]
pub(crate) struct Shared {
    pub(crate) write: f64,
    pub(crate) read: f64,
    pub(crate) small: f64,
}

/// Pages of an image.
#[derive(Deserialize)]
pub(crate) struct Cached {
    /// All of them.
    pub(crate) image: u32,
    /// In the host's page cache with one pod.
    pub(crate) first: u32,
    /// With two.
    pub(crate) second: u32,
}

/// What is worked on.
pub(crate) struct Data {
    _directory: TempDir,
    /// To be shared; with a file `read`.
    pub(crate) share: PathBuf,
    /// A root file system with a file `data`.
    pub(crate) disk: PathBuf,
}

impl Data {
    /// Makes it in the cache's directory, which is on a real file system.
    pub(crate) fn new(bench: &Bench<'_>) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("storage-").tempdir_in(&bench.workspace.cache)?;
        let (share, root, disk) =
            (directory.path().join("share"), directory.path().join("root"), directory.path().join("disk"));
        fs::create_dir(&share)?;
        fill(&share.join("read"), READ_BYTES)?;
        busybox_tree(&root, &["sleep"])?;
        fs::copy(bench.probe, root.join("bin/kata-probe"))?;
        fill(&root.join("data"), DISK_BYTES)?;
        File::create_new(&disk)?.set_len(2 * DISK_BYTES as u64)?;
        // Whoever mounts it first would have to finish it.
        let complete = ["-E", "lazy_itable_init=0,lazy_journal_init=0"];
        process::output(Command::new("mkfs.ext4").args(complete).arg("-qFd").arg(&root).arg(&disk))?;
        fs::remove_dir_all(root)?;
        Ok(Self { _directory: directory, share, disk })
    }
}

/// Bytes that no layer below can leave out.
fn fill(path: &Path, bytes: usize) -> Result<()> {
    let mut file = File::create_new(path)?;
    let piece: Vec<u8> = (0..1_u32 << 18).flat_map(|number| (number | 1 << 31).to_le_bytes()).collect();
    for _ in 0..bytes / piece.len() {
        file.write_all(&piece)?;
    }
    Ok(())
}

/// A containerd with containers of one runtime.
pub(crate) struct Storage(Program);

impl Storage {
    /// Of the staged runtime.
    pub(crate) fn ours(bench: &Bench<'_>) -> Result<Self> {
        Ok(Self(Program::start(PROGRAM, bench, RUNTIME)?))
    }

    /// Of runc.
    pub(crate) fn of_runc(bench: &Bench<'_>) -> Result<Self> {
        Ok(Self(Program::start(PROGRAM, bench, RUNC)?))
    }

    /// In a volume.
    pub(crate) fn share(&mut self, data: &Data) -> Result<Shared> {
        self.0.ask(&format!("share {}", data.share.display()))
    }

    /// Seconds for reads at random from a root on a disk.
    pub(crate) fn block(&mut self, data: &Data) -> Result<f64> {
        self.0.ask(&format!("block {}", data.disk.display()))
    }

    /// Seconds until a container runs whose root is layers of the host's, through the share.
    pub(crate) fn start_on_share(&mut self) -> Result<f64> {
        backing::obtain(1)?;
        self.0.ask("start share")
    }

    /// Seconds until a container runs whose root is made of layers of EROFS.
    pub(crate) fn start_on_erofs(&mut self) -> Result<f64> {
        backing::obtain(1)?;
        self.0.ask("start erofs")
    }

    /// What two pods of one image leave in the page cache.
    pub(crate) fn cache(&mut self) -> Result<Cached> {
        self.0.ask("cache")
    }

    /// Ends containerd; the program fails if anything is left on the host.
    pub(crate) fn stop(self) -> Result<()> {
        self.0.stop()
    }
}

/// Bare guests that do the same work.
pub(crate) struct BareStorage {
    guest: BareGuest,
    virtiofsd: Vec<String>,
    probe: Vec<u8>,
}

impl BareStorage {
    /// QEMU and virtiofsd as a sandbox has them.
    pub(crate) fn of(containers: &Containers<'_>, bench: &Bench<'_>) -> Result<Self> {
        let guest = BareGuest::of(containers)?;
        Ok(Self { guest, virtiofsd: containers.virtiofsd_command_line()?, probe: fs::read(bench.probe)? })
    }

    /// In a directory that one virtiofsd has for this guest alone.
    pub(crate) fn share(&self, data: &Data) -> Result<Shared> {
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("virtiofsd.sock");
        let mut daemon = Daemon::start(&self.virtiofsd, &data.share, &socket)?;
        let commands = "/bin/busybox mount -t virtiofs kataShared /data\n\
                        /probe storage write /data read /data/read small /data > /dev/vport0p1\n";
        let initrd = payload::worker(self.probe.clone(), commands)?;
        let told = self.guest.tells(&initrd, &self.guest.sharing(&socket)?);
        daemon.end();
        let told = told?;
        let [write, read, small] = ["write", "read", "small"].map(|what| seconds(&told, what));
        Ok(Shared { write: write?, read: read?, small: small? })
    }

    /// On a virtio-blk disk as QEMU makes it when nothing more is asked for.
    pub(crate) fn block(&self, data: &Data) -> Result<f64> {
        let commands =
            "/bin/busybox mount -t ext4 /dev/vda /data\n/probe storage random /data/data > /dev/vport0p1\n";
        let initrd = payload::worker(self.probe.clone(), commands)?;
        let drive = format!("file={},format=raw,if=none,id=bare", data.disk.display());
        let device = "virtio-blk-pci,drive=bare,bus=pcie.0,addr=0x18,disable-legacy=on";
        let disk = ["-drive", &drive, "-device", device].map(str::to_owned);
        seconds(&self.guest.tells(&initrd, &disk)?, "random")
    }
}

/// The time behind the name of a kind of work.
fn seconds(told: &str, what: &str) -> Result<f64> {
    let time = told.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix('\t'));
    let time = time.with_context(|| format!("The bare guest tells nothing of {what:?}: {told:?}"))?;
    Ok(time.trim().parse()?)
}

/// A virtiofsd of a bare guest's.
struct Daemon(Child);

impl Daemon {
    /// With a sandbox's arguments, but for what it shares and where it listens.
    fn start(words: &[String], share: &Path, socket: &Path) -> Result<Self> {
        let (program, arguments) = words.split_first().context("A process has a program")?;
        // Its standard input is the socket: it listens before the guest's QEMU is started.
        let listener = UnixListener::bind(socket)?;
        let mut command = Command::new(program);
        command.arg("--shared-dir").arg(share).arg("--fd=0").args(others(arguments));
        command.stdin(Stdio::from(OwnedFd::from(listener))).stderr(Stdio::null());
        Ok(Self(command.spawn().context("Cannot start virtiofsd")?))
    }

    /// It ends by itself with its guest; this is for the case that it does not.
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A sandbox's arguments for virtiofsd without those about its share and its socket.
fn others(arguments: &[String]) -> Vec<&str> {
    let mut others = Vec::new();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        if word == "--shared-dir" {
            words.next();
        } else if !word.starts_with("--fd=") {
            others.push(word.as_str());
        }
    }
    others
}

#[cfg(test)]
mod tests {
    use super::{others, seconds};

    #[test]
    fn the_daemon_keeps_what_is_not_about_its_share_and_its_socket() {
        let words = ["--shared-dir", "/run/ro", "--fd=21", "--cache=auto", "--xattr"].map(str::to_owned);
        assert_eq!(others(&words), ["--cache=auto", "--xattr"]);
    }

    #[test]
    fn a_kind_of_work_is_found_by_its_name() {
        let told = "write\t1.5\r\nread\t0.25\r\n";
        assert!((seconds(told, "read").unwrap() - 0.25).abs() < 1e-9);
        assert!(seconds(told, "small").is_err());
    }
}
