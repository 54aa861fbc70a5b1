//! Namespaces for tests: each lives in a thread of its own and is gone when the test ends. The machine's own is never
//! entered or changed.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, id};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fs, io};

use kata_intent::{Intent, IntentId, Intents};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;

use crate::netns::run_in_and_wait;
use crate::{Backend, Model, PodNetwork, Request, netlink};

/// Longer than anything takes on a slow machine.
const LONG: Duration = Duration::from_secs(20);
/// virtio's header before each frame of a TAP device.
const HEADER: usize = 10;

/// An empty network namespace.
pub(super) struct Namespace {
    pub(super) path: PathBuf,
    thread: i32,
    stop: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Namespace {
    pub(super) fn new() -> Self {
        let (ready, made) = mpsc::channel();
        let (stop, stopped) = mpsc::channel::<()>();
        let keeper = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ready.send(gettid().as_raw()).unwrap();
            // Ends when the other side is dropped.
            let _ = stopped.recv();
        });
        let thread = made.recv().unwrap();
        let path = format!("/proc/{}/task/{thread}/ns/net", id()).into();
        Self { path, thread, stop: Some((stop, keeper)) }
    }

    pub(super) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        run_in_and_wait(&self.path, work).unwrap()
    }

    /// Runs commands like `link set eth0 up`, one a line.
    pub(super) fn ip(&self, commands: &str) {
        for command in commands.lines().map(str::trim).filter(|line| !line.is_empty()) {
            self.command("ip", command);
        }
    }

    /// Waits until an interface that was set up can send and `local` is an address to receive at: the kernel sees the
    /// carrier, and takes an IPv6 address into use, some time after the commands.
    fn wait_until_ready(&self, interface: &str, local: &str) {
        let changes = self.run(netlink::changes).unwrap();
        let is_up = || self.command("ip", &format!("-br link show dev {interface}")).contains(" UP ");
        let is_local =
            || self.command("ip", "-6 route show table local").contains(&format!("local {local} "));
        while !is_up() || !is_local() {
            let mut ready = [PollFd::new(changes.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut ready, PollTimeout::try_from(LONG).unwrap()).unwrap();
            assert_ne!(ready, 0, "{interface} gets ready");
            netlink::drain(&changes).unwrap();
        }
    }

    pub(super) fn command(&self, program: &'static str, arguments: &str) -> String {
        let words: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        let output = self.run(move || Command::new(program).args(words).output()).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{program} {arguments}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(super) fn udp(&self, address: &str) -> UdpSocket {
        let address: SocketAddr = address.parse().unwrap();
        let socket = self.run(move || UdpSocket::bind(address)).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        socket
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let (stop, keeper) = self.stop.take().unwrap();
        drop(stop);
        keeper.join().unwrap();
    }
}

/// A pod's namespace and the world outside, connected by `eth0` in the pod and `peer` in the world.
pub(super) struct Pod {
    pub(super) pod: Namespace,
    pub(super) world: Namespace,
    pub(super) log: Arc<Log>,
}

/// The hardware address of the pod's `eth0`.
pub(super) const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x10];
/// That of the world's end.
pub(super) const WORLD_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x20];

impl Pod {
    pub(super) fn new() -> Self {
        let (pod, world) = (Namespace::new(), Namespace::new());
        pod.ip(&format!(
            "link add eth0 address 02:00:00:00:00:10 mtu 1400 type veth peer name peer address 02:00:00:00:00:20 mtu 1400 \
             netns {}
             addr add 10.1.0.2/24 dev eth0
             addr add fd00::2/64 dev eth0 nodad
             link set lo up
             link set eth0 up
             route add default via 10.1.0.1
             route add default via fd00::1",
            world.thread
        ));
        world.ip("addr add 10.1.0.1/24 dev peer
                  addr add fd00::1/64 dev peer nodad
                  link set peer up
                  neigh add 10.1.0.2 lladdr 02:00:00:00:00:10 dev peer nud permanent
                  neigh add fd00::2 lladdr 02:00:00:00:00:10 dev peer nud permanent");
        pod.wait_until_ready("eth0", "fd00::2");
        world.wait_until_ready("peer", "fd00::1");
        Self { pod, world, log: Arc::default() }
    }

    pub(super) fn request(&self, model: Model) -> Request {
        Request {
            netns: self.pod.path.clone(),
            model,
            queues: 1,
            vhost: false,
            rates: crate::Rates::default(),
            intents: self.log.clone(),
        }
    }

    /// A thread in the pod's namespace, by which `ip` finds it.
    pub(super) fn pod_thread(&self) -> i32 {
        self.pod.thread
    }

    /// One in the world's.
    pub(super) fn world_thread(&self) -> i32 {
        self.world.thread
    }

    /// Names of the pod's interfaces.
    pub(super) fn links(&self) -> Vec<String> {
        let links = self.pod.run(|| netlink::Socket::open()?.links()).unwrap();
        links.into_iter().map(|link| link.name).collect()
    }

    /// The traffic filters of the pod's `eth0`, as `tc` shows them.
    pub(super) fn filters(&self) -> String {
        let ingress = self.pod.run(|| -> io::Result<_> {
            let mut socket = netlink::Socket::open()?;
            let index = socket.link("eth0")?.unwrap().index;
            socket.ingress(index)
        });
        format!("{:?}", ingress.unwrap())
    }

    /// A datagram from the VM's first card to the world, and one back; over IPv4 and IPv6.
    pub(super) fn assert_packets_pass(&self, network: &PodNetwork) {
        let Backend::Tap { queues, .. } = &network.nics[0].backend else { panic!("{network:?}") };
        for (vm, outside) in [("10.1.0.2", "10.1.0.1"), ("fd00::2", "fd00::1")] {
            let (vm, outside): (IpAddr, IpAddr) = (vm.parse().unwrap(), outside.parse().unwrap());
            let socket = self.world.udp(&SocketAddr::new(outside, 0).to_string());
            let port = socket.local_addr().unwrap().port();
            let ours = SocketAddr::new(vm, 4000);
            write(&queues[0], &datagram(ours, SocketAddr::new(outside, port), b"from the VM"));
            let mut buffer = [0; 64];
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from.ip()), (b"from the VM".as_slice(), vm));
            socket.send_to(b"to the VM", ours).unwrap();
            let frame = read_until(queues, b"to the VM");
            assert_eq!((&frame[..6], &frame[6..12]), (MAC.as_slice(), WORLD_MAC.as_slice()));
        }
    }
}

/// Sends a datagram as the VM would.
pub(super) fn send(tap: &OwnedFd, from: &str, to: &str, payload: &[u8]) {
    write(tap, &datagram(from.parse().unwrap(), to.parse().unwrap(), payload));
}

fn write(tap: &OwnedFd, frame: &[u8]) {
    let bytes = [&[0; HEADER], frame].concat();
    assert_eq!(nix::unistd::write(tap, &bytes).unwrap(), bytes.len());
}

/// The first frame in any queue that ends with `payload`; others (the kernel's solicitations) are passed over.
fn read_until(queues: &[OwnedFd], payload: &[u8]) -> Vec<u8> {
    let end = Instant::now() + LONG;
    let mut buffer = vec![0; 4096];
    loop {
        let left = end.checked_duration_since(Instant::now()).expect("the frame arrives");
        let mut ready: Vec<_> =
            queues.iter().map(|tap| PollFd::new(tap.as_fd(), PollFlags::POLLIN)).collect();
        poll(&mut ready, PollTimeout::try_from(left).unwrap()).unwrap();
        for tap in queues {
            match nix::unistd::read(tap, &mut buffer) {
                Ok(length) if buffer[..length].ends_with(payload) => return buffer[HEADER..length].to_vec(),
                Ok(_) | Err(nix::Error::EAGAIN) => (),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// An Ethernet frame with a UDP datagram from the pod's to the world's hardware address.
fn datagram(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let ends: Vec<u8> = [from.ip(), to.ip()].iter().flat_map(octets).collect();
    let mut udp = [from.port().to_be_bytes(), to.port().to_be_bytes(), length.to_be_bytes(), [0; 2]].concat();
    udp.extend(payload);
    let sum = checksum(&[ends.as_slice(), &[0, 17], &length.to_be_bytes(), &udp].concat());
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    let (kind, mut header) = if from.is_ipv4() {
        let total = (20 + length).to_be_bytes();
        (0x0800_u16, [&[0x45, 0], total.as_slice(), &[0, 0, 0, 0, 64, 17, 0, 0]].concat())
    } else {
        (0x86dd, [&[0x60, 0, 0, 0], length.to_be_bytes().as_slice(), &[17, 64]].concat())
    };
    header.extend(ends);
    if from.is_ipv4() {
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    [&WORLD_MAC, MAC.as_slice(), &kind.to_be_bytes(), &header, &udp].concat()
}

fn octets(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// An intent log in memory.
#[derive(Default)]
pub(super) struct Log {
    steps: Mutex<(u64, Vec<(IntentId, Intent)>)>,
    /// Nothing more can be announced.
    pub(super) full: std::sync::atomic::AtomicBool,
}

impl Log {
    /// What is announced and not struck out.
    pub(super) fn open(&self) -> Vec<Intent> {
        self.steps.lock().unwrap().1.iter().map(|(_, intent)| intent.clone()).collect()
    }

    /// As after a crash: everything is undone, the last first.
    pub(super) fn replay(&self) {
        let steps = self.steps.lock().unwrap().1.clone();
        let left = kata_intent::undo_all(steps, crate::undo, |id| self.done(id));
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Intents for Log {
    fn will(&self, intent: Intent) -> io::Result<IntentId> {
        if self.full.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(ErrorKind::StorageFull.into());
        }
        let mut steps = self.steps.lock().unwrap();
        steps.0 += 1;
        let id = IntentId(steps.0);
        steps.1.push((id, intent));
        Ok(id)
    }

    fn done(&self, id: IntentId) {
        self.steps.lock().unwrap().1.retain(|(other, _)| *other != id);
    }
}

/// Whether this kernel has a kind of interface.
pub(super) fn kernel_has(device: &str) -> bool {
    fs::exists(device).unwrap()
}
