//! Disks for tests: images of file systems, and loop devices.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::libc;

use crate::command::run;
use crate::containerd::Containerd;
use crate::spec::Rootfs;

/// Large enough for busybox and a journal, in bytes.
const SIZE: u64 = 64 << 20;

impl Containerd {
    /// A directory of the test's with busybox in it.
    #[track_caller]
    pub fn directory_of_busybox(&self) -> PathBuf {
        Rootfs::busybox(self.directory().join("rootfs")).path
    }

    /// An ext4 file system with busybox in it, in a file of the test's.
    #[track_caller]
    pub fn ext4_of_busybox(&self) -> PathBuf {
        self.ext4_of(&self.directory_of_busybox())
    }

    /// An ext4 file system with what is in `directory`, in a file of the test's.
    #[track_caller]
    pub fn ext4_of(&self, directory: &Path) -> PathBuf {
        let image = self.directory().join("image.ext4");
        let file = File::create_new(&image).expect("the test's directory is writable");
        file.set_len(SIZE).expect("a sparse file can be made");
        run(Command::new("mkfs.ext4").arg("-qFd").arg(directory).arg(&image)).ok().done();
        image
    }

    /// A layer of EROFS with busybox in it.
    #[track_caller]
    pub fn erofs_of_busybox(&self) -> PathBuf {
        self.erofs_of(&self.directory_of_busybox())
    }

    /// A layer of EROFS with what is in `directory`.
    #[track_caller]
    pub fn erofs_of(&self, directory: &Path) -> PathBuf {
        let image = self.directory().join("layer.erofs");
        run(Command::new("mkfs.erofs").arg("--quiet").arg(&image).arg(directory)).ok().done();
        image
    }

    /// An ext4 file system with [`Image::Tools`](crate::Image::Tools) in it, and room, in a file of the test's.
    #[track_caller]
    pub fn ext4_of_tools(&self) -> PathBuf {
        let image = self.directory().join("tools.ext4");
        let from = self.stage.images().join("tools.ext4");
        run(Command::new("cp").arg("--sparse=always").arg(from).arg(&image)).ok().done();
        image
    }

    /// A layer of EROFS with [`Image::Tools`](crate::Image::Tools) in it; all tests have the same.
    pub fn erofs_of_tools(&self) -> PathBuf {
        self.stage.images().join("tools.erofs")
    }

    /// A block device on a file of this size, of the test's.
    #[track_caller]
    pub fn loop_device(&self, bytes: u64) -> LoopDevice {
        let file = self.directory().join("disk");
        File::create_new(&file).and_then(|f| f.set_len(bytes)).expect("the test's directory is writable");
        let shown = run(Command::new("losetup").args(["--find", "--show"]).arg(&file)).ok();
        LoopDevice { node: shown.text().into(), file }
    }
}

/// What a file in an ext4 image that nobody has mounted says; empty if there is none.
#[must_use]
pub fn read_ext4(image: &Path, path: &str) -> String {
    run(Command::new("debugfs").arg("-R").arg(format!("cat {path}")).arg(image)).text()
}

/// Fails unless the image is of an ext4 file system that can be used by itself: what was written to it was written whole.
#[track_caller]
pub fn check_ext4(image: &Path) {
    let checked = run(Command::new("e2fsck").arg("-fp").arg(image));
    // 1: something was put right, as the journal after a crash.
    assert!(checked.code < 4, "{checked:?}");
}

/// A block device on a file, as long as this lives.
#[derive(Debug)]
pub struct LoopDevice {
    /// Its node.
    pub node: PathBuf,
    /// The file.
    pub file: PathBuf,
}

impl LoopDevice {
    /// Its number.
    #[must_use]
    pub fn number(&self) -> (u32, u32) {
        let number = fs::metadata(&self.node).expect("it has a node").rdev();
        (libc::major(number), libc::minor(number))
    }

    /// Lets it have so many bytes, more than it has.
    #[track_caller]
    pub fn grow(&self, bytes: u64) {
        let file = File::options().write(true).open(&self.file);
        file.and_then(|file| file.set_len(bytes)).expect("the test's directory is writable");
        run(Command::new("losetup").arg("--set-capacity").arg(&self.node)).ok().done();
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        run(Command::new("losetup").arg("--detach").arg(&self.node)).done();
    }
}
