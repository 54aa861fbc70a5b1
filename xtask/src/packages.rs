//! Debian packages this project needs to build and run: looked for first, installed only if missing.

use std::collections::HashSet;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::progress::Progress;
use crate::workspace::Workspace;

/// What each package is for stands beside it.
const PACKAGES: &[&str] = &[
    "attr",                        // tests: extended attributes
    "bc",                          // kernel build
    "binutils",                    // kernel build, readelf
    "bison",                       // kernel build
    "busybox-static",              // demo and test images
    "ca-certificates",             // package downloads, guests that pull images
    "chromium-headless-shell",     // tests: the pages of kata-monitor
    "containerd",                  // the manager that demo and tests start privately
    "containernetworking-plugins", // tests: pods' networks
    "cpio",                        // tests of the initrd writer
    "curl",                        // tests: HTTPS
    "dbus-daemon",                 // tests: a bus with a stand-in for systemd
    "docker-registry",             // tests: images that the guest pulls
    "e2fsprogs",                   // tests: disks with ext4
    "erofs-utils",                 // tests: read-only layers
    "flex",                        // kernel build
    "g++",                         // fuzz targets: libFuzzer
    "gcc",                         // kernel build, virtiofsd
    "iperf3",                      // measurements of the pods' network
    "iproute2",                    // tests: links and rules left behind
    "iptables",                    // tests: ports of pods' networks
    "kmod",                        // kernel build, check
    "libc6-dev",                   // everything compiled
    "libcap-ng-dev",               // virtiofsd
    "libelf-dev",                  // kernel build
    "libseccomp-dev",              // virtiofsd
    "libssl-dev",                  // kernel build
    "make",                        // kernel build
    "mmdebstrap",                  // the demo's Debian image
    "openssl",                     // tests: certificates
    "perl",                        // kernel build
    "procps",                      // tests: processes left behind
    "prometheus",                  // tests: metrics in the eyes of who reads them, promtool
    "python3",                     // tests
    "qemu-system-x86",             // the VMM
    "runc",                        // measurements against an ordinary container
    "util-linux",                  // tests: mounts, namespaces
    "xfsprogs",                    // tests: disks with XFS
    "xz-utils",                    // kernel source
];

/// Installs what is missing; needs root only then.
pub(crate) fn ensure(workspace: &Workspace, progress: &Progress) -> Result<()> {
    let missing = missing(&installed()?);
    if missing.is_empty() {
        progress.line("packages", format_args!("all {} there", PACKAGES.len()));
        return Ok(());
    }
    let names = missing.join(" ");
    if !rustix::process::geteuid().is_root() {
        bail!("These packages are missing and only root can install them: apt-get install {names}");
    }
    let log = workspace.log("packages")?;
    progress.line("packages", format_args!("installing {names} (log: {})", log.display()));
    progress.watch("packages", &log, || {
        process::logged(apt_get().arg("update"), &log)?;
        process::logged(apt_get().args(["install", "-y", "--no-install-recommends"]).args(&missing), &log)
    })
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn installed() -> Result<HashSet<String>> {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${Package} ${db:Status-Status}\\n"]).args(PACKAGES);
    // dpkg-query fails when one of the names is unknown, and still lists the others.
    let output =
        query.output().context("Cannot run dpkg-query: this command prepares Debian machines only")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| line.strip_suffix(" installed")).map(str::to_owned).collect())
}

fn missing(installed: &HashSet<String>) -> Vec<&'static str> {
    PACKAGES.iter().copied().filter(|name| !installed.contains(*name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_installed_is_missing() {
        let installed = PACKAGES.iter().filter(|p| **p != "bc").map(|p| (*p).to_owned()).collect();
        assert_eq!(missing(&installed), ["bc"]);
    }

    #[test]
    fn packages_are_sorted() {
        assert!(PACKAGES.is_sorted());
    }
}
