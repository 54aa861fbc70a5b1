//! A host's disks, for which loop devices stand in the tests.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use kata_protocol::agent::Storage;
use rustix::fs::{Mode, OFlags, open};

use super::guest::Guest;

const MIB: u64 = 1 << 20;

/// A file of the host as a block device.
pub(crate) struct Disk {
    pub(crate) node: PathBuf,
    file: PathBuf,
}

/// Says why a test cannot run here.
pub(crate) fn lacks(programs: &[&str]) -> bool {
    let in_path = |program: &str| {
        ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(|folder| Path::new(folder).join(program))
    };
    let missing = programs
        .iter()
        .chain(&["losetup"])
        .find(|program| !in_path(program).iter().any(|path| path.exists()));
    if let Some(missing) = missing {
        println!("skipped: there is no {missing}");
    }
    missing.is_some()
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("can be run");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("is text")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("is text")
}

impl Disk {
    /// Of so many MiB, empty.
    pub(crate) fn empty(guest: &Guest, name: &str, size: u64) -> Self {
        let file = guest.folder.path().join(name);
        File::create_new(&file).and_then(|created| created.set_len(size * MIB)).expect("a sparse file");
        Self::of(file)
    }

    /// With a file system of that kind.
    pub(crate) fn formatted(guest: &Guest, name: &str, size: u64, kind: &str) -> Self {
        let disk = Self::empty(guest, name, size);
        run(&format!("mkfs.{kind}"), &["-q", text(&disk.node)]);
        disk
    }

    /// A read-only layer with all that is in a folder.
    pub(crate) fn layer(guest: &Guest, name: &str, content: &Path) -> Self {
        let file = guest.folder.path().join(name);
        run("mkfs.erofs", &["--quiet", text(&file), text(content)]);
        Self::of(file)
    }

    fn of(file: PathBuf) -> Self {
        let node = PathBuf::from(run("losetup", &["--find", "--show", text(&file)]).trim());
        Self { node, file }
    }

    /// Makes it larger.
    pub(crate) fn grow(&self, size: u64) {
        File::options()
            .write(true)
            .open(&self.file)
            .and_then(|file| file.set_len(size * MIB))
            .expect("larger");
        run("losetup", &["--set-capacity", text(&self.node)]);
    }

    /// Whether no file system holds it.
    pub(crate) fn is_free(&self) -> bool {
        open(&self.node, OFlags::RDONLY | OFlags::EXCL, Mode::empty()).is_ok()
    }

    /// Its first bytes. The kernel brings them to the file when nobody has the disk open any more, another test's look for a
    /// free one included.
    pub(crate) fn start(&self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        File::open(&self.node).and_then(|mut disk| disk.read_exact(&mut bytes)).expect("is read");
        bytes
    }

    /// Mounted on a folder of the test's.
    pub(crate) fn storage(&self, guest: &Guest, target: &str, kind: &str) -> Storage {
        Storage {
            driver: "blk".into(),
            source: text(&self.node).into(),
            fstype: kind.into(),
            mount_point: text(&guest.folder.path().join(target)).into(),
            ..Default::default()
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It goes with its last user.
        let _ = Command::new("losetup").args(["--detach", text(&self.node)]).status();
        let _ = fs::remove_file(&self.file);
    }
}
