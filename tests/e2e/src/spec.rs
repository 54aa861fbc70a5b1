//! OCI specifications for what `ctr run` has no option for, and root file systems for them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::command::run;
use crate::containerd::Containerd;
use crate::failure::fail;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A root file system in a plain directory: busybox with all its applets.
#[derive(Clone, Debug)]
pub struct Rootfs {
    /// Where it is on the host.
    pub path: PathBuf,
}

impl Rootfs {
    pub(crate) fn busybox(path: PathBuf) -> Self {
        let applets = run(Command::new("/bin/busybox").arg("--list")).ok().text();
        let rootfs = Self { path };
        let write = || -> std::io::Result<()> {
            for directory in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
                fs::create_dir_all(rootfs.path.join(directory))?;
            }
            fs::copy("/bin/busybox", rootfs.path.join("bin/busybox"))?;
            fs::write(rootfs.path.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")?;
            fs::write(rootfs.path.join("etc/group"), "root:x:0:\n")?;
            let links = applets.lines().filter(|applet| *applet != "busybox");
            links.into_iter().try_for_each(|a| symlink("busybox", rootfs.path.join("bin").join(a)))
        };
        write().unwrap_or_else(|e| fail(format_args!("Cannot make a root file system: {e}")));
        rootfs
    }
}

/// containerd's usual specification for a container of this id that runs `/bin/true` on a root file system of its own
/// in `directory`.
pub(crate) fn on_busybox(containerd: &Containerd, directory: &Path, id: &str) -> Value {
    let rootfs = Rootfs::busybox(directory.join("rootfs"));
    let mut spec: Value = serde_json::from_slice(&containerd.ctr(["oci", "spec"]).ok().stdout)
        .unwrap_or_else(|e| fail(format_args!("ctr oci spec gives no JSON: {e}")));
    spec["process"]["args"] = json!(["/bin/true"]);
    spec["process"]["env"] = json!([PATH]);
    spec["root"]["path"] = json!(rootfs.path);
    spec["linux"]["cgroupsPath"] = json!(format!("/{}/{id}", containerd.host.mark));
    spec
}
