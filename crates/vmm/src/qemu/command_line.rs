//! From a plan to QEMU's command line: one step per device.
//!
//! QEMU gets every socket as an inherited file descriptor, under the number it has in this process: nothing is
//! listened on, and no path has to be cleaned up.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use super::backend::{self, Taken};
use super::config::{self, Profile, slot};
use super::disk::{self, Drive, Place, Properties};
use super::disks::Layout;
use super::{nic, numa};
use crate::plan::{
    AgentChannel, GUEST_BLOCK_MIB, MemoryHotplug, Nic, NicBackend, Share, ShareBackend, VmPlan,
};

/// What in a plan QEMU could not be given.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandLineError {
    /// The kernel's command line is too long.
    #[error(
        "The kernel's command line has {length} bytes, the kernel reads {}: shorten `kernel_params`",
        config::MAX_KERNEL_COMMAND_LINE
    )]
    KernelParamsTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// A kernel parameter holds a line break or a zero byte.
    #[error("The kernel parameter {parameter:?} holds a control character: remove it from `kernel_params`")]
    KernelParam {
        /// The parameter.
        parameter: String,
    },
    /// The number of CPUs is zero or above the maximum.
    #[error(
        "The VM cannot have {vcpus} virtual CPUs of at most {max}: check `default_vcpus`, `default_maxvcpus`"
    )]
    Cpus {
        /// CPUs at boot.
        vcpus: u32,
        /// The most ever.
        max: u32,
    },
    /// The guest's memory is too small.
    #[error(
        "{mib} MiB are too little memory for a VM: set `default_memory` to at least {}",
        config::MIN_MEMORY_MIB
    )]
    Memory {
        /// What was asked for.
        mib: u32,
    },
    /// More memory at boot than ever.
    #[error("The VM cannot have {mib} MiB of memory of at most {max}: check `default_memory`")]
    MemoryLimit {
        /// Memory at boot.
        mib: u32,
        /// The most ever.
        max: u32,
    },
    /// A share's tag has a bad length.
    #[error("The share's tag {tag:?} must have 1 to {most} bytes: the device has no room for more")]
    Tag {
        /// The tag.
        tag: String,
        /// The most bytes.
        most: usize,
    },
    /// A virtio queue has a bad length.
    #[error("A queue of {size} is impossible: set `virtio_fs_queue_size` to a power of two from 4 to 1024")]
    QueueSize {
        /// What was asked for.
        size: u32,
    },
    /// More shared directories than slots.
    #[error("A VM can have at most {} shared directories, not {count}", slot::SHARE_COUNT)]
    TooManyShares {
        /// How many were asked for.
        count: usize,
    },
    /// More network cards than slots.
    #[error(
        "A VM can have at most {} network cards, not {count}: the pod has too many interfaces",
        slot::NIC_COUNT
    )]
    TooManyNics {
        /// How many were asked for.
        count: usize,
    },
    /// More ports than slots.
    #[error(
        "A VM can have at most {} ports for devices, not {count}: lower `pcie_root_port`",
        slot::PORT_COUNT
    )]
    TooManyPorts {
        /// How many were asked for.
        count: u8,
    },
    /// A path that QEMU's options cannot hold.
    #[error("The path {path:?} is not UTF-8, which QEMU's options need: move it elsewhere")]
    Path {
        /// The path.
        path: PathBuf,
    },
}

/// QEMU's ends of the sockets and files that the driver makes for it.
#[derive(Debug)]
pub(super) struct Endpoints {
    /// The control channel.
    pub(super) qmp: OwnedFd,
    /// Where the guest's console is written: the end of a pipe.
    pub(super) console: OwnedFd,
    /// The agent's serial port, if the plan has one.
    pub(super) agent: Option<OwnedFd>,
}

/// A finished command line, with the file descriptors its numbers stand for.
#[derive(Debug, Default)]
pub(super) struct CommandLine {
    /// Arguments after the executable.
    pub(super) arguments: Vec<OsString>,
    /// To be inherited under their own numbers; each with its purpose.
    pub(super) descriptors: Vec<(&'static str, OwnedFd)>,
}

/// Builds the command line. Takes the plan's sockets along; its disks are in `layout`.
///
/// # Errors
/// A value in the plan that QEMU or the guest's kernel has no room for.
pub(super) fn build(
    plan: VmPlan,
    profile: &Profile,
    layout: Layout,
    endpoints: Endpoints,
) -> Result<CommandLine, CommandLineError> {
    let mut line = CommandLine::default();
    line.identity(&plan);
    line.machine(&plan, profile);
    line.processors(&plan, profile)?;
    line.memory(&plan, layout.pmem_size())?;
    line.boot(&plan)?;
    line.control(endpoints.qmp);
    line.serial_bus();
    line.console(endpoints.console);
    line.entropy(&plan.entropy_source, plan.free_page_reporting)?;
    line.balloon(plan.free_page_reporting);
    line.agent(plan.agent, endpoints.agent);
    line.shares(plan.shares)?;
    line.ports(plan.hotplug_ports)?;
    line.nics(plan.nics, plan.hotplug_ports)?;
    line.disks(layout);
    line.seccomp(plan.seccomp);
    Ok(line)
}

impl CommandLine {
    fn option(&mut self, name: &str, value: impl Into<OsString>) {
        self.arguments.push(name.into());
        self.arguments.push(value.into());
    }

    fn flag(&mut self, name: &str) {
        self.arguments.push(name.into());
    }

    /// Lets QEMU inherit `fd`; returns the number that it will have there.
    fn inherit(&mut self, purpose: &'static str, fd: OwnedFd) -> RawFd {
        let number = fd.as_raw_fd();
        self.descriptors.push((purpose, fd));
        number
    }

    /// A modern virtio device in a fixed slot of the root bus.
    fn virtio_device(&mut self, device: &str, slot: u8, properties: &str) {
        self.option("-device", format!("{device},bus=pcie.0,addr={slot:#x},disable-legacy=on,{properties}"));
    }

    /// Who this is: crash clean-up finds the process by its name.
    fn identity(&mut self, plan: &VmPlan) {
        self.option("-name", format!("sandbox-{},debug-threads=on", escaped(&plan.id)));
        // Nothing from QEMU's defaults or from files in /etc or the home directory.
        for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
            self.flag(flag);
        }
        self.option("-display", "none");
    }

    fn machine(&mut self, plan: &VmPlan, profile: &Profile) {
        let machine = escaped(&plan.machine_type);
        // QEMU's own choice is "on".
        let merge = if plan.memory_backing.is_mergeable { "on" } else { "off" };
        // With nodes, each names its own.
        let memory = if plan.numa.is_none() { "memory-backend=mem0," } else { "" };
        self.option("-machine", format!("{machine},{memory}mem-merge={merge},{}", profile.machine));
        self.option("-accel", profile.accel);
        self.option("-rtc", "base=utc,clock=host");
        self.arguments.extend(profile.extra.iter().map(Into::into));
    }

    fn processors(&mut self, plan: &VmPlan, profile: &Profile) -> Result<(), CommandLineError> {
        let (vcpus, max) = (plan.vcpus, plan.max_vcpus);
        if vcpus == 0 || vcpus > max {
            return Err(CommandLineError::Cpus { vcpus, max });
        }
        let comma = if plan.cpu_features.is_empty() { "" } else { "," };
        self.option("-cpu", format!("{}{comma}{}", profile.cpu, plan.cpu_features));
        let present = config::vcpus_present(plan);
        self.option("-smp", format!("{present},sockets={max},cores=1,threads=1,maxcpus={max}"));
        Ok(())
    }

    /// Memory, which vhost-user daemons can map where there are some. Beside it address space for
    /// persistent memory, and for memory that comes later.
    fn memory(&mut self, plan: &VmPlan, pmem_size: u64) -> Result<(), CommandLineError> {
        let mib = plan.memory_mib;
        if mib < config::MIN_MEMORY_MIB {
            return Err(CommandLineError::Memory { mib });
        }
        let (max, max_vcpus) = (plan.max_memory_mib, plan.max_vcpus);
        if mib > max {
            return Err(CommandLineError::MemoryLimit { mib, max });
        }
        // Memory that comes later begins with a memory block of the guest, and with a page of the host.
        let page = plan.memory_backing.unit() >> 20;
        let unit = if plan.has_memory_hotplug() { page.max(GUEST_BLOCK_MIB.into()) } else { 1 };
        let most = u64::from(max) + pmem_size.div_ceil(1 << 20).next_multiple_of(unit);
        let mut size = format!("{mib}M");
        if most > mib.into() {
            size = format!("{size},maxmem={most}M");
        }
        if let MemoryHotplug::Dimm { slots } = plan.memory_hotplug
            && plan.has_memory_hotplug()
        {
            size = format!("{size},slots={slots}");
        }
        self.option("-m", size);
        let (backing, shared) = (&plan.memory_backing, plan.shares_memory());
        for node in plan.numa.numbers() {
            let mib = plan.numa.0.get(node).map_or(mib, |node| node.memory_mib);
            let (id, host_nodes) = (format!("mem{node}"), plan.numa.host_nodes(node));
            let size = (id.as_str(), u64::from(mib) << 20);
            self.json("-object", backend::object(backing, shared, size, Taken::AsPlanned, host_nodes));
        }
        for node in numa::options(&plan.numa, max_vcpus) {
            self.option("-numa", node);
        }
        Ok(())
    }

    /// Kernel, initrd and firmware. A `vmlinux` is entered through its PVH note, without decompression.
    fn boot(&mut self, plan: &VmPlan) -> Result<(), CommandLineError> {
        if let Some(parameter) = plan.kernel_params.iter().find(|param| param.contains(char::is_control)) {
            return Err(CommandLineError::KernelParam { parameter: parameter.clone() });
        }
        let params = config::kernel_command_line(plan);
        if params.len() > config::MAX_KERNEL_COMMAND_LINE {
            return Err(CommandLineError::KernelParamsTooLong { length: params.len() });
        }
        self.option("-kernel", &plan.kernel);
        self.option("-initrd", &plan.initrd);
        self.option("-append", params);
        if let Some(firmware) = &plan.firmware {
            self.option("-bios", firmware);
        }
        Ok(())
    }

    /// QMP on a socket that is connected already.
    fn control(&mut self, socket: OwnedFd) {
        let fd = self.inherit("qmp", socket);
        self.option("-chardev", format!("socket,id=qmp,fd={fd}"));
        self.option("-mon", "chardev=qmp,mode=control");
    }

    /// One controller for console and agent port.
    fn serial_bus(&mut self) {
        self.virtio_device("virtio-serial-pci", slot::SERIAL, "id=serial0,max_ports=2");
    }

    /// The guest's `hvc0`, written to a pipe.
    fn console(&mut self, pipe: OwnedFd) {
        let fd = self.inherit("console", pipe);
        self.option("-add-fd", format!("fd={fd},set=1,opaque=console"));
        self.option("-chardev", "file,id=console,path=/dev/fdset/1,append=on");
        self.option("-device", "virtconsole,id=console0,bus=serial0.0,nr=0,chardev=console");
    }

    /// `shares_slot`: the slot's second function is the balloon.
    fn entropy(&mut self, source: &Path, shares_slot: bool) -> Result<(), CommandLineError> {
        let source = source.to_str().ok_or_else(|| CommandLineError::Path { path: source.to_owned() })?;
        self.option("-object", format!("rng-random,id=rng0,filename={}", escaped(source)));
        let functions = if shares_slot { ",multifunction=on" } else { "" };
        self.virtio_device("virtio-rng-pci", slot::RNG, &format!("rng=rng0{functions}"));
        Ok(())
    }

    /// The guest reports pages that it has freed, and the host takes them back. Nobody inflates the balloon.
    fn balloon(&mut self, is_wanted: bool) {
        if is_wanted {
            let place = format!("bus=pcie.0,addr={:#x}.1,disable-legacy=on", slot::RNG);
            self.option("-device", format!("virtio-balloon-pci,{place},id=balloon0,free-page-reporting=on"));
        }
    }

    fn agent(&mut self, channel: AgentChannel, port: Option<OwnedFd>) {
        if let AgentChannel::Vsock { cid, vhost_fd } = channel {
            let fd = self.inherit("vhost", vhost_fd);
            let properties = format!("vhostfd={fd},guest-cid={cid}");
            self.virtio_device("vhost-vsock-pci", slot::VSOCK, &properties);
        }
        if let Some(port) = port {
            let fd = self.inherit("agent", port);
            self.option("-chardev", format!("socket,id=agent,fd={fd}"));
            let (id, name) = (config::AGENT_PORT_ID, config::AGENT_PORT_NAME);
            let port = format!("virtserialport,id={id},bus=serial0.0,nr=1,chardev=agent,name={name}");
            self.option("-device", port);
        }
    }

    fn shares(&mut self, shares: Vec<Share>) -> Result<(), CommandLineError> {
        let count = shares.len();
        if count > usize::from(slot::SHARE_COUNT) {
            return Err(CommandLineError::TooManyShares { count });
        }
        for (share, slot) in shares.into_iter().zip(slot::SHARES..) {
            self.share(share, slot)?;
        }
        Ok(())
    }

    fn share(&mut self, share: Share, slot: u8) -> Result<(), CommandLineError> {
        let Share { tag, backend } = share;
        let most = match backend {
            ShareBackend::VhostUser { .. } => config::MAX_FS_TAG,
            ShareBackend::NineP { .. } => config::MAX_9P_TAG,
        };
        if tag.is_empty() || tag.len() > most {
            return Err(CommandLineError::Tag { tag, most });
        }
        let tag = escaped(&tag);
        match backend {
            ShareBackend::VhostUser { socket, queue_size } => self.fs(&tag, socket, queue_size, slot),
            ShareBackend::NineP { dir } => self.nine_p(&tag, &dir, slot),
        }
    }

    fn fs(&mut self, tag: &str, socket: OwnedFd, queue_size: u32, slot: u8) -> Result<(), CommandLineError> {
        if !queue_size.is_power_of_two() || !(4..=1024).contains(&queue_size) {
            return Err(CommandLineError::QueueSize { size: queue_size });
        }
        let fd = self.inherit("share", socket);
        self.option("-chardev", format!("socket,id=fs{slot},fd={fd}"));
        // The device exists only as a modern one and does not know `disable-legacy`.
        let device = format!(
            "vhost-user-fs-pci,bus=pcie.0,addr={slot:#x},chardev=fs{slot},tag={tag},queue-size={queue_size}"
        );
        self.option("-device", device);
        Ok(())
    }

    /// Owners and modes are the files' own. Each mount in the directory has inode numbers of its own: QEMU maps them to
    /// numbers that are unique in the guest.
    fn nine_p(&mut self, tag: &str, dir: &Path, slot: u8) -> Result<(), CommandLineError> {
        let path = dir.to_str().ok_or_else(|| CommandLineError::Path { path: dir.to_owned() })?;
        let path = escaped(path);
        let model = "security_model=passthrough,multidevs=remap";
        self.option("-fsdev", format!("local,id=extra-9p-{slot},path={path},{model}"));
        self.virtio_device("virtio-9p-pci", slot, &format!("fsdev=extra-9p-{slot},mount_tag={tag}"));
        Ok(())
    }

    /// The first in the ports, the others on the root bus, where they stay.
    fn nics(&mut self, nics: Vec<Nic>, ports: u8) -> Result<(), CommandLineError> {
        let count = nics.len();
        if count > usize::from(slot::NIC_COUNT) {
            return Err(CommandLineError::TooManyNics { count });
        }
        for (nic, number) in nics.into_iter().zip(0..) {
            let card = nic::Card::of(&nic).to_string();
            let id = &nic.id;
            let back_end = match nic.backend {
                NicBackend::Tap { queues, vhost } => {
                    let queues = queues.into_iter().map(|fd| self.inherit("network queue", fd)).collect();
                    let vhost = vhost.into_iter().map(|fd| self.inherit("vhost-net", fd)).collect();
                    nic::tap(id, queues, vhost)
                }
                NicBackend::User => format!("user,id={id},ipv6=off"),
                NicBackend::VhostUser { socket, queues } => {
                    let path =
                        socket.to_str().ok_or_else(|| CommandLineError::Path { path: socket.clone() })?;
                    self.option("-chardev", format!("socket,id=char-{id},path={}", escaped(path)));
                    format!("vhost-user,id={id},chardev=char-{id},queues={queues}")
                }
            };
            self.option("-netdev", back_end);
            if number < ports {
                let port = config::port_id(number.into());
                self.option("-device", format!("virtio-net-pci,bus={port},disable-legacy=on,{card}"));
            } else {
                self.virtio_device("virtio-net-pci", slot::NICS + number, &card);
            }
        }
        Ok(())
    }

    /// Those on the root bus, and the controller with those on it.
    fn disks(&mut self, layout: Layout) {
        if layout.controller {
            let first = layout.drives.iter().find(|(_, place)| matches!(place, Place::Unit(_)));
            let controller = first
                .map_or_else(|| disk::controller("pcie.0", 0, 0), |(drive, _)| drive.controller("pcie.0"));
            self.json("-device", controller);
        }
        for (drive, place) in layout.drives {
            self.disk(drive, place);
        }
    }

    fn disk(&mut self, drive: Drive, place: Place) {
        let (limits, nodes, device) = (drive.limits(), drive.nodes(), drive.device(place));
        let fdset = drive.parts.fdset();
        if matches!(place, Place::Memory { .. }) {
            let memory = drive.memory();
            self.inherit("disk", drive.into_file());
            self.json("-object", memory);
            return self.json("-device", device);
        }
        let fd = self.inherit("disk", drive.into_file());
        self.option("-add-fd", format!("fd={fd},set={fdset}"));
        limits.into_iter().for_each(|limits| self.json("-object", limits));
        nodes.into_iter().for_each(|node| self.json("-blockdev", node));
        self.json("-device", device);
    }

    /// What QMP would get as well.
    fn json(&mut self, name: &str, properties: Properties) {
        self.option(name, serde_json::Value::Object(properties).to_string());
    }

    /// Where devices are plugged in later.
    fn ports(&mut self, count: u8) -> Result<(), CommandLineError> {
        if count > slot::PORT_COUNT {
            return Err(CommandLineError::TooManyPorts { count });
        }
        for number in 0..count {
            let (id, slot) = (config::port_id(number.into()), slot::PORTS + number);
            let chassis = number + 1;
            let device = format!("pcie-root-port,id={id},bus=pcie.0,addr={slot:#x},chassis={chassis}");
            self.option("-device", device);
        }
        Ok(())
    }

    /// QEMU's own system call filter. Measured: it costs no time at the start.
    fn seccomp(&mut self, enabled: bool) {
        if enabled {
            let rules = "obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
            self.option("-sandbox", format!("on,{rules}"));
        }
    }
}

/// A value inside one of QEMU's comma-separated options.
fn escaped(value: &str) -> String {
    value.replace(',', ",,")
}
