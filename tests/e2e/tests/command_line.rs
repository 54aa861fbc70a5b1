//! `kata-runtime list`, `inspect`, `logs`, `log-level` and `collect-data`, against living, ending and dead sandboxes.

use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kata_e2e::{Container, Containerd, Finished, eventually, kata_test};
use serde_json::Value;

const QEMU: &str = "qemu-system-x86_64";
const SHIM: &str = "containerd-shim-kata-v2";
const LIMIT: Duration = Duration::from_secs(20);

fn sleeper(containerd: &Containerd) -> Container<'_> {
    containerd.container().command(["/bin/sleep", "1000"]).start()
}

/// `kata-runtime` with these words and the container's id for `ID`.
fn runtime(containerd: &Containerd, container: &Container<'_>, words: &str) -> Finished {
    let words = words.split(' ').map(|word| if word == "ID" { container.id() } else { word });
    containerd.kata_runtime(words)
}

fn json(containerd: &Containerd, container: &Container<'_>, words: &str) -> Value {
    serde_json::from_str(&runtime(containerd, container, words).ok().text()).expect("JSON")
}

#[test]
fn a_living_container_is_listed_and_seen_from_all_sides() {
    kata_test(|containerd| {
        let container = sleeper(containerd);
        let vmm = containerd.processes_of(QEMU)[0].pid;
        let row = &json(containerd, &container, "list --json")[0];
        assert_eq!((row["id"].as_str(), row["status"].as_str()), (Some(container.id()), Some("running")));
        assert_eq!(row["pid"], vmm);
        assert!(row["bundle"].as_str().is_some_and(|bundle| bundle.ends_with(container.id())), "{row}");

        let seen = json(containerd, &container, "inspect ID --json");
        assert_eq!(seen["silent"], serde_json::json!([]), "{seen:#}");
        assert_eq!(seen["shim"]["status"], "running");
        assert!(seen["containers"][0]["processes"][0]["pid"].as_u64().is_some_and(|pid| pid > 0), "{seen:#}");
        let names: Vec<&str> =
            seen["processes"].as_array().expect("a list").iter().filter_map(|p| p["name"].as_str()).collect();
        assert!([SHIM, QEMU, "virtiofsd"].iter().all(|name| names.contains(name)), "{names:?}");
        let tree = runtime(containerd, &container, "inspect ID").ok().text();
        assert!(tree.contains("├─ status: running") && tree.contains("intent log"), "{tree}");
    });
}

#[test]
fn the_logs_of_guest_and_shim_are_in_one_order() {
    kata_test(|containerd| {
        let container = sleeper(containerd);
        let text = runtime(containerd, &container, "logs ID").ok().text();
        let launched = text.find("msg=Launching").expect("the shim's first words");
        let created = text.find("msg=\"container created\"");
        assert!(created.is_none_or(|created| created > launched), "{text}");
        let times: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
        assert!(times.is_sorted(), "{text}");
    });
}

#[test]
fn the_guests_console_is_logged_as_soon_as_the_level_is_debug() {
    kata_test(|containerd| {
        // That of the VM alone: its kernel says more then.
        containerd.reconfigure(|text| text.replacen("enable_debug = false", "enable_debug = true", 1));
        let container = sleeper(containerd);
        assert_eq!(runtime(containerd, &container, "log-level ID").ok().text(), "info");
        runtime(containerd, &container, "log-level ID debug").ok().done();
        assert_eq!(runtime(containerd, &container, "log-level ID").ok().text(), "debug");
        let lines = || runtime(containerd, &container, "logs ID --json").ok().text();
        eventually("the console is in the shim's log", LIMIT, || lines().contains("vmconsole="));
        runtime(containerd, &container, "log-level ID warn").ok().done();
        assert_eq!(runtime(containerd, &container, "log-level ID").ok().text(), "warn");
    });
}

/// Who may write to it can write much: the host's log takes a hundred lines.
#[test]
fn what_the_guest_warns_of_is_in_the_shims_log_and_not_without_end() {
    kata_test(|containerd| {
        let recipe = containerd.container().option("--privileged");
        let container = recipe.command(["/bin/sleep", "1000"]).start();
        let told = |words: &str| {
            let lines = runtime(containerd, &container, "logs ID").ok().text();
            lines.lines().filter(|line| line.contains("vmconsole=") && line.contains(words)).count()
        };
        container.shell("echo '<3>the disk is hot' > /dev/kmsg; echo '<6>all is well' > /dev/kmsg");
        eventually("the kernel's error is in the log", LIMIT, || told("the disk is hot") == 1);
        assert_eq!(told("all is well"), 0);
        container.shell("sysctl -q kernel.printk_devkmsg=on; for n in $(seq 300); do echo \"<3>hot $n\" > /dev/kmsg; done");
        let lines = || runtime(containerd, &container, "logs ID").ok().text();
        eventually("there is an end", LIMIT, || lines().contains("the guest says more than is logged here"));
        eventually("the console has all", LIMIT, || lines().contains("hot 300"));
        assert_eq!(told("hot"), 100);
    });
}

#[test]
fn the_agent_says_more_as_soon_as_its_level_is_lower() {
    kata_test(|containerd| {
        let container = sleeper(containerd);
        assert_eq!(runtime(containerd, &container, "log-level --agent ID").ok().text(), "info");
        runtime(containerd, &container, "log-level --agent ID trace").ok().done();
        assert_eq!(runtime(containerd, &container, "log-level --agent ID").ok().text(), "trace");
        assert_eq!(container.shell("echo alive"), "alive");
        let said = || runtime(containerd, &container, "logs ID").ok().text();
        eventually("the agent says more", LIMIT, || said().contains(" TRACE "));
    });
}

/// On a host without vhost-vsock the agent's only carrier is the shim's.
#[test]
fn the_agent_of_a_pod_is_asked_by_kata_agent_ctl() {
    kata_test(|containerd| {
        let container = sleeper(containerd);
        let agent = ["connect", "--sandbox", container.id()];
        let ask = |commands: &[&str]| containerd.product("kata-agent-ctl", agent.iter().chain(commands));
        let answers = ask(&["-c", "Check", "-c", "GetGuestDetails"]).ok().text();
        assert!(answers.starts_with("{\"status\": \"SERVING\"}\n"), "{answers}");
        assert!(answers.contains("agent_details"), "{answers}");
        ask(&["-c", "StatsContainer container_id=none"]).with_code(3).fails_because("no container none");
        assert_eq!(container.shell("echo alive"), "alive");
    });
}

/// Nothing was asked of its agent before, and nothing is left of it.
#[test]
fn a_vm_is_booted_for_kata_agent_ctl_alone() {
    kata_test(|containerd| {
        let path = containerd.reconfigure(|text| text);
        let vm = ["connect", "--vm", "qemu", "--config", path.to_str().expect("text")];
        let ask = |commands: &[&str]| containerd.product("kata-agent-ctl", vm.iter().chain(commands));
        let left = || std::fs::read_dir("/run/kata").into_iter().flatten().count();
        let answers = ask(&["-c", "Check", "-c", "CreateSandbox sandbox_id=one", "-c", "GetGuestDetails"]);
        let answers = answers.ok().text();
        assert!(answers.starts_with("{\"status\": \"SERVING\"}\n"), "{answers}");
        assert!(answers.contains("agent_details"), "{answers}");
        assert_eq!(left(), 0);
        ask(&["-c", "StatsContainer container_id=none"]).with_code(3).fails_because("container none");
        assert_eq!(left(), 0);
    });
}

#[test]
fn a_sandbox_whose_vm_was_killed_says_why_until_it_is_removed() {
    kata_test(|containerd| {
        let container = sleeper(containerd);
        containerd.processes_of(QEMU)[0].kill();
        eventually("the end is seen", LIMIT, || container.status() == "STOPPED");
        let row = &json(containerd, &container, "list --json")[0];
        assert_eq!((row["status"].as_str(), row["pid"].as_i64()), (Some("stopped"), Some(-1)));
        let seen = json(containerd, &container, "inspect ID --json");
        assert_eq!(seen["shim"]["status"], "stopped");
        assert!(seen["shim"]["reason"].is_string(), "{seen:#}");
        let archive = containerd.directory().join("data.tar");
        let words = format!("collect-data --output {} --json --sandbox ID", archive.display());
        assert!(runtime(containerd, &container, &words).ok().text().contains("inspect.json"));
        std::fs::remove_file(archive).expect("the archive");
        container.delete();
        assert_eq!(runtime(containerd, &container, "list --quiet").ok().text(), "");
        runtime(containerd, &container, "inspect ID").with_code(1).done();
    });
}

/// What asks something of a sandbox; `exec` asks its agent for a console, which is off.
const ASKING: [&str; 11] = [
    "list",
    "inspect ID",
    "logs ID",
    "log-level ID",
    "log-level --agent ID",
    "metrics ID",
    "network list ID",
    "network routes list ID",
    "iptables get ID",
    "timeline ID",
    "exec ID -- true",
];

/// The questions end with the scene, however that does.
struct Over<'s>(&'s AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Asks again and again until `over`. What was said at last.
fn ask_until(over: &AtomicBool, asked: &Barrier, ask: impl Fn() -> Finished) -> Finished {
    ask().done();
    asked.wait();
    loop {
        let is_over = over.load(Ordering::Acquire);
        let begun = Instant::now();
        let answer = ask();
        let took = begun.elapsed();
        assert!(took < LIMIT, "it hung for {took:?}: {answer:?}");
        assert!(answer.code == 0 || answer.code == 1 && !answer.complaint().is_empty(), "{answer:?}");
        assert!(!answer.complaint().contains("panicked"), "{answer:?}");
        if is_over {
            return answer;
        }
    }
}

/// Kills the first process of this program while every subcommand asks, until the pod is gone.
fn ask_while_it_dies(victim: &str) {
    kata_test(|containerd| {
        let container = sleeper(containerd);
        let (over, asked) = (AtomicBool::new(false), Barrier::new(ASKING.len() + 1));
        let container = &container;
        thread::scope(|scope| {
            let asking: Vec<_> = ASKING
                .map(|words| {
                    let (over, asked) = (&over, &asked);
                    scope.spawn(move || ask_until(over, asked, || runtime(containerd, container, words)))
                })
                .into_iter()
                .collect();
            let scene = Over(&over);
            asked.wait();
            containerd.processes_of(victim)[0].kill();
            // Without a shim there is no task any more.
            eventually("the end is seen", LIMIT, || container.status() != "RUNNING");
            if !container.status().is_empty() {
                container.task("delete", &["--force"]).done();
            }
            let state = Path::new("/run/kata").join(container.id());
            eventually("nothing is left", LIMIT, || !state.exists());
            drop(scene);
            for (words, asking) in ASKING.iter().zip(asking) {
                let last = asking.join().expect(words);
                assert_eq!(last.code, i32::from(*words != "list"), "{words}: {last:?}");
            }
        });
    });
}

#[test]
fn every_subcommand_ends_while_the_vm_dies() {
    ask_while_it_dies(QEMU);
}

#[test]
fn every_subcommand_ends_while_the_shim_dies() {
    ask_while_it_dies(SHIM);
}
