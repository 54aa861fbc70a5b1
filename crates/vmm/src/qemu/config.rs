//! The driver's tables: what differs between accelerators, kernel parameters, PCI slots.
//!
//! Everything that is tuned by measuring stands here and nowhere else.

use std::path::{Path, PathBuf};

use super::qmp::Version;
use crate::plan::{Accelerator, VmPlan};

/// What depends on the accelerator.
#[derive(Debug)]
pub(super) struct Profile {
    /// The value of `-accel`.
    pub(super) accel: &'static str,
    /// The CPU model; the plan's features are added.
    pub(super) cpu: &'static str,
    /// Added to `-machine q35`: without the devices that no guest of ours uses; each costs time in firmware and
    /// kernel.
    pub(super) machine: &'static str,
    /// More arguments, as they are.
    pub(super) extra: &'static [&'static str],
    /// Kernel parameters, before [`KERNEL_PARAMS`].
    pub(super) kernel_params: &'static [&'static str],
}

const KVM: Profile = Profile {
    accel: "kvm",
    // The PMU costs exits on each context switch and is of no use in a container.
    cpu: "host,pmu=off",
    machine: "graphics=off,vmport=off,smm=off,sata=off,smbus=off,usb=off,hpet=off",
    // Lost timer ticks are not made up for: the guest's clock is kvmclock.
    extra: &["-global", "kvm-pit.lost_tick_policy=discard"],
    kernel_params: &[],
};

const TCG: Profile = Profile {
    // One host thread for each virtual CPU. 256 MiB of translated code hold a kernel and a workload; QEMU's own
    // choice is an eighth of the host's memory.
    accel: "tcg,thread=multi,tb-size=256",
    // Without "fast" string instructions: guests then copy memory in words, which is emulated five times faster
    // than `rep movsb`.
    cpu: "max,erms=off,fsrm=off",
    // The HPET stays: it is the clock of a guest that uses no local APIC timer.
    machine: "graphics=off,vmport=off,smm=off,sata=off,smbus=off,usb=off",
    extra: &[],
    // The TSC is emulated from the host's clock: it never stops or drifts, so nothing has to watch it.
    // Mitigations guard a real CPU's speculation, of which emulation has none; patching lock prefixes and return
    // thunks costs tens of milliseconds. QEMU translates code again for every address it appears at: with fixed ones the
    // agent's code is translated once. The agent turns randomisation on again before workloads run.
    kernel_params: &["tsc=reliable", "no_timer_check", "mitigations=off", "noreplace-smp", "norandmaps"],
};

/// [`TCG`] with one host thread for all virtual CPUs.
const TCG_IN_TURN: Profile = Profile { accel: "tcg,thread=single,tb-size=256", ..TCG };

/// The first QEMU that translates no code while another virtual CPU changes it ("accel/tcg: Always lock pages before
/// translation"). A kernel patches itself in its first second; with older ones, about one start in 500 with two CPUs
/// ended in a panic.
const TCG_IS_EXACT: Version = Version { major: 8, minor: 1, micro: 0 };

/// Kernel parameters for every accelerator. The plan's own win over these by name.
pub(super) const KERNEL_PARAMS: &[&str] = &[
    "console=hvc0",
    // A guest that panics is gone at once: reboot by the keyboard controller, which `-no-reboot` makes an exit.
    "reboot=k",
    "panic=1",
    // cgroup v2 only.
    "cgroup_no_v1=all",
    // There is one PCI bus.
    "pci=lastbus=0",
    // No probing of keyboard and mouse; the controller is only for the reboot.
    "i8042.noaux=1",
    "i8042.nopnp=1",
    "i8042.dumbkbd=1",
    "cryptomgr.notests",
    // The agent asks for the disk it needs. The kernel asks for 256 targets first, which takes seconds on a busy host.
    "scsi_mod.scan=manual",
    // Interfaces keep the names that the kernel gives.
    "net.ifnames=0",
    // Grace periods are short while there is little to wait for: starts are faster.
    "rcupdate.rcu_expedited=1",
    "random.trust_cpu=on",
    // Where there is, or can come, memory above 4 GiB, the kernel would keep 64 MiB for devices that cannot reach it, of which
    // there are none.
    "swiotlb=noforce",
    // No interface that nobody has asked for.
    "dummy.numdummies=0",
];

/// Under emulation, for a guest that never has a second CPU: the HPET is its clock, and 100 ms of calibrating the
/// local APIC timer are saved. Without that timer a second CPU would make do with ticks of the first.
const SINGLE_CPU_PARAMS: &[&str] = &["nolapic_timer"];

/// For a guest that may get more memory. Most of what comes is only for what can be moved out of the way: it can be taken
/// back.
const MEMORY_HOTPLUG_PARAMS: &[&str] = &[
    "memory_hotplug.online_policy=auto-movable",
    // In percent of what there was at boot: up to four times that.
    "memory_hotplug.auto_movable_ratio=401",
];

/// Kernel parameters that are left out when the plan asks for debugging.
pub(super) const QUIET_PARAMS: &[&str] = &["quiet"];

/// The longest kernel command line; x86's `COMMAND_LINE_SIZE` counts the final zero.
pub(super) const MAX_KERNEL_COMMAND_LINE: usize = 2047;

/// The least guest memory in MiB with which a kernel gets as far as an error message.
pub(super) const MIN_MEMORY_MIB: u32 = 64;

/// Slots on the root bus, fixed so that a device's address never depends on what else there is. Slot 0 is the host
/// bridge, 31 the LPC bridge.
pub(super) mod slot {
    /// Agent port and console.
    pub(crate) const SERIAL: u8 = 1;
    /// Entropy.
    pub(crate) const RNG: u8 = 2;
    /// vsock.
    pub(crate) const VSOCK: u8 = 3;
    /// The first shared directory; the others follow.
    pub(crate) const SHARES: u8 = 4;
    /// How many slots are reserved for shared directories.
    pub(crate) const SHARE_COUNT: u8 = 4;
    /// The first network card.
    pub(crate) const NICS: u8 = 8;
    /// How many slots are reserved for network cards.
    pub(crate) const NIC_COUNT: u8 = 8;
    /// The first port for devices that come later.
    pub(crate) const PORTS: u8 = 16;
    /// How many slots are reserved for ports.
    pub(crate) const PORT_COUNT: u8 = 8;
    /// The first disk that is there from the start.
    pub(crate) const DISKS: u8 = 24;
    /// How many slots are reserved for such disks; more of them are on the SCSI controller.
    pub(crate) const DISK_COUNT: u8 = 6;
    /// The SCSI controller, if it is there from the start.
    pub(crate) const SCSI: u8 = 30;
}

/// The device id of the SCSI controller; its bus has a `.0` more.
pub(super) const SCSI_ID: &str = "scsi0";
/// How many disks one controller has: as many as have the target 0, as upstream's agents count.
pub(super) const SCSI_UNITS: u16 = 256;
/// The set of file descriptors that the first disk's file is in; the console's is 1.
pub(super) const FIRST_DISK_FDSET: u32 = 2;

/// The id of a root port.
pub(super) fn port_id(number: usize) -> String {
    format!("port{number}")
}

/// The most bytes of a virtio-fs device's tag.
pub(super) const MAX_FS_TAG: usize = 36;
/// The most bytes of a virtio-9p device's tag.
pub(super) const MAX_9P_TAG: usize = 31;

/// The name by which the guest finds the agent's port.
pub(super) const AGENT_PORT_NAME: &str = "org.katacontainers.agent.0";
/// The device id of the agent's port, as QMP events name it.
pub(super) const AGENT_PORT_ID: &str = "agent0";

/// Firmware of QEMU's own that does no more than a kernel needs; QEMU has it for its `microvm`. SeaBIOS takes 40 ms
/// longer under emulation.
const SMALL_FIRMWARE: &str = "share/qemu/qboot.rom";

/// Where QEMU's small firmware is, beside the QEMU that is used; `None` leaves the choice to QEMU.
pub(super) fn small_firmware(qemu: &Path) -> Option<PathBuf> {
    let prefixes = qemu.ancestors().skip(2).take(1).chain([Path::new("/usr"), Path::new("/usr/local")]);
    prefixes.map(|prefix| prefix.join(SMALL_FIRMWARE)).find(|path| path.is_file())
}

/// The profile for an accelerator.
fn profile(accelerator: Accelerator) -> &'static Profile {
    match accelerator {
        Accelerator::Kvm => &KVM,
        Accelerator::Tcg => &TCG,
    }
}

/// Whether a plan's profile depends on QEMU's version, which costs a start of QEMU to know.
pub(super) fn depends_on_version(plan: &VmPlan) -> bool {
    plan.accelerator == Accelerator::Tcg && plan.max_vcpus > 1
}

/// How many CPUs QEMU makes at the start.
///
/// Under emulation those that may come later are there from the start, and the guest's kernel leaves them off until it is
/// asked: kernels take CPUs that are plugged in only from hypervisors that they know, and a QEMU that emulates does not
/// survive taking one out (7.2: it waits for its own thread, or uses what it has freed).
pub(super) fn vcpus_present(plan: &VmPlan) -> u32 {
    match plan.accelerator {
        Accelerator::Kvm => plan.vcpus,
        Accelerator::Tcg => plan.max_vcpus,
    }
}

/// The profile for a plan and a version of QEMU, if that is known and asked for by [`depends_on_version`].
pub(super) fn profile_of(plan: &VmPlan, version: Option<Version>) -> &'static Profile {
    let exact = version.is_some_and(|version| version >= TCG_IS_EXACT);
    if depends_on_version(plan) && !exact { &TCG_IN_TURN } else { profile(plan.accelerator) }
}

/// The kernel's command line: the plan's parameters after those defaults that they do not replace.
pub(super) fn kernel_command_line(plan: &VmPlan) -> String {
    let (accelerator, own) = (plan.accelerator, &plan.kernel_params);
    let quiet = if plan.debug { &[] } else { QUIET_PARAMS };
    let single = accelerator == Accelerator::Tcg && plan.max_vcpus == 1;
    let single = if single { SINGLE_CPU_PARAMS } else { &[] };
    let memory = if plan.has_memory_hotplug() { MEMORY_HOTPLUG_PARAMS } else { &[] };
    let online = (vcpus_present(plan) > plan.vcpus).then(|| format!("maxcpus={}", plan.vcpus));
    let defaults = profile(accelerator).kernel_params.iter().chain(single).chain(memory);
    let defaults = defaults.chain(KERNEL_PARAMS).chain(quiet).copied().chain(online.as_deref());
    let kept = defaults.filter(|default| !own.iter().any(|param| name_of(param) == name_of(default)));
    kept.chain(own.iter().map(String::as_str)).collect::<Vec<_>>().join(" ")
}

/// A parameter's name; to the kernel `-` and `_` are the same in it.
fn name_of(param: &str) -> String {
    param.split('=').next().unwrap_or_default().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::small_firmware;

    #[test]
    fn the_firmware_beside_the_qemu_in_use_comes_first() {
        let prefix = tempfile::tempdir().unwrap();
        let data = prefix.path().join("share/qemu");
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join("qboot.rom"), "").unwrap();
        let found = small_firmware(&prefix.path().join("bin/qemu-system-x86_64"));
        assert_eq!(found, Some(data.join("qboot.rom")));
    }
}
