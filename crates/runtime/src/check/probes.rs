//! The checks themselves: each looks at one thing and says what it found and what to do.

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use kata_config::{Accelerator, Config, Hypervisor, SharedFs};
use kata_vmm::accelerator::{Host as VmmHost, Preference, choose};
use kata_vmm::qemu::OLDEST_SUPPORTED;

use super::report::{Item, Need, Status};
use crate::host::Host;
use crate::programs;

/// Kernel modules of hypervisors that cannot share the CPU with KVM.
const HYPERVISOR_MODULES: [(&str, &str); 2] = [("vboxdrv", "VirtualBox"), ("vmmon", "VMware")];

/// The configuration can be read and makes sense.
pub(super) fn configuration(loaded: Result<&Config, &kata_config::Error>) -> Item {
    match loaded {
        Ok(config) => Item::ok("configuration", Need::Create, config.path.display().to_string()),
        Err(error) => Item::not(
            "configuration",
            Status::Failed,
            chain(error),
            "correct it; the checks below use the built-in defaults",
        ),
    }
}

/// The CPU has instructions for virtualization.
pub(super) fn cpu(host: &Host) -> Item {
    let cpu = host.cpu();
    match cpu.virtualization {
        Some(flag) => Item::ok("CPU virtualization", Need::Nothing, format!("{flag} ({})", cpu.model)),
        None if cfg!(target_arch = "x86_64") => Item::not(
            "CPU virtualization",
            Status::Absent,
            format!("neither vmx nor svm ({})", cpu.model),
            "switch it on in the firmware, or nested virtualization in the outer hypervisor",
        ),
        None => Item::ok("CPU virtualization", Need::Nothing, "has no CPU flag on this architecture"),
    }
}

/// Which accelerator a sandbox gets, and why. Emulation works, and deserves a warning.
pub(super) fn accelerator(host: &Host, asked: Accelerator) -> Item {
    let preference = match asked {
        Accelerator::Auto => Preference::Auto,
        Accelerator::Kvm => Preference::Kvm,
        Accelerator::Tcg => Preference::Tcg,
    };
    let places = VmmHost { kvm_device: host.path("/dev/kvm"), cpuinfo: host.path("/proc/cpuinfo") };
    match choose(preference, &places) {
        Ok(choice) => {
            let detail = format!("{}: {}", choice.accelerator, choice.reason);
            let slow = choice.accelerator == kata_vmm::Accelerator::Tcg && preference == Preference::Auto;
            if slow {
                let advice = "sandboxes work by emulation, several times slower";
                Item::not("accelerator", Status::Warning, detail, advice).needed_for(Need::Run)
            } else {
                Item::ok("accelerator", Need::Run, detail)
            }
        }
        Err(unusable) => Item::not(
            "accelerator",
            Status::Failed,
            unusable.to_string(),
            "or make KVM work: see the check of the CPU, and that /dev/kvm is readable and writable",
        )
        .needed_for(Need::Run),
    }
}

/// The host's kernel carries vsock connections.
pub(super) fn vhost_vsock(host: &Host) -> Item {
    device(
        host,
        "vhost-vsock",
        "/dev/vhost-vsock",
        "`modprobe vhost_vsock` would give it; the agent is reached through virtio-serial instead",
    )
}

/// The host's kernel carries network packets.
pub(super) fn vhost_net(host: &Host) -> Item {
    device(
        host,
        "vhost-net",
        "/dev/vhost-net",
        "`modprobe vhost_net` would give it; the VMM does its work instead",
    )
}

fn device(host: &Host, name: &'static str, path: &str, advice: &str) -> Item {
    if host.has(path) {
        Item::ok(name, Need::Nothing, path)
    } else {
        Item::not(name, Status::Absent, format!("{path} does not exist"), advice)
    }
}

/// As root: asks for the modules of devices that are missing. Whether that helped is what the checks see.
pub(super) fn load_modules(host: &Host) {
    for (device, module) in [("/dev/vhost-vsock", "vhost_vsock"), ("/dev/vhost-net", "vhost_net")] {
        if host.has(device) {
            continue;
        }
        let output = Command::new("modprobe").arg(module).stdin(Stdio::null()).output();
        match output {
            Ok(output) if output.status.success() => tracing::info!(module, "module loaded"),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                tracing::warn!(module, output = %said.trim(), "modprobe insert module failed");
            }
            Err(error) => tracing::warn!(module, %error, "modprobe does not start"),
        }
    }
}

/// QEMU is there and new enough.
pub(super) fn qemu(path: &Path) -> Item {
    let shown = path.display();
    match programs::qemu(path) {
        Ok(version) if version >= OLDEST_SUPPORTED => {
            Item::ok("QEMU", Need::Create, format!("{version} ({shown})"))
        }
        Ok(version) => Item::not(
            "QEMU",
            Status::Warning,
            format!("{version} ({shown})"),
            &format!("only {OLDEST_SUPPORTED} and newer is tried; install a newer one"),
        ),
        Err(error) => {
            let advice = "install QEMU (Debian: qemu-system-x86), or set `path` in [hypervisor.qemu]";
            let detail = if path.exists() { chain(&error) } else { format!("{shown} does not exist") };
            Item::not("QEMU", Status::Failed, detail, advice)
        }
    }
}

/// What shows files to the guest.
pub(super) fn shared_fs(vm: &Hypervisor) -> Item {
    match vm.shared_fs {
        SharedFs::VirtioFs => {
            let advice = "install it (`cargo xtask install`), or set `virtio_fs_daemon` in [hypervisor.qemu], or do \
                          without it: `shared_fs = \"virtio-9p\"`";
            file_daemon("virtiofsd", &vm.virtio_fs_daemon, advice)
        }
        SharedFs::VirtioFsNydus => {
            let advice = "install it, or set `virtio_fs_daemon` in [hypervisor.qemu] to where it is";
            file_daemon("nydusd", &vm.virtio_fs_daemon, advice)
        }
        SharedFs::Virtio9p => nine_p(&vm.path),
    }
}

/// QEMU was built with 9p.
fn nine_p(qemu: &Path) -> Item {
    let shown = qemu.display();
    match programs::has_nine_p(qemu) {
        Ok(true) => Item::ok("9p", Need::Create, format!("virtio-9p-pci ({shown})")),
        Ok(false) => Item::not(
            "9p",
            Status::Failed,
            format!("{shown} has no virtio-9p-pci"),
            "install a QEMU with it, or set `shared_fs = \"virtio-fs\"` in [hypervisor.qemu]",
        ),
        Err(error) => Item::not(
            "9p",
            Status::Failed,
            format!("{shown}: {error}"),
            "install QEMU (Debian: qemu-system-x86)",
        ),
    }
}

/// The daemon that shares files is there and starts.
pub(super) fn file_daemon(name: &'static str, path: &Path, advice: &'static str) -> Item {
    let shown = path.display();
    match programs::version(path) {
        Ok(version) => Item::ok(name, Need::Create, format!("{version} ({shown})")),
        Err(_) if !path.exists() => {
            Item::not(name, Status::Failed, format!("{shown} does not exist"), advice)
        }
        Err(error) => Item::not(name, Status::Failed, format!("{shown}: {}", chain(&error)), advice),
    }
}

/// The guest kernel can be read.
pub(super) fn kernel(path: &Path) -> Item {
    file("guest kernel", path, "install it (`cargo xtask install`), or set `kernel` in [hypervisor.qemu]")
}

/// The guest's initrd can be read.
pub(super) fn initrd(path: &Path) -> Item {
    file("guest initrd", path, "install it (`cargo xtask install`), or set `initrd` in [hypervisor.qemu]")
}

/// The firmware can be read.
pub(super) fn firmware(path: &Path) -> Item {
    file("firmware", path, "correct `firmware` in [hypervisor.qemu], or leave it out: QEMU brings its own")
}

/// What the guest is to have of the host's is there.
pub(super) fn bound(path: &Path) -> Item {
    let name = "sandbox_bind_mounts";
    let shown = path.display();
    match path.metadata() {
        Ok(_) => Item::ok(name, Need::Create, shown.to_string()),
        Err(error) => {
            let advice = "correct `sandbox_bind_mounts` in [runtime]";
            Item::not(name, Status::Failed, format!("{shown}: {error}"), advice)
        }
    }
}

fn file(name: &'static str, path: &Path, advice: &str) -> Item {
    let shown = path.display();
    let size = File::open(path).and_then(|file| file.metadata());
    match size {
        Ok(about) if about.is_file() && about.len() > 0 => {
            Item::ok(name, Need::Create, format!("{shown} ({} KiB)", about.len().div_ceil(1024)))
        }
        Ok(about) => {
            let what = if about.is_file() { "is empty" } else { "is no regular file" };
            Item::not(name, Status::Failed, format!("{shown} {what}"), advice)
        }
        Err(error) => Item::not(name, Status::Failed, format!("{shown}: {error}"), advice),
    }
}

/// As root: no other hypervisor holds the CPU's virtualization, which only one can have.
pub(super) fn other_hypervisors(host: &Host) -> Item {
    let users: Vec<&str> = HYPERVISOR_MODULES
        .into_iter()
        .filter(|(module, _)| host.module_users(module).is_some_and(|users| users > 0))
        .map(|(_, name)| name)
        .collect();
    if users.is_empty() {
        return Item::ok("other hypervisors", Need::Nothing, "none runs");
    }
    let advice = "end its virtual machines: with KVM no sandbox can be created beside them";
    Item::not("other hypervisors", Status::Warning, format!("{} runs", users.join(", ")), advice)
}

/// Only root can create sandboxes.
pub(super) fn privileges(root: bool) -> Item {
    if root {
        Item::ok("privileges", Need::Create, "root")
    } else {
        let advice = "run the check as root to learn whether sandboxes can be created now";
        Item::not("privileges", Status::Absent, "not root", advice)
    }
}

/// An error and its causes on one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}
