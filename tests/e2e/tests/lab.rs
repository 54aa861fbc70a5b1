//! What needs a host kernel with more than this project's machines have: run by `cargo xtask lab test`, not by the
//! workspace's tests. A test that finds its kernel without the thing fails.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::process::Command;

use kata_e2e::{Container, Containerd, Network, ip, kata_test};

/// Makes `parent` and its other end `outside` (10.7.0.1), and with `link` the pod's `eth0` (10.7.0.2) on `parent`.
fn on_a_parent(name: &'static str, outside: &str, link: &str) -> Network {
    let network = Network::new(name);
    ip("link add parent type veth peer name outside");
    ip("link set parent up");
    ip("link set outside up");
    if outside != "outside" {
        ip(&format!("link add link outside name {outside} type vlan id 7"));
        ip(&format!("link set {outside} up"));
    }
    ip(&format!("addr add 10.7.0.1/24 dev {outside}"));
    ip(&format!("link add link parent name eth0 netns {name} type {link}"));
    network.inside("addr add 10.7.0.2/24 dev eth0");
    network.inside("link set eth0 up");
    network
}

fn sleeper<'c>(containerd: &'c Containerd, network: &Network) -> Container<'c> {
    containerd.container().network(network).command(["/bin/sleep", "1000"]).start()
}

#[track_caller]
fn assert_reachable(container: &Container<'_>) {
    container.shell("ping -c 1 -W 20 10.7.0.1");
    let ping = Command::new("busybox").args(["ping", "-c", "1", "-W", "20", "10.7.0.2"]).output();
    assert!(ping.is_ok_and(|ping| ping.status.success()), "the pod is not reached");
}

#[test]
fn a_pod_on_an_ipvlan_is_reached() {
    kata_test(|containerd| {
        let network = on_a_parent("pod", "outside", "ipvlan mode l2");
        let before = network.holdings();
        let container = sleeper(containerd, &network);
        assert!(container.shell("ip addr show eth0").contains("10.7.0.2/24"));
        assert_reachable(&container);
        container.remove();
        assert_eq!(network.holdings(), before);
        ip("link delete parent");
    });
}

#[test]
fn a_pod_on_a_vlan_is_reached() {
    kata_test(|containerd| {
        let network = on_a_parent("pod", "outside.7", "vlan id 7");
        let before = network.holdings();
        let container = sleeper(containerd, &network);
        assert_reachable(&container);
        container.remove();
        assert_eq!(network.holdings(), before);
        ip("link delete parent");
    });
}

#[test]
fn packets_are_moved_by_vhost_net_unless_it_is_disabled() {
    kata_test(|containerd| {
        assert!(Path::new("/dev/vhost-net").exists(), "this host has no vhost-net");
        for disabled in [false, true] {
            containerd.reconfigure(|text| {
                text.replace("disable_vhost_net = false", &format!("disable_vhost_net = {disabled}"))
            });
            let network = Network::with_veth("pod");
            let container = sleeper(containerd, &network);
            assert_reachable(&container);
            let vmm = containerd.processes_of("qemu-system-x86_64")[0].pid;
            let open = std::fs::read_dir(format!("/proc/{vmm}/fd")).expect("the VMM runs").flatten();
            let vhost =
                open.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.ends_with("vhost-net")));
            assert_eq!(vhost.count(), usize::from(!disabled));
            container.remove();
        }
    });
}

const GIB: u64 = 1 << 30;

/// A thin pool of device-mapper on two loop devices; to be removed by [`ThinPool::remove`].
struct ThinPool {
    loops: [String; 2],
}

impl ThinPool {
    const NAME: &str = "e2e-pool";

    fn new(directory: &Path) -> Self {
        printed("modprobe", ["dm-thin-pool"]);
        let loops = [("metadata", GIB / 16), ("data", 2 * GIB)].map(|(name, size)| {
            let file = directory.join(name);
            File::create_new(&file).and_then(|file| file.set_len(size)).expect("the test's directory");
            printed("losetup", [OsStr::new("--find"), OsStr::new("--show"), file.as_os_str()])
        });
        // Sectors of 512 bytes; blocks of 64 KiB; what is new is not filled with zeros.
        let table =
            format!("0 {} thin-pool {} {} 128 1024 1 skip_block_zeroing", 2 * GIB / 512, loops[0], loops[1]);
        printed("dmsetup", ["create", Self::NAME, "--table", &table]);
        Self { loops }
    }

    fn remove(self) {
        printed("dmsetup", ["remove", "--retry", Self::NAME]);
        for device in self.loops {
            printed("losetup", ["--detach", &device]);
        }
    }
}

/// What a program prints, which must not fail.
#[track_caller]
fn printed<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> String {
    let output = Command::new(program).args(arguments).output().expect("the program is there");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn a_container_of_the_devmapper_snapshotter_has_its_thin_device() {
    kata_test(|containerd| {
        let directory = containerd.directory();
        let pool = ThinPool::new(&directory);
        let section = format!(
            "  root_path = {directory:?}\n  pool_name = {:?}\n  base_image_size = \"128MB\"\n",
            ThinPool::NAME
        );
        containerd.enable("io.containerd.snapshotter.v1.devmapper", &section);
        let image = containerd.stage.images().join("busybox.tar");
        let import = ["images", "import", "--snapshotter", "devmapper"].map(OsStr::new);
        containerd.ctr(import.into_iter().chain([image.as_os_str()])).ok().done();
        let script = "echo kept > /file; sync; cat /file; grep ' / ' /proc/mounts";
        let name = "localhost/kata/busybox:1";
        for id in ["one", "two"] {
            let run = ["run", "--rm", "--snapshotter", "devmapper", "--runtime", &containerd.stage.runtime];
            let told = containerd.ctr(run.into_iter().chain([name, id, "sh", "-c", script])).ok().text();
            assert!(told.starts_with("kept\n/dev/") && told.contains(" ext4 rw,"), "{told}");
        }
        containerd.ctr(["images", "rm", "--sync", name]).ok().done();
        assert_eq!(printed("dmsetup", ["ls", "--target", "thin"]), "No devices found");
        containerd.stop(nix::sys::signal::Signal::SIGTERM);
        pool.remove();
        containerd.start_again();
    });
}
