//! A container to be run: image, options, command; and the ways to run it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::command::{Finished, Live, run};
use crate::containerd::Containerd;
use crate::failure::fail;
use crate::network::Network;
use crate::spec;
use crate::task::Container;
use crate::tasks::{Created, RootMount};
use crate::terminal::Terminal;

/// Images in the tests' cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// busybox with all its applets, in `/bin`.
    Busybox,
    /// The smallest Debian with `python3`.
    Debian,
    /// Servers and clients for networks: dnsmasq, iperf3, nginx, redis, wrk, `ip` and `ping`.
    Network,
    /// A Debian with what works a file system hard: dbench, fio, git, PostgreSQL, sqlite3, stress-ng.
    Tools,
}

impl Image {
    pub(crate) fn file(self) -> &'static str {
        match self {
            Self::Busybox => "busybox.tar",
            Self::Debian => "debian.tar",
            Self::Network => "network.tar",
            Self::Tools => "tools.tar",
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Busybox => "localhost/kata/busybox:1",
            Self::Debian => "localhost/kata/debian:1",
            Self::Network => "localhost/kata/network:1",
            Self::Tools => "localhost/kata/tools:1",
        }
    }
}

/// A host's file or directory that the container shall see.
#[derive(Clone, Debug)]
pub struct Bind {
    source: PathBuf,
    target: String,
    options: &'static str,
}

impl Bind {
    /// The container can write to it.
    pub fn writable(source: &Path, target: &str) -> Self {
        Self { source: source.to_owned(), target: target.to_owned(), options: "rbind:rw" }
    }

    /// The container can only read it.
    pub fn read_only(source: &Path, target: &str) -> Self {
        Self { source: source.to_owned(), target: target.to_owned(), options: "rbind:ro" }
    }
}

/// What `ctr run` gets for the root file system.
enum Base {
    Image(Image),
    /// A `config.json`, which names its root file system itself.
    Spec(PathBuf),
}

/// A container to be run.
#[must_use = "a recipe does nothing until it is run"]
pub struct Recipe<'c> {
    containerd: &'c Containerd,
    id: String,
    base: Base,
    options: Vec<OsString>,
    command: Vec<String>,
    runtime: String,
}

impl<'c> Recipe<'c> {
    pub(crate) fn new(containerd: &'c Containerd) -> Self {
        let base = Base::Image(Image::Busybox);
        Self {
            containerd,
            id: containerd.fresh_name(),
            base,
            options: Vec::new(),
            command: Vec::new(),
            runtime: containerd.stage.runtime.clone(),
        }
    }

    /// The image, if it is not busybox.
    pub fn image(mut self, image: Image) -> Self {
        self.base = Base::Image(image);
        self
    }

    /// A specification instead of an image: what `ctr oci spec` prints, on a busybox root file system of its own,
    /// changed by `change`.
    pub fn spec(mut self, change: impl FnOnce(&mut Value)) -> Self {
        let directory = self.containerd.directory();
        let mut spec = spec::on_busybox(self.containerd, &directory, &self.id);
        change(&mut spec);
        let file = directory.join("config.json");
        fs::write(&file, spec.to_string()).expect("the test's directory is writable");
        self.base = Base::Spec(file);
        self
    }

    /// Another runtime than the one under test.
    pub fn runtime(mut self, name: &str) -> Self {
        name.clone_into(&mut self.runtime);
        self
    }

    /// An option of `ctr run`.
    pub fn option(mut self, option: impl Into<OsString>) -> Self {
        self.options.push(option.into());
        self
    }

    /// In this network namespace.
    pub fn network(self, network: &Network) -> Self {
        let [option, value] = network.option();
        self.option(option).option(value)
    }

    /// An environment variable.
    pub fn env(self, name: &str, value: &str) -> Self {
        self.option("--env").option(format!("{name}={value}"))
    }

    /// A host's file or directory.
    pub fn bind(self, bind: &Bind) -> Self {
        let (source, target, options) = (bind.source.display(), &bind.target, bind.options);
        self.option("--mount").option(format!("type=bind,src={source},dst={target},options={options}"))
    }

    /// The program and its arguments.
    pub fn command<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.command = words.into_iter().map(Into::into).collect();
        self
    }

    /// A line for the container's `/bin/sh`.
    pub fn shell(self, line: &str) -> Self {
        self.command(["/bin/sh", "-c", line])
    }

    /// The container's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// `ctr run --rm` to the end, with nothing on standard input.
    #[track_caller]
    pub fn run(self) -> Finished {
        run(&mut self.ctr_run(&["--rm"]))
    }

    /// As [`Recipe::run`], with everything that the container prints as standard output ([`Containerd::run_logged`]).
    #[track_caller]
    pub(crate) fn run_logged(self) -> Finished {
        self.containerd.run_logged(|log| self.ctr_run(&["--rm", "--log-uri", log]))
    }

    /// `ctr run --rm`, its streams in the test's hands.
    #[track_caller]
    pub fn attach(self) -> Live {
        Live::spawn(&mut self.ctr_run(&["--rm"]))
    }

    /// `ctr run --rm --tty` on a terminal of this size.
    #[track_caller]
    pub fn terminal(self, columns: u16, rows: u16) -> Terminal {
        Terminal::open(&self.ctr_run(&["--rm", "--tty"]), columns, rows)
    }

    /// `ctr run --detach --null-io`: a container that goes on while the test does something with it.
    #[track_caller]
    pub fn start(self) -> Container<'c> {
        run(&mut self.ctr_run(&["--detach", "--null-io"])).ok().done();
        Container::new(self.containerd, self.id)
    }

    /// As [`Recipe::start`], for a start that is to fail.
    #[track_caller]
    pub fn try_start(self) -> Finished {
        run(&mut self.ctr_run(&["--detach", "--null-io"]))
    }

    /// As [`Recipe::try_start`], while the test does something else.
    #[track_caller]
    pub fn start_in_background(self) -> (Container<'c>, Live) {
        let live = Live::spawn(&mut self.ctr_run(&["--detach", "--null-io"]));
        (Container::new(self.containerd, self.id), live)
    }

    /// `ctr containers create`: a container without a task.
    #[track_caller]
    pub fn create(self) -> Container<'c> {
        run(&mut self.ctr(&["containers", "create"], &[])).ok().done();
        Container::new(self.containerd, self.id)
    }

    /// A container whose task is created, and not started.
    #[track_caller]
    pub fn create_task(self) -> Created<'c> {
        self.try_create_task_on(&[]).unwrap_or_else(|e| fail(e))
    }

    /// A container that runs on a root file system of these mounts.
    #[track_caller]
    pub fn start_on(self, mounts: &[RootMount]) -> Container<'c> {
        let created = self.try_create_task_on(mounts).unwrap_or_else(|e| fail(e));
        created.start();
        created.container
    }

    /// As [`Recipe::create_task`], on a root file system of these mounts, if there are any.
    ///
    /// # Errors
    /// containerd's answer.
    #[track_caller]
    pub fn try_create_task_on(self, mounts: &[RootMount]) -> Result<Created<'c>, String> {
        Created::new(self.containerd, self.create(), mounts)
    }

    fn ctr_run(&self, manner: &[&str]) -> Command {
        self.ctr(&["run"], manner)
    }

    fn ctr(&self, verb: &[&str], manner: &[&str]) -> Command {
        let mut command = self.containerd.command();
        command.args(verb).args(["--runtime", &self.runtime]).args(manner).args(&self.options);
        match &self.base {
            Base::Image(image) => {
                self.containerd.ensure_image(*image);
                command.args(["--", image.name(), &self.id]).args(&self.command);
            }
            Base::Spec(file) => {
                assert!(self.command.is_empty(), "with a spec, the command stands in it");
                command.arg("--config").arg(file).arg(&self.id);
            }
        }
        command
    }
}
