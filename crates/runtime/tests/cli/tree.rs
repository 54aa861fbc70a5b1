//! A temporary installation, and what a run of the program printed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// Directory with a configuration, programs that only know their version, kernel, initrd and state.
pub(crate) struct Tree {
    dir: TempDir,
}

/// What a run printed.
pub(crate) struct Printed {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Tree {
    /// Everything that a sandbox needs is there.
    pub(crate) fn complete() -> Self {
        let tree = Self { dir: TempDir::new().unwrap() };
        tree.program("qemu", "QEMU emulator version 10.0.2 (made up)");
        tree.program("virtiofsd", "virtiofsd 1.14.0");
        tree.file("kernel", "kernel");
        tree.file("initrd", "initrd");
        let path = |name: &str| tree.path(name).display().to_string();
        tree.file(
            "configuration.toml",
            &format!(
                "[hypervisor.qemu]\npath = '{}'\nvirtio_fs_daemon = '{}'\nkernel = '{}'\ninitrd = '{}'\naccelerator = 'tcg'\n",
                path("qemu"),
                path("virtiofsd"),
                path("kernel"),
                path("initrd"),
            ),
        );
        fs::set_permissions(tree.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        tree
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn file(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A program that prints one line.
    pub(crate) fn program(&self, name: &str, says: &str) {
        let text = self.path(&format!("{name}.sh"));
        fs::write(&text, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
        self.copy_program(&text, name);
    }

    /// Copies by another process: a file that this one holds open for writing, if only in a child that another
    /// test is just starting, cannot be executed ("text file busy").
    pub(crate) fn copy_program(&self, from: &Path, name: &str) {
        let status =
            Command::new("install").args(["-m", "755"]).arg(from).arg(self.path(name)).status().unwrap();
        assert!(status.success());
    }

    /// The program with this tree's configuration and state.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_kata-runtime")), args)
    }

    /// The same from another copy of the binary.
    pub(crate) fn command_of(&self, binary: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(binary);
        command.args(args).arg("--config").arg(self.path("configuration.toml"));
        command.arg("--root").arg(self.path("state")).env_remove("KATA_CONF_FILE");
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Printed {
        self.printed(&mut self.command(args))
    }

    /// Runs; the tree's directory is shown as `/tree`.
    pub(crate) fn printed(&self, command: &mut Command) -> Printed {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let dir = self.dir.path().display().to_string();
        let text = |bytes| String::from_utf8(bytes).unwrap().replace(&dir, "/tree");
        Printed { code: status.code().unwrap(), stdout: text(stdout), stderr: text(stderr) }
    }
}
