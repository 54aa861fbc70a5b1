//! A containerd of the test's own: private root, state and socket, the runtime under test on its `PATH`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::{Finished, Live, exit_within, run};
use crate::cri;
use crate::events::Events;
use crate::failure::fail;
use crate::host::{Host, MARK};
use crate::processes::{self, Process};
use crate::recipe::{Image, Recipe};
use crate::setup::Stage;
use crate::terminal::Terminal;

const READY_WITHIN: Duration = Duration::from_secs(60);
pub(crate) const RUN: &str = "/run/containerd-e2e";

/// What containerd says when the server died between the answer of its `start` and containerd's connection. It calls
/// nobody then.
pub const NOBODY_CALLED: &str = "start failed: dial unix";

/// A running containerd and the test's corner of the host around it.
pub struct Containerd {
    /// The runtime under test.
    pub stage: Stage,
    pub(crate) host: Host,
    configuration: Mutex<PathBuf>,
    child: Mutex<Child>,
    images: Mutex<Vec<Image>>,
    names: AtomicU32,
}

impl Containerd {
    /// Starts it in `host` with this configuration; returns when it answers.
    pub(crate) fn start(stage: Stage, host: Host, configuration: &str) -> Self {
        fs::create_dir(RUN).expect("/run is the test's own");
        fs::write(Path::new(RUN).join("config.toml"), configuration).expect("/run is the test's own");
        let child = spawn(&stage, &host, &stage.configuration);
        let configuration = Mutex::new(stage.configuration.clone());
        let (child, images, names) = (Mutex::new(child), Mutex::default(), AtomicU32::new(0));
        Self { stage, host, configuration, child, images, names }
    }

    /// A container to be run, in the busybox image unless another is asked for.
    pub fn container(&self) -> Recipe<'_> {
        Recipe::new(self)
    }

    /// Runs `ctr` with these arguments to its end.
    #[track_caller]
    pub fn ctr<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Finished {
        run(self.command().args(arguments))
    }

    /// Runs the product's `kata-runtime` with these arguments to its end.
    #[track_caller]
    pub fn kata_runtime<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Finished {
        self.product("kata-runtime", arguments)
    }

    /// Runs another of the product's programs with these arguments to its end.
    #[track_caller]
    pub fn product<S: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = S>,
    ) -> Finished {
        run(Command::new(self.stage.prefix.join("bin").join(program)).args(arguments))
    }

    /// Starts `kata-runtime`, its three streams in the test's hands.
    pub fn live_kata_runtime<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Live {
        Live::spawn(Command::new(self.stage.prefix.join("bin/kata-runtime")).args(arguments))
    }

    /// Starts `kata-runtime` on a terminal of so many columns and rows.
    pub fn kata_runtime_on_terminal<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
        (columns, rows): (u16, u16),
    ) -> Terminal {
        let mut command = Command::new(self.stage.prefix.join("bin/kata-runtime"));
        Terminal::open(command.args(arguments), columns, rows)
    }

    /// containerd's events from now on.
    pub fn events(&self) -> Events {
        Events::follow(self)
    }

    /// The runtime's processes: shims, VMMs, virtiofsd, workloads, whatever else was started by containerd.
    pub fn processes(&self) -> Vec<Process> {
        let containerd = self.pid();
        let all = processes::marked(&self.host.mark).into_iter();
        all.filter(|process| process.pid != containerd && !process.is("ctr")).collect()
    }

    /// The test's processes of this program.
    pub fn processes_of(&self, program: &str) -> Vec<Process> {
        self.processes().into_iter().filter(|process| process.is(program)).collect()
    }

    /// Where the task of a container has its bundle.
    pub(crate) fn bundle(&self, id: &str) -> PathBuf {
        bundles(&self.host.mark).join(id)
    }

    /// An empty directory on a real file system, removed with the test.
    pub fn directory(&self) -> PathBuf {
        let path = self.host.data().join(self.fresh_name());
        fs::create_dir(&path).expect("the test's directory is writable");
        path
    }

    /// Ends containerd with this signal; containers go on.
    pub fn stop(&self, signal: Signal) {
        let mut child = self.child();
        kill(pid_of(&child), signal).expect("containerd is our child");
        if exit_within(&mut child, READY_WITHIN).is_none() {
            fail(format_args!("containerd does not end by {signal}"));
        }
    }

    /// Starts containerd again after [`Containerd::stop`].
    pub fn start_again(&self) {
        *self.child() = spawn(&self.stage, &self.host, &self.kata_configuration());
    }

    /// Starts containerd again with a changed copy of the runtime's `configuration.toml`; returns the copy's path.
    pub fn reconfigure(&self, change: impl FnOnce(String) -> String) -> PathBuf {
        let text = fs::read_to_string(&self.stage.configuration).expect("the stage has a configuration");
        let path = self.directory().join("configuration.toml");
        fs::write(&path, change(text)).expect("the test's directory is writable");
        path.clone_into(&mut self.configuration.lock().expect("no holder panics"));
        self.stop(Signal::SIGTERM);
        self.start_again();
        path
    }

    /// Starts containerd again with a copy of the runtime's `configuration.toml` in which these keys have these values.
    pub fn configure(&self, values: &[(&str, &str)]) -> PathBuf {
        self.reconfigure(|text| values.iter().fold(text, |text, value| with(&text, *value)))
    }

    /// Starts containerd again with one of the plugins that tests do without, and its section of `config.toml`.
    pub fn enable(&self, plugin: &str, section: &str) {
        let path = Path::new(RUN).join("config.toml");
        let text = fs::read_to_string(&path).expect("/run is the test's own");
        let disabled = format!("  {plugin:?},\n");
        assert!(text.contains(&disabled), "{plugin} is not among those that are disabled");
        let text = text.replace(&disabled, "") + &format!("\n[plugins.{plugin:?}]\n{section}");
        fs::write(&path, text).expect("/run is the test's own");
        self.stop(Signal::SIGTERM);
        self.start_again();
    }

    /// The runtime's configuration as it is in use now.
    pub fn kata_configuration(&self) -> PathBuf {
        self.configuration.lock().expect("no holder panics").clone()
    }

    /// The end of containerd's log, in which the shims' logs are.
    pub fn log(&self) -> String {
        fs::read_to_string(log_path(&self.host)).unwrap_or_default()
    }

    /// `ctr`, pointed to this containerd and the test's namespace.
    pub(crate) fn command(&self) -> Command {
        self.command_in(&self.host.mark)
    }

    /// `ctr`, pointed to this containerd and a namespace of it.
    pub(crate) fn command_in(&self, namespace: &str) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(socket()).args(["--namespace", namespace]);
        command
    }

    /// Runs the `ctr` of a process that prints into a file: `command` makes it from the file's URI. What it printed is
    /// the result's standard output.
    ///
    /// With FIFOs `ctr` 1.6 loses what a process printed that ends before `ctr` notices that it has opened them.
    #[track_caller]
    pub(crate) fn run_logged(&self, command: impl FnOnce(&str) -> Command) -> Finished {
        let log = self.directory().join("log");
        let finished = run(&mut command(&format!("file://{}", log.display())));
        // Without a process there is none.
        let printed = fs::read(&log).unwrap_or_default();
        Finished { stdout: [printed, finished.stdout].concat(), ..finished }
    }

    /// A name nobody had in this test; it holds the test's mark.
    pub(crate) fn fresh_name(&self) -> String {
        format!("{}-{}", self.host.mark, self.names.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether containerd itself has the file open.
    pub(crate) fn has_open(&self, file: &Path) -> bool {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.pid())).into_iter().flatten().flatten();
        descriptors.into_iter().any(|entry| fs::read_link(entry.path()).is_ok_and(|open| open == file))
    }

    /// Imports the image unless this was done.
    #[track_caller]
    pub(crate) fn ensure_image(&self, image: Image) {
        let mut images = self.images.lock().expect("no holder panics");
        if !images.contains(&image) {
            let file = self.stage.cache.join("images").join(image.file());
            self.ctr([OsStr::new("images"), OsStr::new("import"), file.as_os_str()]).ok().done();
            images.push(image);
        }
    }

    /// Removes every container that is still there, as an operator would; complaints are the result.
    pub(crate) fn remove_containers(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let list = self.ctr(["containers", "ls", "-q"]).text();
        let tasks = self.ctr(["tasks", "ls", "-q"]).text();
        for name in list.lines() {
            if tasks.lines().any(|task| task == name) {
                complaints.extend(complaint(&self.ctr(["tasks", "delete", "--force", name])));
            }
            complaints.extend(complaint(&self.ctr(["containers", "rm", name])));
        }
        complaints
    }

    /// Ends containerd and removes its own files from `/run`.
    pub(crate) fn end(&self) {
        if matches!(self.child().try_wait(), Ok(None)) {
            self.stop(Signal::SIGTERM);
        }
        for directory in [Path::new(RUN).join("state"), self.host.data().join("root")] {
            let tasks = directory.join("io.containerd.runtime.v2.task");
            for namespace in [&self.host.mark, cri::NAMESPACE] {
                let mut left = fs::read_dir(tasks.join(namespace)).into_iter().flatten().flatten();
                if let Some(entry) = left.next() {
                    fail(format_args!("containerd left {}", entry.path().display()));
                }
            }
        }
        fs::remove_dir_all(RUN).unwrap_or_else(|e| fail(format_args!("Cannot remove {RUN}: {e}")));
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().expect("no holder panics")
    }

    pub(crate) fn pid(&self) -> i32 {
        pid_of(&self.child()).as_raw()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Only after a failure is it still there.
        let _ = child.kill();
        let _ = child.wait();
        remove_namespace_cgroups(&self.host.mark);
    }
}

fn spawn(stage: &Stage, host: &Host, configuration: &Path) -> Child {
    let notify_path = Path::new(RUN).join("notify.sock");
    let notify = UnixDatagram::bind(&notify_path).expect("/run is the test's own");
    let log = File::options().append(true).create(true).open(log_path(host));
    let log = log.expect("the test's directory is writable");
    let mut command = Command::new("containerd");
    command.arg("--config").arg(Path::new(RUN).join("config.toml"));
    command.env("PATH", stage.path()).env("KATA_CONF_FILE", configuration).env(MARK, &host.mark);
    command.env("NOTIFY_SOCKET", &notify_path);
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file can be had twice")).stderr(log);
    let child = command.spawn().unwrap_or_else(|e| fail(format_args!("Cannot run containerd: {e}")));
    wait_until_ready(&notify, host);
    fs::remove_file(&notify_path).expect("just made");
    child
}

/// containerd says `READY=1` to its service manager, which is us.
fn wait_until_ready(notify: &UnixDatagram, host: &Host) {
    let begun = Instant::now();
    notify.set_read_timeout(Some(READY_WITHIN)).expect("the time is not zero");
    let mut message = [0; 1024];
    loop {
        let length = notify.recv(&mut message).unwrap_or_default();
        if message[..length].starts_with(b"READY=1") {
            return;
        }
        if begun.elapsed() >= READY_WITHIN {
            let log = fs::read_to_string(log_path(host)).unwrap_or_default();
            fail(format_args!("containerd is not ready after {READY_WITHIN:?}:\n{log}"));
        }
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(rustix::process::Pid::from_child(child).as_raw_nonzero().get())
}

fn complaint(finished: &Finished) -> Option<String> {
    (finished.code != 0).then(|| finished.complaint())
}

/// Where tasks of a namespace have their bundles.
pub(crate) fn bundles(namespace: &str) -> PathBuf {
    Path::new(RUN).join("state/io.containerd.runtime.v2.task").join(namespace)
}

/// Where it listens.
pub(crate) fn socket() -> PathBuf {
    Path::new(RUN).join("containerd.sock")
}

/// Where it listens to shims.
pub(crate) fn ttrpc_socket() -> PathBuf {
    Path::new(RUN).join("containerd.sock.ttrpc")
}

fn log_path(host: &Host) -> PathBuf {
    host.data().join("containerd.log")
}

/// Makes a cgroup of this name in every hierarchy, as the kubelet does for a pod; it goes with the test.
pub(crate) fn make_cgroups(name: &str) {
    let root = Path::new("/sys/fs/cgroup");
    let unified = root.join("cgroup.controllers").exists();
    if unified {
        // They are on where systemd runs.
        let controllers = fs::write(root.join("cgroup.subtree_control"), "+cpu +cpuset +memory +pids");
        controllers.unwrap_or_else(|e| fail(format_args!("Cannot let cgroups have controllers: {e}")));
    }
    for hierarchy in if unified { vec![root.to_owned()] } else { subdirectories(root) } {
        let path = hierarchy.join(name);
        // A test that was killed long ago may have had this one's number.
        let made =
            fs::create_dir(&path).or_else(|_| fs::remove_dir(&path).and_then(|()| fs::create_dir(&path)));
        made.unwrap_or_else(|e| fail(format_args!("Cannot make a cgroup in {}: {e}", hierarchy.display())));
    }
}

/// runc makes a cgroup for the namespace in every hierarchy and leaves it to whoever owns the namespace.
///
/// After a failed test there may be containers' cgroups in it; [`crate::leftovers`] has looked at them before.
fn remove_namespace_cgroups(mark: &str) {
    let hierarchies = subdirectories(Path::new("/sys/fs/cgroup"));
    for hierarchy in hierarchies.into_iter().chain([PathBuf::from("/sys/fs/cgroup")]) {
        let namespace = hierarchy.join(mark);
        for cgroup in subdirectories(&namespace).into_iter().chain([namespace]) {
            // It is not there for a runtime that does not make it.
            let _ = fs::remove_dir(cgroup);
        }
    }
}

fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir())).map(|entry| entry.path()).collect()
}

/// The shipped file with another value of a key.
fn with(text: &str, (key, value): (&str, &str)) -> String {
    let is_it = |line: &&str| line.starts_with(&format!("{key} = "));
    let line = text.lines().find(is_it);
    let line = line.unwrap_or_else(|| fail(format_args!("The shipped configuration has no {key}")));
    text.replacen(&format!("\n{line}\n"), &format!("\n{key} = {value}\n"), 1)
}
