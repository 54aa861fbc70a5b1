//! What needs a host kernel with more than this project's machines have: run by `cargo xtask lab test`, not by the
//! workspace's tests. A test that finds its kernel without the thing fails.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use kata_e2e::{Container, Containerd, Network, eventually, ip, kata_test};
use serde_json::json;

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

/// The body of the request on a connection, which is answered.
fn posted(stream: TcpStream) -> Vec<u8> {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let begin = head.len();
        assert_ne!(reader.read_line(&mut head).expect("a request has a head"), 0, "{head}");
        if let Some(number) = head[begin..].to_ascii_lowercase().strip_prefix("content-length: ") {
            length = number.trim().parse().expect("it is a number");
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a request has a body");
    reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").expect("it reads the answer");
    body
}

/// Without the shim's own tracing the agent connects by vsock to whoever listens on the host.
#[test]
fn a_guests_spans_come_to_the_collector_by_vsock_and_the_forwarder() {
    kata_test(|containerd| {
        let collector = TcpListener::bind("127.0.0.1:0").expect("a port can be had");
        let url = format!("http://{}/v1/traces", collector.local_addr().expect("it is bound"));
        let program = containerd.stage.prefix.join("bin/kata-trace-forwarder");
        let forwarder = Command::new(program).args(["--otlp-endpoint", &url]).stderr(Stdio::piped()).spawn();
        let mut forwarder = forwarder.expect("it is installed");
        let mut log = BufReader::new(forwarder.stderr.take().expect("it is a pipe"));
        let mut line = String::new();
        log.read_line(&mut line).expect("it says where it listens");
        assert!(line.contains("vsock port 10240"), "{line}");
        // The agent's key stands before the runtime's.
        containerd
            .reconfigure(|text| text.replacen("\nenable_tracing = false", "\nenable_tracing = true", 1));
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        let mut spans = Vec::new();
        let has = |spans: &[u8], word: &str| spans.windows(word.len()).any(|part| part == word.as_bytes());
        while !has(&spans, "StartSandbox") {
            spans.extend(posted(collector.accept().expect("the forwarder connects").0));
        }
        assert!(has(&spans, "kata-agent"), "{}", String::from_utf8_lossy(&spans));
        container.remove();
        forwarder.kill().expect("it runs");
        forwarder.wait().expect("it has ended");
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
        assert_eq!(printed("dmsetup", ["ls", "--target", "thin"]), "", "the pool is all there is");
        containerd.stop(nix::sys::signal::Signal::SIGTERM);
        pool.remove();
        containerd.start_again();
    });
}

/// With KVM each virtual CPU has a thread; under emulation QEMU 7.2 runs both on one.
#[test]
fn two_virtual_cpus_are_on_a_cpu_of_the_host_each() {
    kata_test(|containerd| {
        containerd.configure(&[("enable_vcpus_pinning", "true")]);
        let container = containerd.container().spec(|spec| {
            spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
            spec["linux"]["resources"]["cpu"] = json!({ "cpus": "0-1" });
        });
        let container = container.start();
        let vmm = containerd.processes_of("qemu-system-x86_64").remove(0);
        let of_vcpus = || ["CPU 0/", "CPU 1/"].map(|thread| vmm.may_run_on(thread));
        eventually("one is too few", Duration::from_secs(60), || of_vcpus() == ["0-1", ""]);
        let two = json!({ "cpu": { "quota": 200_000, "period": 100_000 } });
        container.update(&two).expect("the VM grows, and the CPUs are what they were");
        eventually("each has one", Duration::from_secs(60), || of_vcpus() == ["0", "1"]);
        container.update(&json!({ "cpu": { "cpus": "1" } })).expect("the host has it");
        eventually("there are not enough", Duration::from_secs(60), || of_vcpus() == ["1", "1"]);
        container.remove();
    });
}

/// With `cargo xtask lab test --systemd`.
mod systemd {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use kata_e2e::proto::PodSandboxConfig;
    use kata_e2e::{Cri, Pod, Process, eventually, kata_cri_test};

    use super::printed;

    const LIMIT: Duration = Duration::from_secs(120);
    const SLICE: &str = "kata-lab.slice";
    const POD: &str = "/kata.slice/kata-lab.slice";

    /// A scenario that sees systemd's directory: the test's own `/run` is empty.
    fn by_systemd(scenario: impl FnOnce(&Cri<'_>) + Send) {
        kata_cri_test(|cri| {
            symlink("/proc/1/root/run/systemd", "/run/systemd").expect("/run is the test's own");
            assert!(Path::new("/run/systemd/system").is_dir(), "this host is not run by systemd");
            printed("systemctl", ["start", SLICE]);
            scenario(cri);
            // With the slices below it.
            printed("systemctl", ["stop", "kata.slice"]);
            fs::remove_file("/run/systemd").expect("it was made above");
        });
    }

    /// As the kubelet does with systemd's driver.
    fn in_a_slice(config: &mut PodSandboxConfig) {
        config.linux.as_mut().expect("a pod of Linux").cgroup_parent = POD.to_owned();
    }

    fn apart(config: &mut PodSandboxConfig) {
        let name = "io.katacontainers.config.runtime.sandbox_cgroup_only";
        config.annotations.insert(name.to_owned(), "false".to_owned());
    }

    fn scope(pod: &Pod<'_>) -> String {
        format!("cri-containerd-{}.scope", pod.id())
    }

    fn directory(cgroup: &str) -> PathBuf {
        Path::new("/sys/fs/cgroup").join(cgroup.trim_start_matches('/'))
    }

    /// In which cgroup each process of these programs is.
    fn places(cri: &Cri<'_>, programs: &[&str]) -> Vec<String> {
        let found = programs.iter().flat_map(|program| cri.containerd.processes_of(program));
        let place = |process: Process| fs::read_to_string(format!("/proc/{}/cgroup", process.pid));
        found
            .map(|process| place(process).expect("it runs").trim().trim_start_matches("0::").to_owned())
            .collect()
    }

    fn shown(unit: &str, property: &str) -> String {
        printed("systemctl", ["show", "--value", "--property", property, unit])
    }

    #[test]
    fn systemd_knows_the_scope_of_a_pod() {
        by_systemd(|cri| {
            let pod = cri.pod().with(in_a_slice).run();
            let (unit, own) = (scope(&pod), format!("{POD}/{}", scope(&pod)));
            let places = places(cri, &["containerd-shim-kata-v2", "qemu-system-x86_64", "virtiofsd"]);
            assert!(places.len() >= 3 && places.iter().all(|place| *place == own), "{places:?}");
            let expected = [
                ("Slice", SLICE),
                ("ActiveState", "active"),
                ("Delegate", "yes"),
                ("TasksMax", "infinity"),
                ("Description", &format!("Kata Containers sandbox {}", pod.id())),
            ];
            for (property, value) in expected {
                assert_eq!(shown(&unit, property), value, "{property}");
            }
            let controllers = || fs::read_to_string(directory(&own).join("cgroup.controllers")).unwrap();
            let before = controllers();
            assert!(before.contains("memory") && before.contains("cpu"), "{before}");
            printed("systemctl", ["daemon-reload"]);
            assert_eq!(controllers(), before);
            pod.remove();
            assert_eq!(shown(&unit, "LoadState"), "not-found");
            assert!(!directory(&own).exists());
        });
    }

    #[test]
    fn systemd_knows_the_scope_of_a_vmm_that_is_apart() {
        by_systemd(|cri| {
            let pod = cri.pod().with(in_a_slice).with(apart).run();
            let own = format!("{POD}/{}", scope(&pod));
            assert_eq!(places(cri, &["qemu-system-x86_64"]), std::slice::from_ref(&own));
            let overhead = format!("/kata.slice/kata-overhead.slice/kata-{}.scope", pod.id());
            let rest = places(cri, &["containerd-shim-kata-v2", "virtiofsd"]);
            assert!(rest.len() >= 2 && rest.iter().all(|place| *place == overhead), "{rest:?}");
            pod.remove();
            assert!(!directory(&own).exists() && !directory(&overhead).exists());
        });
    }

    #[test]
    fn a_killed_shim_leaves_no_scope() {
        by_systemd(|cri| {
            let pod = cri.pod().with(in_a_slice).run();
            let unit = scope(&pod);
            assert_eq!(shown(&unit, "ActiveState"), "active");
            cri.containerd.processes_of("containerd-shim-kata-v2").iter().for_each(Process::kill);
            eventually("its scope is gone", LIMIT, || shown(&unit, "LoadState") == "not-found");
            pod.remove();
        });
    }
}
