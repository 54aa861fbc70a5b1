//! A corner of the host for one test: private mount and network namespaces and an empty `/run`, so that what a test
//! leaves behind is exactly what is there afterwards, whatever else runs on the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

use crate::failure::fail;
use crate::leftovers::Inventory;

/// The name of the environment variable by which a test's processes are known.
pub(crate) const MARK: &str = "KATA_E2E_MARK";

/// The calling thread's corner of the host; it ends with the thread.
pub(crate) struct Host {
    /// Part of every name the test gives: namespace, containers, directories.
    pub(crate) mark: String,
    data: TempDir,
    before: Inventory,
}

impl Host {
    /// Moves the calling thread, and with it all programs it starts, into namespaces of its own.
    pub(crate) fn private() -> Self {
        Self::prepared(|| {})
    }

    /// As [`Host::private`]; what `prepare` makes in the namespaces counts as there before the test.
    pub(crate) fn prepared(prepare: impl FnOnce()) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mark = format!("e2e-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        if let Err(e) = enter_namespaces() {
            fail(format_args!("Cannot make namespaces for the test: {e}"));
        }
        fs::create_dir("/run/containerd").expect("/run is empty and ours");
        prepare();
        let base = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let data = tempfile::Builder::new().prefix(&format!("{mark}-")).tempdir_in(base);
        let data = data.unwrap_or_else(|e| fail(format_args!("Cannot make a directory for containerd: {e}")));
        // As it is on every host.
        crate::network::ip("link set lo up");
        let before = Inventory::take(&mark, data.path());
        Self { mark, data, before }
    }

    /// A directory on a real file system, removed with the test.
    pub(crate) fn data(&self) -> &Path {
        self.data.path()
    }

    /// What is there now and was not before, one line each.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        Inventory::take(&self.mark, self.data.path()).beyond(&self.before)
    }
}

fn enter_namespaces() -> nix::Result<()> {
    let nothing: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)?;
    // First cut off from the machine, then shared among ourselves, as systemd leaves it on a host.
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_SHARED, nothing)?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=755"))
}
