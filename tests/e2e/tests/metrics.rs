//! Figures of a living sandbox: they are there, they are few, and they mean what they say.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kata_e2e::{Container, Containerd, Network, RootMount, eventually, fail, kata_cri_test, kata_test};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

const QEMU: &str = "qemu-system-x86_64";
const SHIM: &str = "containerd-shim-kata-v2";

/// A scrape of one sandbox may have so many bytes unasked.
const BRIEF: usize = 10_000;

/// Upstream's names that promtool would have named in another way. Nothing else may be wrong.
const UPSTREAMS_WAYS: [&str; 6] = [
    "kata_agent_scrape_count",
    "kata_shim_agent_rpc_durations_histogram_milliseconds",
    "kata_shim_rpc_durations_histogram_milliseconds",
    "kata_container_memory_failcnt",
    "kata_agent_rpc_microseconds_total",
    "kata_guest_vm_stat",
];

/// The body of an answer with status 200.
#[track_caller]
fn get(sandbox: &str, path: &str) -> String {
    let socket = Path::new("/run/kata").join(sandbox).join("shim-monitor.sock");
    let mut stream = UnixStream::connect(&socket).unwrap_or_else(|e| fail(format_args!("{socket:?}: {e}")));
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).expect("the shim reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the shim answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
    body.to_owned()
}

/// The figures by `name{labels}`.
struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    #[track_caller]
    fn of(sandbox: &str, path: &str) -> Self {
        let text = get(sandbox, path);
        let mut all = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| fail(format_args!("{line}")));
            let value = value.parse().unwrap_or_else(|_| fail(format_args!("{line}")));
            assert!(all.insert(series.to_owned(), value).is_none(), "{series} is told twice");
        }
        Self(all)
    }

    #[track_caller]
    fn all(sandbox: &str) -> Self {
        Self::of(sandbox, "/metrics?families=all")
    }

    fn find(&self, series: &str) -> Option<f64> {
        self.0.get(series).copied()
    }

    #[track_caller]
    fn get(&self, series: &str) -> f64 {
        self.find(series).unwrap_or_else(|| fail(format_args!("no {series} in {:#?}", self.0)))
    }

    fn has_family(&self, name: &str) -> bool {
        let is_of = |series: &String| {
            series.strip_prefix(name).is_some_and(|rest| {
                rest.is_empty() || ["{", "_bucket{", "_sum{"].iter().any(|next| rest.starts_with(next))
            })
        };
        self.0.keys().any(is_of)
    }
}

/// What grew between two scrapes.
#[track_caller]
fn growth(before: &Scrape, after: &Scrape, series: &str) -> f64 {
    after.get(series) - before.get(series)
}

fn sleeper(containerd: &Containerd) -> Container<'_> {
    containerd.container().command(["/bin/sleep", "1000"]).start()
}

/// Prometheus's own parser; what it has to say about names.
fn promtool(text: &str) -> (Option<i32>, String) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("Debian's package prometheus has promtool");
    promtool.stdin.take().expect("it is piped").write_all(text.as_bytes()).expect("promtool reads");
    let output = promtool.wait_with_output().expect("promtool ends");
    let words = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&words).into_owned())
}

#[test]
fn prometheus_reads_each_text_and_only_upstreams_names_are_unusual() {
    kata_test(|containerd| {
        let container = sleeper(containerd);
        for path in ["/metrics", "/metrics?families=all"] {
            let (code, words) = promtool(&get(container.id(), path));
            // 3: it can be read, but there is something to be said of names.
            assert!(code == Some(0) || code == Some(3), "{code:?} {words}");
            let unusual: Vec<&str> = words
                .lines()
                .filter(|line| !UPSTREAMS_WAYS.iter().any(|name| line.starts_with(&format!("{name} "))))
                .collect();
            assert!(unusual.is_empty(), "{path}: {unusual:#?}");
        }
    });
}

/// Upstream's list, but for what other VMMs and programs in Go have.
#[test]
fn each_of_upstreams_families_is_there_for_who_asks() {
    kata_test(|containerd| {
        let network = Network::with_veth("pod");
        let container = containerd.container().network(&network).command(["/bin/sleep", "1000"]).start();
        let scrape = Scrape::all(container.id());
        let process = ["io_stat", "proc_stat", "proc_status"];
        let of_process =
            ["agent", "hypervisor", "shim"].map(|who| process.map(|what| format!("{who}_{what}")));
        let others = "agent_process_cpu_seconds_total agent_process_max_fds agent_process_open_fds \
            agent_process_resident_memory_bytes agent_process_start_time_seconds \
            agent_process_virtual_memory_bytes agent_scrape_count agent_total_rss agent_total_time agent_total_vm \
            guest_cpu_time guest_load guest_meminfo guest_netdev_stat guest_tasks guest_vm_stat \
            hypervisor_fds hypervisor_netdev hypervisor_threads \
            shim_agent_rpc_durations_histogram_milliseconds shim_fds shim_netdev shim_pod_overhead_cpu \
            shim_pod_overhead_memory_in_bytes shim_process_cpu_seconds_total shim_process_max_fds \
            shim_process_open_fds shim_process_resident_memory_bytes shim_process_start_time_seconds \
            shim_process_virtual_memory_bytes shim_process_virtual_memory_max_bytes \
            shim_rpc_durations_histogram_milliseconds shim_threads";
        let wanted =
            of_process.into_iter().flatten().chain(others.split_ascii_whitespace().map(str::to_owned));
        let missing: Vec<_> = wanted.filter(|name| !scrape.has_family(&format!("kata_{name}"))).collect();
        assert!(missing.is_empty(), "{missing:#?} of {:#?}", scrape.0);
        for action in ["create", "start"] {
            let count =
                format!("kata_shim_rpc_durations_histogram_milliseconds_count{{action=\"{action}\"}}");
            assert!((scrape.get(&count) - 1.0).abs() < f64::EPSILON, "{action}");
        }
        let started = "kata_shim_agent_rpc_durations_histogram_milliseconds_count{action=\"grpc.StartContainerRequest\"}";
        assert!((scrape.get(started) - 1.0).abs() < f64::EPSILON);
    });
}

#[test]
fn a_scrape_of_a_pod_is_small_unless_all_is_asked_for() {
    kata_cri_test(|cri| {
        let pod = cri.pod().run();
        let containers: Vec<_> = (0..3).map(|n| pod.container(&format!("c{n}")).idle().start()).collect();
        let brief = get(pod.id(), "/metrics");
        assert!(brief.len() <= BRIEF, "{} bytes", brief.len());
        println!("a scrape of a pod of three has {} bytes", brief.len());
        let all = get(pod.id(), "/metrics?families=all");
        println!("with all families {} bytes", all.len());
        for container in &containers {
            assert!(all.contains(&format!("kata_container_threads{{container=\"{}\"}}", container.id())));
        }
        let mentioned = |id: &str| all.contains(&format!("{{container=\"{id}\"}}"));
        assert!(!mentioned(pod.id()), "nothing of the pause container is in the guest");
    });
}

/// A figure grows by as much as what it is taken from, which is looked at right before and after each of two scrapes.
#[track_caller]
fn grows_alike(what: &str, growth: f64, [before, since, until, after]: [f64; 4]) {
    let (least, most) = (until - since, after - before);
    assert!(growth > 0.0 && (least..=most).contains(&growth), "{what}: {growth}, not {least} to {most}");
}

/// Ticks that a guest has not been idle, as its kernel tells them.
fn guest_ticks(container: &Container<'_>) -> f64 {
    let line = container.shell("grep '^cpu ' /proc/stat");
    let numbers: Vec<f64> =
        line.split_whitespace().skip(1).map(|word| word.parse().expect("a number")).collect();
    // User, system, interrupts (`man 5 proc_stat`).
    [0, 2, 5, 6].iter().map(|place| numbers[*place]).sum()
}

/// Ticks of a process of the host.
fn process_ticks(pid: i32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let words: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    [11, 12].iter().map(|place| words[*place].parse::<f64>().expect("a number")).sum()
}

#[test]
fn who_burns_time_on_the_cpu_is_seen_burning_it() {
    kata_test(|containerd| {
        let container = sleeper(containerd);
        let vmm = containerd.processes_of(QEMU).remove(0).pid;
        let ticks = || (guest_ticks(&container), process_ticks(vmm));
        let (looked_before, before, looked_since) = (ticks(), Scrape::all(container.id()), ticks());
        // The first line of `times` tells the user and system time of the shell itself.
        let line = "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; times";
        let told = container.shell(&format!("sh -c '{line}' | head -n 1"));
        let (looked_until, after, looked_after) = (ticks(), Scrape::all(container.id()), ticks());
        let burnt: f64 = told.split_whitespace().map(seconds).sum();
        let container_cpu =
            format!("kata_container_cpu_usage_seconds_total{{container=\"{}\"}}", container.id());
        let counted = growth(&before, &after, &container_cpu);
        assert!(burnt > 0.1 && counted >= burnt * 0.9, "{counted} s of {told}");
        let looked = [looked_before, looked_since, looked_until, looked_after];
        let of_guest = |item: &str| {
            growth(&before, &after, &format!("kata_guest_cpu_time{{cpu=\"total\",item=\"{item}\"}}"))
        };
        let guest = ["user", "system", "softirq", "irq"].map(of_guest).iter().sum();
        grows_alike("the guest", guest, looked.map(|(guest, _)| guest));
        let of_vmm =
            |item: &str| growth(&before, &after, &format!("kata_hypervisor_proc_stat{{item=\"{item}\"}}"));
        let vmm = of_vmm("utime") + of_vmm("stime");
        grows_alike("the VMM", vmm, looked.map(|(_, vmm)| vmm));
    });
}

/// `0m1.25s`
fn seconds(word: &str) -> f64 {
    let (minutes, rest) = word.split_once('m').unwrap_or_else(|| fail(word));
    let seconds: f64 = rest.trim_end_matches('s').parse().unwrap_or_else(|_| fail(word));
    minutes.parse::<f64>().unwrap_or_else(|_| fail(word)) * 60.0 + seconds
}

#[test]
fn memory_that_is_written_is_the_containers_and_the_guests() {
    kata_test(|containerd| {
        let container = sleeper(containerd);
        let before = Scrape::all(container.id());
        container.shell("dd if=/dev/zero of=/dev/shm/x bs=1M count=20 2> /dev/null");
        let after = Scrape::all(container.id());
        let of_container = |name: &str| {
            growth(
                &before,
                &after,
                &format!("kata_container_memory_{name}{{container=\"{}\"}}", container.id()),
            )
        };
        let (bytes, slack) = (f64::from(20 << 20), f64::from(2 << 20));
        for name in ["usage_bytes", "working_set_bytes", "cache"] {
            assert!((of_container(name) - bytes).abs() < slack, "{name}: {}", of_container(name));
        }
        let shmem = growth(&before, &after, "kata_guest_meminfo{item=\"shmem\"}") * 1024.0;
        assert!((shmem - bytes).abs() < slack, "{shmem}");
        let overhead = after.get("kata_shim_pod_overhead_memory_in_bytes");
        let vmm = after.get("kata_hypervisor_proc_status{item=\"vmrss\"}") * 1024.0;
        let shim = after.get("kata_shim_process_resident_memory_bytes");
        assert!(overhead > 0.0 && overhead < vmm + shim, "{overhead} of {vmm} and {shim}");
    });
}

#[test]
fn what_is_written_to_a_disk_is_counted_by_disk_and_container() {
    kata_test(|containerd| {
        let ext4 = containerd.ext4_of_busybox();
        let recipe = containerd.container().spec(|spec| {
            spec["root"]["path"] = json!("rootfs");
            spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
        });
        let container = recipe.start_on(&[RootMount::new("ext4", &ext4, ["loop"])]);
        let before = Scrape::all(container.id());
        container.shell("dd if=/dev/zero of=/x bs=1M count=8 2> /dev/null; sync");
        let after = Scrape::all(container.id());
        let written = |scrape: &Scrape, name: &str, per: f64| -> f64 {
            let is_it = |series: &&String| series.starts_with(name);
            scrape.0.keys().filter(is_it).map(|series| scrape.get(series) * per).sum()
        };
        let disk = "kata_container_fs_writes_bytes_total{";
        let counted = written(&after, disk, 1.0) - written(&before, disk, 1.0);
        assert!(counted >= f64::from(8 << 20), "the container has written {counted}");
        let sectors = |scrape: &Scrape| -> f64 {
            let of_disks = scrape.0.keys().filter(|series| series.contains("item=\"sectors_written\""));
            of_disks.map(|series| scrape.get(series) * 512.0).sum()
        };
        let of_guest = sectors(&after) - sectors(&before);
        assert!(of_guest >= f64::from(8 << 20), "the guest has written {of_guest}");
    });
}

#[test]
fn packets_are_counted_in_the_guest_and_at_the_vmm() {
    kata_test(|containerd| {
        let network = Network::with_veth("pod");
        let container = containerd.container().network(&network).command(["/bin/sleep", "1000"]).start();
        let before = Scrape::all(container.id());
        container.shell("ping -c 5 -s 1000 -i 0.2 -W 5 10.7.0.1");
        let after = Scrape::all(container.id());
        let in_guest = |item: &str| {
            growth(&before, &after, &format!("kata_guest_netdev_stat{{interface=\"eth0\",item=\"{item}\"}}"))
        };
        for way in ["sent", "recv"] {
            let (packets, bytes) = (in_guest(&format!("{way}_packets")), in_guest(&format!("{way}_bytes")));
            assert!((5.0..50.0).contains(&packets) && bytes >= 5000.0, "{way}: {packets} with {bytes} bytes");
        }
        let of_veth = "kata_hypervisor_netdev{interface=\"eth0\",item=\"sent_packets\"}";
        assert!(growth(&before, &after, of_veth) >= 5.0);
    });
}

#[test]
fn a_guest_that_does_not_answer_costs_only_its_own_figures() {
    kata_test(|containerd| {
        let container = sleeper(containerd);
        let up = "kata_shim_agent_up";
        assert!(Scrape::of(container.id(), "/metrics").get(up) > 0.5);
        let vmm = Pid::from_raw(containerd.processes_of(QEMU)[0].pid);
        kill(vmm, Signal::SIGSTOP).expect("the VMM runs");
        let begun = Instant::now();
        let scrape = Scrape::of(container.id(), "/metrics");
        let took = begun.elapsed();
        let status = container.status();
        kill(vmm, Signal::SIGCONT).expect("the VMM is there");
        assert!(took < Duration::from_secs(4), "{took:?}");
        assert_eq!(status, "RUNNING");
        assert!(scrape.get(up) < 0.5 && !scrape.has_family("kata_guest_load"));
        assert!(scrape.has_family("kata_hypervisor_fds") && scrape.has_family("kata_shim_threads"));
        eventually("the guest tells its figures again", Duration::from_secs(20), || {
            Scrape::of(container.id(), "/metrics").has_family("kata_guest_load")
        });
    });
}

#[test]
fn a_dead_vm_leaves_the_shims_figures_and_a_deleted_sandbox_none() {
    kata_test(|containerd| {
        let container = sleeper(containerd);
        containerd.processes_of(QEMU)[0].kill();
        container.wait_until_stopped();
        let scrape = Scrape::of(container.id(), "/metrics");
        assert!(scrape.get("kata_shim_agent_up") < 0.5 && scrape.has_family("kata_shim_threads"));
        assert!(!scrape.has_family("kata_hypervisor_fds"), "{:#?}", scrape.0);
        let id = container.id().to_owned();
        container.delete();
        eventually("the sandbox is gone", Duration::from_secs(20), || {
            !Path::new("/run/kata").join(&id).exists()
        });
        containerd.kata_runtime(["metrics", &id]).fails_because("No sandbox in");
    });
}

#[test]
fn kata_runtime_prints_what_the_shim_says() {
    kata_test(|containerd| {
        let container = sleeper(containerd);
        let beginning = &container.id()[..container.id().len() - 1];
        let text = containerd.kata_runtime(["metrics", beginning]).ok().text();
        assert!(text.contains("kata_shim_agent_up 1") && !text.contains("kata_container_"), "{text}");
        let some =
            containerd.kata_runtime(["metrics", "--families", "kata_guest_load", beginning]).ok().text();
        assert!(some.contains("kata_guest_load{item=\"load15\"}") && !some.contains("kata_shim"), "{some}");
        containerd
            .kata_runtime(["metrics", "--families", "go_", beginning])
            .fails_because("selects no family");
    });
}

/// CPU time of all threads, as the scheduler counts it.
fn cpu_seconds(pid: i32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs").flatten();
    let schedstat = threads.filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok());
    let nanoseconds = schedstat.filter_map(|text| text.split_whitespace().next()?.parse::<f64>().ok());
    nanoseconds.sum::<f64>() / 1e9
}

#[test]
fn a_thousand_scrapes_do_not_make_the_shim_grow() {
    kata_test(|containerd| {
        let container = sleeper(containerd);
        let shim = containerd.processes_of(SHIM)[0].pid;
        let anonymous = || -> u64 {
            let status = fs::read_to_string(format!("/proc/{shim}/status")).expect("the shim runs");
            let line =
                status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("the kernel says so");
            line.split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("a number")
        };
        let scrape = |times: usize| (0..times).for_each(|_| drop(get(container.id(), "/metrics")));
        let at_first = anonymous();
        // Until every thread of the shim has scraped, and its heap has its size.
        scrape(1000);
        let before = anonymous();
        let vmm = containerd.processes_of(QEMU)[0].pid;
        let (cpu, begun) = ([shim, vmm].map(cpu_seconds), Instant::now());
        scrape(1000);
        let cost = [shim, vmm].map(cpu_seconds);
        let took = begun.elapsed();
        println!("1,000 scrapes in {took:?}: CPU seconds of shim and VMM from {cpu:?} to {cost:?}");
        let after = anonymous();
        println!(
            "anonymous memory of the shim: {at_first} KiB unasked, {before} after 1,000, {after} after 2,000"
        );
        assert!(after <= before + 64, "{before} KiB became {after} KiB");
    });
}
