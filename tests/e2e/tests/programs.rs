//! Real servers and clients over the network of pods: from another pod, and from the host.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kata_e2e::proto::DnsConfig;
use kata_e2e::{Cri, Image, Pod, PodContainer, cri_test, eventually, fail, kata_cri_test};
use serde_json::Value;

/// A container that runs this line.
fn server<'p>(pod: &'p Pod<'_>, line: &str) -> PodContainer<'p> {
    pod.container("server").image(Image::Network).shell(line).start()
}

/// A container for clients.
fn idle<'p>(pod: &'p Pod<'_>) -> PodContainer<'p> {
    pod.container("client").image(Image::Network).command(["sleep", "1000"]).start()
}

/// What a client prints in the pod, and what it prints on the host; both must succeed.
#[track_caller]
fn from_pod_and_host(cri: &Cri<'_>, client: &PodContainer<'_>, line: &str) -> [String; 2] {
    [client.shell(line), cri.on_host(["/bin/sh", "-c", line]).ok().text()]
}

#[track_caller]
fn succeeds_at_last(client: &PodContainer<'_>, line: &str) {
    eventually(&format!("{line:?} succeeds"), Duration::from_secs(60), || client.exec_shell(line).code == 0);
}

#[test]
fn redis_serves_another_pod_and_the_host() {
    cri_test(|cri| {
        let pods = [cri.pod().run(), cri.pod().run()];
        let _redis = server(&pods[0], "exec redis-server --protected-mode no --save ''");
        let client = idle(&pods[1]);
        let address = &pods[0].addresses()[0];
        succeeds_at_last(&client, &format!("redis-cli -h {address} ping"));
        let line = format!("redis-benchmark -h {address} -n 2000 -c 20 -d 1000 -t set,get,lpush --csv");
        for text in from_pod_and_host(cri, &client, &line) {
            let tests = ["SET", "GET", "LPUSH"].map(|test| text.contains(&format!("\n\"{test}\",")));
            assert_eq!(tests, [true; 3], "{text}");
        }
        // Every element of either run.
        assert_eq!(client.shell(&format!("redis-cli -h {address} llen mylist")), "4000");
    });
}

const NGINX: &str = "printf '%s' 'daemon off; user root; error_log stderr; events { worker_connections 1024; } http { \
                     access_log off; server { listen 80 backlog=4096; listen [::]:80 backlog=4096; \
                     location / { default_type text/plain; return 200 hello; } } }' > /tmp/nginx.conf; \
                     exec nginx -c /tmp/nginx.conf";

#[test]
fn nginx_serves_another_pod_and_the_host() {
    cri_test(|cri| {
        let pods = [cri.pod().run(), cri.pod().run()];
        let _nginx = server(&pods[0], NGINX);
        let client = idle(&pods[1]);
        let [v4, v6] = [0, 1].map(|at| pods[0].addresses()[at].clone());
        for url in [format!("http://{v4}:80/"), format!("http://[{v6}]:80/")] {
            succeeds_at_last(&client, &format!("wrk -c 1 -t 1 -d 1 {url} | grep -q 'Requests/sec'"));
            for text in from_pod_and_host(cri, &client, &format!("wrk -c 10 -t 1 -d 2 {url}")) {
                let requests = text.lines().find_map(|line| line.trim().split_once(" requests in "));
                let requests = requests.and_then(|(count, _)| count.parse::<u32>().ok());
                assert!(requests.is_some_and(|count| count > 0), "{text}");
                assert!(!text.contains("Socket errors") && !text.contains("Non-2xx"), "{text}");
            }
        }
    });
}

/// A number of iperf3's summary of what was `sent` or `received`.
#[track_caller]
fn sum(report: &str, of: &str, key: &str) -> u64 {
    let report: Value = serde_json::from_str(report).expect("iperf3 writes JSON");
    let number = &report["end"][format!("sum_{of}")][key];
    number.as_u64().unwrap_or_else(|| fail(format_args!("No {key} {of}: {report}")))
}

#[test]
fn iperf3_measures_both_directions_and_datagrams() {
    cri_test(|cri| {
        let pods = [cri.pod().run(), cri.pod().run()];
        let _iperf3 = server(&pods[0], "exec iperf3 -s");
        let client = idle(&pods[1]);
        let [v4, v6] = [0, 1].map(|at| pods[0].addresses()[at].clone());
        // Between two clients the server listens anew, and refuses who comes then; a report in JSON is a success also then.
        let iperf3 = |arguments: &str| {
            format!(
                "for i in 1 2 3 4 5 6 7 8 9; do out=$(iperf3 --json -c {arguments}); \
                 case $out in *'\"error\"'*) sleep 1;; *) break;; esac; done; printf '%s' \"$out\""
            )
        };
        succeeds_at_last(&client, &format!("iperf3 -c {v4} -n 1"));
        for direction in [v4.clone(), format!("{v6} -R")] {
            for report in from_pod_and_host(cri, &client, &iperf3(&format!("{direction} -n 32M"))) {
                assert!(sum(&report, "sent", "bytes") >= 32 << 20, "{report}");
                // The client tells the end beside the stream: what is under way then is not counted.
                assert!(sum(&report, "received", "bytes") >= 16 << 20, "{report}");
            }
        }
        // They fit into the receiver's buffer, so that none may be lost, however long it does not get to run.
        for report in from_pod_and_host(cri, &client, &iperf3(&format!("{v4} -u -b 250K -n 100K"))) {
            assert!(sum(&report, "sent", "bytes") >= 100 << 10, "{report}");
            // As above: the last ones may come after the end.
            assert!(sum(&report, "received", "bytes") >= 50 << 10, "{report}");
            assert_eq!(sum(&report, "received", "lost_packets"), 0, "{report}");
        }
    });
}

#[test]
fn names_of_a_pods_server_are_found_by_datagram_and_by_stream() {
    cri_test(|cri| {
        let of_server = cri.pod().run();
        let line = "exec dnsmasq --keep-in-foreground --user=root --no-resolv --no-hosts --log-facility=- \
                    --address=/www.example.test/192.0.2.7 --address=/www.example.test/2001:db8::7";
        let _dnsmasq = server(&of_server, line);
        for options in [vec![], vec!["use-vc".to_owned()]] {
            let dns = DnsConfig {
                servers: of_server.addresses(),
                searches: vec!["example.test".to_owned()],
                options: options.clone(),
            };
            let pod = cri.pod().with(|config| config.dns_config = Some(dns)).run();
            let client = idle(&pod);
            let configured = client.shell("cat /etc/resolv.conf");
            assert_eq!(configured.contains("use-vc"), !options.is_empty(), "{configured}");
            succeeds_at_last(&client, "getent hosts www.example.test");
            assert!(client.shell("getent ahostsv4 www").contains("192.0.2.7"));
            assert!(client.shell("getent ahostsv6 www").contains("2001:db8::7"));
            assert_eq!(client.exec_shell("getent hosts nobody.example.test").code, 2);
        }
    });
}

/// Connections in a round, and how many of them begin in a second where the machine is fast enough.
const CONNECTIONS: u32 = 5000;
const RATE: u32 = 1000;
/// As many wait at the same time.
const CLIENTS: u32 = 16;

/// Connects, asks, reads the answer, and closes first, so that it is here where the connection lingers.
fn visit(address: &str) -> io::Result<()> {
    let address = address.parse().map_err(io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(30))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: pod\r\n\r\n")?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 1024]);
    while !answer.ends_with(b"\r\n\r\nhello") {
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => answer.extend_from_slice(&buffer[..count]),
        }
    }
    Ok(())
}

/// Makes that many connections, at a steady pace; tells what went wrong, and how long it took.
fn visits(address: &str, count: u32) -> (Vec<String>, Duration) {
    let (next, failures, begun) = (AtomicU32::new(0), Mutex::new(Vec::new()), Instant::now());
    let client = || loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= count {
            return;
        }
        pace(begun + Duration::from_secs(1) * number / RATE);
        if let Err(error) = visit(address) {
            failures.lock().expect("no holder panics").push(format!("{number}: {error}"));
        }
    };
    thread::scope(|scope| (0..CLIENTS).for_each(|_| drop(scope.spawn(client))));
    (failures.into_inner().expect("no holder panics"), begun.elapsed())
}

#[expect(clippy::disallowed_methods, reason = "a steady pace is what is wanted")]
fn pace(until: Instant) {
    thread::sleep(until.saturating_duration_since(Instant::now()));
}

/// How many files each process of the runtime has open.
fn open_files(cri: &Cri<'_>) -> Vec<(String, usize)> {
    let programs = ["containerd-shim-kata-v2", "qemu-system-x86_64", "virtiofsd"];
    let processes = programs.iter().flat_map(|program| cri.containerd.processes_of(program));
    let count = |pid: i32| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    processes.map(|process| (format!("{} {}", process.pid, process.command), count(process.pid))).collect()
}

/// What it is when two looks are the same: what is closed in the guest, the host closes a moment later.
fn settled<T: PartialEq>(look: impl Fn() -> T) -> T {
    let mut last = look();
    eventually("it comes to rest", Duration::from_secs(30), || {
        let now = look();
        let is_same = now == last;
        last = now;
        is_same
    });
    last
}

/// The pod's sockets; what its kernel remembers of connections; and the memory to be had, in KiB.
fn holdings(container: &PodContainer<'_>) -> (String, String, i64) {
    let memory = container.shell("grep MemAvailable: /proc/meminfo");
    let memory = memory.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number");
    let sockets = container.shell("cat /proc/net/sockstat /proc/net/sockstat6");
    // The memory of sockets is counted in pages, and some is kept.
    let lines = sockets.lines().map(|line| line.split(" mem ").next().unwrap_or_default());
    let sockets = lines.collect::<Vec<_>>().join("\n");
    (sockets, container.shell("cat /proc/sys/net/netfilter/nf_conntrack_count 2>&1 || :"), memory)
}

#[test]
fn thousands_of_short_connections_leave_nothing_behind() {
    kata_cri_test(|cri| {
        let pod = cri.pod().run();
        let nginx = server(&pod, NGINX);
        let address = format!("{}:80", pod.addresses()[0]);
        eventually("nginx answers", Duration::from_secs(60), || visit(&address).is_ok());
        // What is allocated once is there after the first round.
        let (failures, _) = visits(&address, CONNECTIONS / 5);
        assert!(failures.is_empty(), "{failures:?}");
        // virtiofsd has the programs open that the look at the pod runs.
        let (sockets, connections, memory) = holdings(&nginx);
        let files = settled(|| open_files(cri));
        let (failures, took) = visits(&address, CONNECTIONS);
        println!("{:.0} connections per second", f64::from(CONNECTIONS) / took.as_secs_f64());
        assert!(failures.is_empty(), "{} failed: {:?}", failures.len(), &failures[..failures.len().min(10)]);
        let limit = Duration::from_secs(30);
        eventually("the runtime has closed its files", limit, || open_files(cri) == files);
        eventually("the pod is as it was", limit, || {
            let now = holdings(&nginx);
            now.0 == sockets && now.1 == connections && now.2 > memory - 16 * 1024
        });
    });
}
