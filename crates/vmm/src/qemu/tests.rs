//! Command lines as snapshots, and the life of real QEMU processes.

mod disks;
mod memory;
mod numa;
mod pinning;
mod resize;

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::command_line::{CommandLine, CommandLineError, Endpoints, build};
use super::disks::Layout;
use super::{Version, config, launch};
use crate::backing::MemoryBacking;
use crate::numa::Numa;
use crate::plan::{
    Accelerator, AgentChannel, MemoryHotplug, NetworkNamespace, Nic, NicBackend, Share, ShareBackend, VmPlan,
};
use crate::vmm::{ShutdownReason, VmEvent, VmStatus, Vmm, VmmError};

const QEMU: &str = "/usr/bin/qemu-system-x86_64";

fn any_fd() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

fn plan(accelerator: Accelerator) -> VmPlan {
    VmPlan {
        id: "0123abcd".to_owned(),
        binary: QEMU.into(),
        machine_type: "q35".to_owned(),
        accelerator,
        cpu_features: String::new(),
        vcpus: 1,
        max_vcpus: 2,
        memory_mib: 256,
        max_memory_mib: 256,
        memory_hotplug: MemoryHotplug::VirtioMem,
        memory_backing: MemoryBacking::default(),
        numa: Numa::default(),
        free_page_reporting: false,
        kernel: "/usr/share/kata-containers/vmlinux.container".into(),
        initrd: "/usr/share/kata-containers/initrd.img".into(),
        kernel_params: Vec::new(),
        firmware: None,
        shares: Vec::new(),
        nics: Vec::new(),
        disks: Vec::new(),
        scsi_controller: false,
        agent: AgentChannel::Serial,
        console_log: "/dev/null".into(),
        seccomp: true,
        netns: NetworkNamespace::Callers,
        cgroup: kata_cgroup::Cgroup::none(),
        hotplug_ports: 0,
        debug: false,
        entropy_source: "/dev/urandom".into(),
    }
}

fn command_line(mut plan: VmPlan) -> Result<CommandLine, CommandLineError> {
    let agent = matches!(plan.agent, AgentChannel::Serial).then(any_fd);
    let layout = Layout::of(std::mem::take(&mut plan.disks), plan.scsi_controller).unwrap();
    let profile = config::profile_of(&plan, None);
    build(plan, profile, layout, Endpoints { qmp: any_fd(), console: any_fd(), agent })
}

/// One option a line, descriptors by purpose instead of by number.
fn rendered(plan: VmPlan) -> String {
    use std::os::fd::AsRawFd;

    let line = command_line(plan).unwrap();
    let mut text = String::new();
    for argument in &line.arguments {
        let argument = argument.to_str().unwrap();
        let separator = if argument.starts_with('-') { "\n" } else { " " };
        text = text + separator + argument;
    }
    for (purpose, fd) in &line.descriptors {
        for key in ["fd", "vhostfd"] {
            text = text.replace(&format!("{key}={}", fd.as_raw_fd()), &format!("{key}=<{purpose}>"));
        }
    }
    text.trim().to_owned()
}

fn by_daemon(tag: &str, queue_size: u32) -> Share {
    Share { tag: tag.to_owned(), backend: ShareBackend::VhostUser { socket: any_fd(), queue_size } }
}

fn by_qemu(tag: &str, dir: &str) -> Share {
    Share { tag: tag.to_owned(), backend: ShareBackend::NineP { dir: dir.into() } }
}

#[test]
fn under_tcg_with_a_serial_agent_and_a_share() {
    let mut plan = plan(Accelerator::Tcg);
    plan.shares.push(by_daemon("kataShared", 1024));
    insta::assert_snapshot!(rendered(plan));
}

#[test]
fn under_kvm_with_vsock_and_own_parameters() {
    let mut plan = plan(Accelerator::Kvm);
    plan.agent = AgentChannel::Vsock { cid: 4242, vhost_fd: any_fd() };
    plan.cpu_features = "-vmx".to_owned();
    plan.kernel_params = vec!["panic=5".to_owned(), "agent.log=debug".to_owned()];
    plan.firmware = Some("/usr/share/qemu/qboot.rom".into());
    plan.seccomp = false;
    plan.debug = true;
    insta::assert_snapshot!(rendered(plan));
}

#[test]
fn a_directory_that_qemu_shows_itself_needs_no_shared_memory() {
    let mut plan = plan(Accelerator::Tcg);
    plan.shares.push(by_qemu("kataShared", "/run/a,b/ro"));
    let lines = rendered(plan);
    let found = lines.lines().filter(|line| line.contains("9p") || line.contains("mem0"));
    assert_eq!(
        found.skip(1).collect::<Vec<_>>().join("\n"),
        "-object {\"id\":\"mem0\",\"qom-type\":\"memory-backend-ram\",\"size\":268435456}\n\
         -fsdev local,id=extra-9p-4,path=/run/a,,b/ro,security_model=passthrough,multidevs=remap\n\
         -device virtio-9p-pci,bus=pcie.0,addr=0x4,disable-legacy=on,fsdev=extra-9p-4,mount_tag=kataShared"
    );
}

#[test]
fn a_guest_reports_free_pages_by_a_second_function_of_an_occupied_slot() {
    assert!(!rendered(plan(Accelerator::Tcg)).contains("balloon"));
    let lines = rendered(VmPlan { free_page_reporting: true, ..plan(Accelerator::Tcg) });
    let found: Vec<_> =
        lines.lines().filter(|line| line.contains("rng-pci") || line.contains("balloon")).collect();
    assert_eq!(
        found,
        [
            "-device virtio-rng-pci,bus=pcie.0,addr=0x2,disable-legacy=on,rng=rng0,multifunction=on",
            "-device virtio-balloon-pci,bus=pcie.0,addr=0x2.1,disable-legacy=on,id=balloon0,free-page-reporting=on",
        ]
    );
}

#[test]
fn own_kernel_parameters_win_by_name() {
    let mut plan = plan(Accelerator::Kvm);
    plan.kernel_params = ["console=ttyS0", "console=hvc0", "net.ifnames=1", "cgroup-no-v1=none", "x"]
        .map(str::to_owned)
        .into();
    let line = config::kernel_command_line(&plan);
    let words: Vec<_> = line.split(' ').collect();
    assert!(words.ends_with(&["console=ttyS0", "console=hvc0", "net.ifnames=1", "cgroup-no-v1=none", "x"]));
    for gone in ["net.ifnames=0", "cgroup_no_v1=all"] {
        assert!(!words.contains(&gone), "{line}");
    }
    assert_eq!(words.iter().filter(|word| word.starts_with("console=")).count(), 2, "{line}");
}

#[test]
fn only_an_emulated_guest_with_one_cpu_goes_without_the_local_apic_timer() {
    let has_it = |accelerator, max_vcpus| {
        let mut plan = plan(accelerator);
        plan.max_vcpus = max_vcpus;
        config::kernel_command_line(&plan).split(' ').any(|word| word == "nolapic_timer")
    };
    assert!(has_it(Accelerator::Tcg, 1));
    assert!(!has_it(Accelerator::Tcg, 2));
    assert!(!has_it(Accelerator::Kvm, 1));
}

/// A guest's kernel that patched itself under QEMU 7.2 was translated meanwhile, and died.
#[test]
fn only_a_qemu_that_can_runs_several_emulated_cpus_at_once() {
    let threads = |accelerator, vcpus, minor| {
        let mut plan = plan(accelerator);
        (plan.vcpus, plan.max_vcpus) = (1, vcpus);
        let version = Version { major: 8, minor, micro: 0 };
        config::profile_of(&plan, Some(version)).accel.split(',').nth(1)
    };
    assert_eq!(threads(Accelerator::Tcg, 2, 0), Some("thread=single"));
    assert_eq!(threads(Accelerator::Tcg, 2, 1), Some("thread=multi"));
    assert_eq!(threads(Accelerator::Tcg, 1, 0), Some("thread=multi"));
    assert_eq!(threads(Accelerator::Kvm, 2, 0), None);
}

fn card(last: u8, backend: NicBackend) -> Nic {
    Nic { id: format!("nic{last}"), mac: [2, 0, 0, 0, 0, last], backend }
}

/// The options of one network card.
fn of_nic(backend: NicBackend) -> String {
    let mut plan = plan(Accelerator::Tcg);
    plan.nics.push(Nic { id: "nic5".to_owned(), mac: [2, 0, 0, 0, 0, 0xab], backend });
    let lines = rendered(plan);
    let of_nic = lines.lines().filter(|line| line.contains("nic5"));
    of_nic.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_network_card_has_a_tap_device_and_the_pods_address() {
    assert_eq!(
        of_nic(NicBackend::Tap { queues: vec![any_fd()], vhost: vec![any_fd()] }),
        "-netdev tap,id=nic5,fd=<network queue>,vhost=on,vhostfd=<vhost-net>\n\
         -device virtio-net-pci,bus=pcie.0,addr=0x8,disable-legacy=on,id=nic5,netdev=nic5,mac=02:00:00:00:00:ab,romfile="
    );
}

#[test]
fn a_network_card_with_several_queues_has_an_interrupt_for_each() {
    let text = of_nic(NicBackend::Tap { queues: vec![any_fd(), any_fd()], vhost: Vec::new() });
    assert!(text.contains("tap,id=nic5,fds=") && text.ends_with("mq=on,vectors=6"), "{text}");
}

#[test]
fn a_network_card_may_be_another_processs() {
    let text = of_nic(NicBackend::VhostUser { socket: "/run/a,b".into(), queues: 2 });
    assert!(
        text.starts_with("-chardev socket,id=char-nic5,path=/run/a,,b\n-netdev vhost-user,id=nic5,"),
        "{text}"
    );
    assert!(text.contains("chardev=char-nic5,queues=2\n") && text.ends_with("mq=on,vectors=6"), "{text}");
}

/// A card on the root bus can never be taken out.
#[test]
fn network_cards_are_in_ports_as_long_as_there_are_some() {
    let mut plan = plan(Accelerator::Tcg);
    plan.nics = (0..2).map(|last| card(last, NicBackend::User)).collect();
    plan.hotplug_ports = 1;
    let text = rendered(plan);
    let port = text.find("-device pcie-root-port,id=port0,").unwrap();
    let first = text.find("-device virtio-net-pci,bus=port0,disable-legacy=on,id=nic0,").unwrap();
    assert!(
        port < first && text.contains("virtio-net-pci,bus=pcie.0,addr=0x9,disable-legacy=on,id=nic1,"),
        "{text}"
    );
}

#[test]
fn impossible_plans_are_refused() {
    let refused = |change: fn(&mut VmPlan)| {
        let mut plan = plan(Accelerator::Tcg);
        change(&mut plan);
        command_line(plan).unwrap_err()
    };
    assert_eq!(refused(|plan| plan.vcpus = 0), CommandLineError::Cpus { vcpus: 0, max: 2 });
    assert_eq!(refused(|plan| plan.vcpus = 3), CommandLineError::Cpus { vcpus: 3, max: 2 });
    assert_eq!(refused(|plan| plan.memory_mib = 1), CommandLineError::Memory { mib: 1 });
    let long = refused(|plan| plan.kernel_params.push("x".repeat(3000)));
    assert!(matches!(long, CommandLineError::KernelParamsTooLong { length: 3001.. }), "{long}");
    let control = refused(|plan| plan.kernel_params.push("a\nb".to_owned()));
    assert!(matches!(control, CommandLineError::KernelParam { .. }), "{control}");

    let long_tag = "x".repeat(32);
    for (shares, expected) in [
        (vec![by_daemon("", 64)], CommandLineError::Tag { tag: String::new(), most: 36 }),
        (vec![by_qemu(&long_tag, "/d")], CommandLineError::Tag { tag: long_tag.clone(), most: 31 }),
        (vec![by_daemon("x", 100)], CommandLineError::QueueSize { size: 100 }),
        (vec![by_daemon("x", 2048)], CommandLineError::QueueSize { size: 2048 }),
        ((0..5).map(|_| by_daemon("x", 64)).collect(), CommandLineError::TooManyShares { count: 5 }),
    ] {
        let mut plan = plan(Accelerator::Tcg);
        plan.shares = shares;
        assert_eq!(command_line(plan).unwrap_err(), expected);
    }
    let mut plan = plan(Accelerator::Tcg);
    let backend = || NicBackend::Tap { queues: vec![any_fd()], vhost: Vec::new() };
    plan.nics = (0..9).map(|last| card(last, backend())).collect();
    assert_eq!(command_line(plan).unwrap_err(), CommandLineError::TooManyNics { count: 9 });
}

#[test]
fn commas_cannot_add_options() {
    let mut plan = plan(Accelerator::Tcg);
    plan.id = "a,process=b".to_owned();
    plan.entropy_source = "/dev/x,y".into();
    let text = rendered(plan);
    assert!(text.contains("-name sandbox-a,,process=b,debug-threads=on"), "{text}");
    assert!(text.contains("filename=/dev/x,,y"), "{text}");
}

/// A plan for a real QEMU; `None`, with the reason printed, where there is none.
///
/// Its kernel is a bzImage header and an instruction: enough for QEMU to load, and then it halts or resets.
fn real(dir: &TempDir) -> Option<VmPlan> {
    if !Path::new(QEMU).exists() {
        eprintln!("skipped: there is no {QEMU}");
        return None;
    }
    let (kernel, initrd) = (dir.path().join("bzImage"), dir.path().join("initrd"));
    // hlt, and again. A CPU that spins would keep QEMU from freeing what is removed.
    fs::write(&kernel, real_mode_kernel(&[0xf4, 0xeb, 0xfd])).unwrap();
    fs::write(&initrd, b"0707").unwrap();
    let mut plan = plan(Accelerator::Tcg);
    plan.kernel = kernel;
    plan.initrd = initrd;
    plan.console_log = dir.path().join("console.log");
    Some(plan)
}

/// A bzImage (boot protocol 2.15) whose real-mode entry is this code.
fn real_mode_kernel(code: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 16 * 512];
    image[0x1f1] = 1; // One 512-byte setup sector.
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x200..0x202].copy_from_slice(&[0xeb, 0x6e]); // jmp 0x270: the header is in the way.
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    image[0x211] = 1; // LOADED_HIGH
    image[0x22c..0x230].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes()); // The initrd's highest address.
    image[0x238..0x23c].copy_from_slice(&2047_u32.to_le_bytes()); // The command line's longest.
    image[0x270..0x270 + code.len()].copy_from_slice(code);
    image
}

const PATIENCE: Duration = Duration::from_secs(20);

async fn next(events: &mut mpsc::Receiver<VmEvent>) -> VmEvent {
    timeout(PATIENCE, events.recv())
        .await
        .expect("an event within 20 s")
        .expect("events go on until the exit")
}

#[tokio::test]
async fn a_vm_starts_answers_and_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let Some(plan) = real(&dir) else { return };
    let vm = launch(plan).await.unwrap();
    let mut events = vm.take_events().unwrap();
    assert!(vm.take_events().is_none());
    assert_eq!(next(&mut events).await, VmEvent::ControlReady);
    assert_eq!(vm.status().await.unwrap(), VmStatus::Running);

    let arguments = fs::read(format!("/proc/{}/cmdline", vm.pid())).unwrap();
    let marker = b"sandbox-0123abcd";
    assert!(arguments.windows(marker.len()).any(|window| window == marker));
    assert!(vm.take_agent_socket().is_some() && vm.take_agent_socket().is_none());

    let exit = vm.kill().await;
    assert_eq!(next(&mut events).await, VmEvent::Exited(exit.clone()));
    assert_eq!(exit.status.unwrap().signal(), Some(9));
    assert_eq!(exit.to_string(), "The VMM was killed by signal 9");
    assert_eq!(events.recv().await, None);
    assert!(matches!(vm.status().await, Err(VmmError::Gone(gone)) if gone == exit));
    assert_eq!(vm.kill().await, exit);
    assert_eq!(vm.shutdown(PATIENCE).await, exit);
}

#[tokio::test]
async fn a_vm_pauses_resumes_and_quits() {
    let dir = tempfile::tempdir().unwrap();
    let Some(plan) = real(&dir) else { return };
    let vm = launch(plan).await.unwrap();
    let mut events = vm.take_events().unwrap();
    vm.pause().await.unwrap();
    assert_eq!(vm.status().await.unwrap(), VmStatus::Paused);
    vm.resume().await.unwrap();
    assert_eq!(vm.status().await.unwrap(), VmStatus::Running);

    let exit = vm.shutdown(PATIENCE).await;
    assert!(exit.success(), "{exit}");
    assert_eq!(next(&mut events).await, VmEvent::ControlReady);
    assert_eq!(next(&mut events).await, VmEvent::Shutdown { reason: ShutdownReason::HostQuit });
    assert_eq!(next(&mut events).await, VmEvent::Exited(exit));
}

#[tokio::test]
async fn a_stopped_process_is_killed_at_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let Some(plan) = real(&dir) else { return };
    let vm = launch(plan).await.unwrap();
    vm.status().await.unwrap();
    let pid = rustix::process::Pid::from_raw(vm.pid().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let exit = vm.shutdown(Duration::from_millis(200)).await;
    assert_eq!(exit.status.unwrap().signal(), Some(9));
}

#[tokio::test]
async fn a_killed_process_is_noticed_and_a_dropped_handle_kills() {
    let dir = tempfile::tempdir().unwrap();
    let Some(plan) = real(&dir) else { return };
    let vm = launch(plan).await.unwrap();
    let mut events = vm.take_events().unwrap();
    drop(vm);
    let exit = loop {
        if let VmEvent::Exited(exit) = next(&mut events).await {
            break exit;
        }
    };
    assert_eq!(exit.status.unwrap().signal(), Some(9));
}

#[tokio::test]
async fn qemu_says_why_it_could_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut plan) = real(&dir) else { return };
    plan.machine_type = "no-such-machine".to_owned();
    let exit = launch(plan).await.unwrap().wait().await;
    assert!(!exit.success());
    let text = exit.to_string();
    assert!(text.contains("unsupported machine type") && text.contains("`machine_type`"), "{text}");

    let Some(plan) = real(&dir) else { return };
    fs::write(&plan.kernel, b"\x7fELF not really").unwrap();
    let exit = launch(plan).await.unwrap().wait().await;
    assert!(exit.to_string().contains("`kernel`"), "{exit}");
}

#[tokio::test]
async fn missing_files_are_named_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut plan) = real(&dir) else { return };
    plan.kernel = "/nonexistent/vmlinux".into();
    let error = launch(plan).await.unwrap_err();
    assert!(
        error.to_string().starts_with("The guest kernel \"/nonexistent/vmlinux\" cannot be read"),
        "{error}"
    );

    let Some(mut plan) = real(&dir) else { return };
    plan.binary = "/nonexistent/qemu".into();
    let error = launch(plan).await.unwrap_err();
    assert!(matches!(error, VmmError::BinaryMissing { .. }), "{error}");

    let Some(mut plan) = real(&dir) else { return };
    plan.netns = NetworkNamespace::At("/nonexistent/netns".into());
    let error = launch(plan).await.unwrap_err();
    assert!(matches!(error, VmmError::Netns { .. }), "{error}");
}

#[tokio::test]
async fn a_vm_starts_in_its_network_namespace() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut plan) = real(&dir) else { return };
    let holder = std::process::Command::new("unshare").args(["--net", "sleep", "60"]).spawn();
    let Ok(mut holder) = holder else {
        eprintln!("skipped: no unshare(1)");
        return;
    };
    let namespace = format!("/proc/{}/ns/net", holder.id());
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    let started = Instant::now();
    while fs::read_link(&namespace).is_ok_and(|link| link == own) && started.elapsed() < PATIENCE {
        std::thread::yield_now();
    }
    let wanted = fs::read_link(&namespace).unwrap();
    if wanted == own {
        eprintln!("skipped: no right to make a network namespace");
        return;
    }
    plan.netns = NetworkNamespace::At(namespace.into());
    let vm = launch(plan).await.unwrap();
    assert_eq!(fs::read_link(format!("/proc/{}/ns/net", vm.pid())).unwrap(), wanted);
    assert_eq!(fs::read_link("/proc/self/ns/net").unwrap(), own);
    vm.kill().await;
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[tokio::test]
async fn a_vm_has_a_network_namespace_of_its_own_if_it_shall() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut plan) = real(&dir) else { return };
    plan.netns = NetworkNamespace::New;
    let vm = launch(plan).await.unwrap();
    let namespace = fs::read_link(format!("/proc/{}/ns/net", vm.pid())).unwrap();
    assert_ne!(namespace, fs::read_link("/proc/self/ns/net").unwrap());
    vm.kill().await;
}

#[tokio::test]
async fn cards_are_plugged_in_until_no_port_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut plan) = real(&dir) else { return };
    plan.nics = vec![card(0, NicBackend::User)];
    plan.hotplug_ports = 2;
    let vm = launch(plan).await.unwrap();
    let plug = vm.nic_hotplug().unwrap();
    let card = |last| card(last, NicBackend::User);
    plug.add_nic(card(1)).await.unwrap();
    let twice = plug.add_nic(card(1)).await.unwrap_err();
    assert!(matches!(twice, VmmError::NicExists { .. }), "{twice}");
    let full = plug.add_nic(card(2)).await.unwrap_err();
    assert!(matches!(full, VmmError::NoPort { count: 2 }), "{full}");
    let unknown = plug.remove_nic("nic3").await.unwrap_err();
    assert!(matches!(unknown, VmmError::Control(_)), "{unknown}");
    vm.kill().await;
}

/// Whatever QEMU refuses leaves neither a back end nor a port in use.
#[tokio::test]
async fn a_card_that_qemu_refuses_can_be_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut plan) = real(&dir) else { return };
    plan.hotplug_ports = 1;
    let vm = launch(plan).await.unwrap();
    let plug = vm.nic_hotplug().unwrap();
    let no_tap = NicBackend::Tap { queues: vec![any_fd()], vhost: Vec::new() };
    plug.add_nic(card(1, no_tap)).await.unwrap_err();
    plug.add_nic(card(1, NicBackend::User)).await.unwrap();
    vm.kill().await;
}
