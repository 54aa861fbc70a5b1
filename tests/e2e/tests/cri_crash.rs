//! Pods whose processes, or containerd itself, are killed at each step of their life: they are stopped and removed as a
//! kubelet does it, and nothing is left.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use kata_e2e::proto::{ContainerState, PodSandboxState};
use kata_e2e::{Cri, NOBODY_CALLED, Pod, PodContainer, Process, Steady, as_soon_as, cri_test, kata_cri_test};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Within this each step is reached, each call answered and each pod removed, on a busy machine, too.
const LIMIT: Duration = Duration::from_secs(60);
const STATES: &str = "/run/kata";
const NAMESPACES: &str = "/run/netns";
/// Ends by SIGTERM, and says when there is a file `/up`.
const WORKLOAD: &str = "trap 'exit 0' TERM; while [ ! -e /up ]; do sleep 0.1 & wait; done; echo up; \
                        while :; do sleep 1000 & wait; done";

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Shim,
    Qemu,
    Virtiofsd,
    Containerd,
}

/// What containerd is doing meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Run,
    Create,
    Start,
    /// Nothing: the pod and its container run.
    Rest,
    Exec,
    Stop,
    Remove,
}

/// A moment in a pod's life.
struct Step {
    name: &'static str,
    call: Call,
    reached: fn(&Cri<'_>) -> bool,
}

const fn step(name: &'static str, call: Call, reached: fn(&Cri<'_>) -> bool) -> Step {
    Step { name, call, reached }
}

/// containerd makes a pod, before it has a task.
const BEFORE: [Step; 1] =
    [step("the network namespace is there", Call::Run, |_| !entries(Path::new(NAMESPACES)).is_empty())];

/// What containerd says when two of its requests take the same pod's network away: the bridge plugin deletes an interface that
/// it has just found, and that the other has deleted; or it enters a namespace that the other has unmounted, so that a file of
/// tmpfs is left. So it is with any runtime.
const NETWORK_GONE: [&str; 3] = [
    "plugin type=\"bridge\" failed (delete): failed to delete \"eth0\": no such device",
    "plugin type=\"bridge\" failed (delete): unknown FS magic on \"/var/run/netns/",
    "plugin type=\"loopback\" failed (delete): unknown FS magic on \"/var/run/netns/",
];

/// The pod's first task is made.
const MAKING: [Step; 2] = [
    step("the bundle is there", Call::Run, |cri| !entries(&cri.bundles()).is_empty()),
    step("the shim has an address", Call::Run, |cri| {
        entries(&cri.bundles()).iter().any(|bundle| bundle.join("address").exists())
    }),
];

/// The VM is made, as its intent log tells.
const MAKING_VM: [Step; 5] = [
    step("the intent log is there", Call::Run, |_| log_has("owner")),
    step("the cgroup is announced", Call::Run, |_| log_has("kata_")),
    step("the share is announced", Call::Run, |_| log_has("virtiofsd.sock")),
    step("virtiofsd is announced", Call::Run, |_| log_has("libexec/virtiofsd")),
    step("the network is announced", Call::Run, |_| log_has("ingress")),
];

/// There is a VM.
const BOOTING: [Step; 4] = [
    step("the VMM is announced", Call::Run, |_| log_has("qemu-system")),
    step("the VMM has opened its console", Call::Run, |_| state_has("console.log")),
    step("the guest boots", Call::Run, |_| log_has("resolv.conf") || state_has("timeline.json")),
    step("the guest has answered", Call::Run, |_| state_has("timeline.json")),
];

/// The pod has a container.
const LIVING: [Step; 5] = [
    step("the container is being created", Call::Create, |_| true),
    step("the container is being started", Call::Start, |_| true),
    step("the container has a bundle", Call::Start, |cri| entries(&cri.bundles()).len() > 1),
    step("the container runs", Call::Rest, |_| true),
    step("a program runs in the container", Call::Exec, |_| true),
];

const LIVING_VM: [Step; 1] =
    [step("the container's files are announced", Call::Start, |_| log_has("0-hostname"))];

/// The pod goes.
const ENDING: [Step; 1] = [step("the pod is being stopped", Call::Stop, |_| true)];

const ENDING_VM: [Step; 2] = [
    step("the container's files are gone", Call::Stop, |_| !is_pending("0-hostname")),
    step("the VMM is gone", Call::Stop, |_| !is_pending("qemu-system")),
];

/// The pod's processes have gone.
const REMOVING: [Step; 1] = [step("the pod is being removed", Call::Remove, |_| true)];

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn state_has(file: &str) -> bool {
    entries(Path::new(STATES)).iter().any(|state| state.join(file).exists())
}

fn log() -> String {
    let states = entries(Path::new(STATES)).into_iter();
    states.filter_map(|state| fs::read_to_string(state.join("intents")).ok()).collect()
}

fn log_has(word: &str) -> bool {
    log().contains(word)
}

/// Whether the log announces such a thing, and does not strike it out.
fn is_pending(word: &str) -> bool {
    let log = log();
    let announced = log.lines().filter(|line| line.contains(word) && line.contains("\"will\""));
    let numbers = announced.filter_map(|line| line.split_once("\"id\":")?.1.split(',').next());
    numbers.into_iter().any(|number| !log.contains(&format!("{{\"done\":{number}}}")))
}

/// The shim's servers, without the short-lived actions.
fn shims(cri: &Cri<'_>) -> Vec<Process> {
    let is_server = |process: &Process| {
        let mut words = process.command.split(' ');
        let program = words.next().unwrap_or_default();
        program.contains("containerd-shim-") && words.all(|word| word != "start" && word != "delete")
    };
    cri.containerd.processes().into_iter().filter(is_server).collect()
}

impl Victim {
    /// Kills it, as soon as it is there if it is about to come: until the call is over. False: there is none any more.
    fn kill(self, cri: &Cri<'_>, is_over: IsOver<'_>) -> bool {
        let find = || match self {
            Self::Shim => shims(cri),
            Self::Qemu => cri.containerd.processes_of("qemu-system-x86_64"),
            Self::Virtiofsd => cri.containerd.processes_of("virtiofsd"),
            Self::Containerd => Vec::new(),
        };
        if self == Self::Containerd {
            cri.kill_containerd();
            return true;
        }
        let mut found = Vec::new();
        as_soon_as(LIMIT, || {
            let no_more_will_come = is_over();
            found = find();
            no_more_will_come || !found.is_empty()
        });
        found.iter().for_each(Process::kill);
        !found.is_empty()
    }
}

/// Whether the call has been answered.
type IsOver<'a> = &'a dyn Fn() -> bool;

/// Makes a pod and all that comes before `call`, then does `meanwhile` while containerd carries out the call. How that
/// ends does not matter, but it must end. Returns why the pod could not be run, if it could not.
fn live(cri: &Cri<'_>, call: Call, meanwhile: impl FnOnce(IsOver<'_>) + Send) -> String {
    let mut failure = String::new();
    if call == Call::Run {
        during(|| failure = cri.pod().try_run().err().unwrap_or_default(), meanwhile);
    } else {
        live_on(cri, call, meanwhile);
    }
    failure
}

/// As [`live`], for the calls after the first.
fn live_on(cri: &Cri<'_>, call: Call, meanwhile: impl FnOnce(IsOver<'_>) + Send) {
    let pod = cri.pod().run();
    let recipe = pod.container("main").shell(WORKLOAD);
    if call == Call::Create {
        return during(|| drop(recipe.try_create()), meanwhile);
    }
    let container = recipe.create();
    if call == Call::Start {
        return during(|| drop(container.try_start()), meanwhile);
    }
    container.start();
    match call {
        Call::Exec => {
            let line = ["/bin/sh", "-c", "touch /up; exec sleep 1000"];
            let exec = || drop(container.exec_within(Duration::from_secs(30), line));
            during(exec, |is_over| {
                container.wait_for_line("up");
                meanwhile(is_over);
            });
        }
        Call::Stop => during(|| drop(pod.try_stop()), meanwhile),
        Call::Remove => {
            pod.stop();
            during(|| drop(pod.try_remove_only()), meanwhile);
        }
        _ => meanwhile(&|| true),
    }
}

fn during(call: impl FnOnce() + Send, meanwhile: impl FnOnce(IsOver<'_>)) {
    thread::scope(|scope| {
        let call = scope.spawn(call);
        meanwhile(&|| call.is_finished());
        call.join().expect("the call is answered");
    });
}

/// Kills the victim at the step; the pod is removed, and nothing is left.
fn crash(cri: &Cri<'_>, steady: &Steady, victim: Victim, step: &Step) {
    let name = step.name;
    let mut killed = Instant::now();
    let failure = live(cri, step.call, |is_over| {
        assert!(as_soon_as(LIMIT, || (step.reached)(cri)), "never: {name}");
        let there = victim.kill(cri, is_over);
        assert!(there || matches!(step.call, Call::Stop), "no {victim:?} when {name}");
        killed = Instant::now();
        if victim == Victim::Containerd {
            cri.start_containerd_again();
        }
    });
    let failures = cri.remove_as_kubelet();
    let took = killed.elapsed();
    assert_eq!(failures, Vec::<String>::new(), "{victim:?} killed when {name}");
    assert!(took < LIMIT, "{victim:?} killed when {name}: gone only after {took:?}");
    if victim == Victim::Containerd {
        tidy_up_after_containerd(cri, step.call);
    }
    if victim == Victim::Shim && failure.contains(NOBODY_CALLED) {
        be_swept_by_the_next(cri);
    }
    let left = steady.left(cri);
    assert_eq!(left, Vec::<String>::new(), "left, {victim:?} killed when {name}");
}

/// The next sandbox's server sweeps what one has left of which nobody told the runtime, and its socket when that is a
/// minute old.
fn be_swept_by_the_next(cri: &Cri<'_>) {
    let next = cri.pod().run();
    let swept = as_soon_as(LIMIT, || entries(Path::new(STATES)).len() == 1);
    assert!(swept, "the remains of a dead sandbox are not swept: {:?}", entries(Path::new(STATES)));
    next.remove();
    for socket in entries(Path::new("/run/containerd/s")) {
        if UnixStream::connect(&socket).is_err() {
            fs::remove_file(socket).expect("it is there");
        }
    }
}

/// What containerd itself leaves when it is killed, with any runtime: the network namespace of a pod that it has not
/// written down yet; and bundles of tasks that it has not, until it starts the next time.
fn tidy_up_after_containerd(cri: &Cri<'_>, call: Call) {
    if call == Call::Run {
        for namespace in entries(Path::new(NAMESPACES)) {
            let name = namespace.file_name().expect("an entry has a name");
            assert!(
                Command::new("ip")
                    .args(["netns", "delete"])
                    .arg(name)
                    .status()
                    .is_ok_and(|status| status.success())
            );
        }
    }
    if !entries(&cri.bundles()).is_empty() {
        cri.kill_containerd();
        cri.start_containerd_again();
    }
}

fn crash_at_each<'s>(cri: &Cri<'_>, victim: Victim, steps: impl IntoIterator<Item = &'s Step>) {
    let steady = cri.steady();
    for step in steps {
        let begun = Instant::now();
        crash(cri, &steady, victim, step);
        println!("{:>7.1?} {victim:?} killed when {}", begun.elapsed(), step.name);
    }
}

#[test]
fn a_pod_whose_shim_is_killed_is_removed() {
    cri_test(|cri| crash_at_each(cri, Victim::Shim, LIVING.iter().chain(&ENDING)));
}

/// runc's shim leaves its socket when it is killed as it comes.
#[test]
fn a_pod_whose_shim_is_killed_while_its_vm_comes_or_goes_is_removed() {
    let steps = || MAKING.iter().chain(&MAKING_VM).chain(&BOOTING).chain(&LIVING_VM).chain(&ENDING_VM);
    kata_cri_test(|cri| crash_at_each(cri, Victim::Shim, steps()));
}

#[test]
fn a_pod_whose_qemu_is_killed_is_removed() {
    let steps = || BOOTING.iter().chain(&LIVING).chain(&LIVING_VM).chain(&ENDING);
    kata_cri_test(|cri| crash_at_each(cri, Victim::Qemu, steps()));
}

#[test]
fn a_pod_whose_virtiofsd_is_killed_is_removed() {
    let steps = || MAKING_VM[3..].iter().chain(&BOOTING).chain(&LIVING).chain(&LIVING_VM).chain(&ENDING);
    kata_cri_test(|cri| crash_at_each(cri, Victim::Virtiofsd, steps()));
}

#[test]
fn a_pod_whose_containerd_is_killed_is_removed() {
    let steps = || BEFORE.iter().chain(&LIVING).chain(&ENDING).chain(&REMOVING);
    cri_test(|cri| crash_at_each(cri, Victim::Containerd, steps()));
}

/// containerd forgets a shim whose task it has not made. runc's stays for ever.
#[test]
fn a_pod_whose_containerd_is_killed_while_its_task_is_made_is_removed() {
    kata_cri_test(|cri| crash_at_each(cri, Victim::Containerd, MAKING.iter().chain(&MAKING_VM)));
}

#[test]
fn a_pod_whose_containerd_is_killed_while_its_vm_comes_or_goes_is_removed() {
    let steps = || BOOTING.iter().chain(&LIVING_VM).chain(&ENDING_VM);
    kata_cri_test(|cri| crash_at_each(cri, Victim::Containerd, steps()));
}

#[test]
fn a_pod_outlives_a_killed_containerd() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let count = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.2; done";
        let container = pod.container("main").shell(count).start();
        container.wait_for_line("2");
        let boot = container.shell("cat /proc/sys/kernel/random/boot_id");
        cri.kill_containerd();
        cri.start_containerd_again();
        assert_eq!(pod.status().state(), PodSandboxState::SandboxReady);
        assert_eq!(container.status().state(), ContainerState::ContainerRunning);
        assert_eq!(container.shell("cat /proc/sys/kernel/random/boot_id"), boot);
        let seen = container.log().len();
        container.wait_for_line(&(seen + 5).to_string());
        container.stop(0);
        assert_eq!(container.status().state(), ContainerState::ContainerExited);
        assert_eq!(cri.remove_as_kubelet(), Vec::<String>::new());
    });
}

#[test]
fn a_pod_whose_vm_hangs_is_stopped_in_time() {
    kata_cri_test(|cri| {
        let pod = cri.pod().run();
        let _container: PodContainer<'_> = pod.container("main").idle().start();
        for vmm in cri.containerd.processes_of("qemu-system-x86_64") {
            kill(Pid::from_raw(vmm.pid), Signal::SIGSTOP).unwrap();
        }
        let begun = Instant::now();
        pod.remove();
        // The guest has 30 s to take a SIGKILL: half a minute before a kubelet gives up.
        assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    });
}

#[test]
fn a_pod_is_removed_whose_shim_was_deleted_while_it_served() {
    kata_cri_test(|cri| {
        let pod = cri.pod().run();
        let _container: PodContainer<'_> = pod.container("main").idle().start();
        cri.delete_by_action(&pod);
        assert_eq!(shims(cri), []);
        assert_eq!(cri.remove_as_kubelet(), Vec::<String>::new());
    });
}

#[test]
fn a_pod_is_stopped_by_several_at_once() {
    cri_test(|cri| {
        let pod: &Pod<'_> = &cri.pod().run();
        let _container: PodContainer<'_> = pod.container("main").idle().start();
        thread::scope(|scope| {
            let stops: Vec<_> = (0..4).map(|_| scope.spawn(|| pod.try_stop())).collect();
            for stop in stops {
                let failure = stop.join().unwrap().err().unwrap_or_default();
                let network_gone = NETWORK_GONE.iter().any(|words| failure.contains(words));
                assert!(failure.is_empty() || network_gone, "{failure}");
            }
        });
        assert_eq!(pod.status().state(), PodSandboxState::SandboxNotready);
        pod.remove();
    });
}

#[test]
fn a_running_pod_is_removed_without_having_been_stopped() {
    cri_test(|cri| {
        let pod = cri.pod().run();
        let _container: PodContainer<'_> = pod.container("main").idle().start();
        pod.try_remove_only().unwrap();
        assert!(cri.pods().is_empty(), "{:?}", cri.pods());
    });
}
