//! The jail: a single-threaded child of the agent (`kata-agent container create|exec PLAN RESULT`) that makes one
//! container or one process in it, says how that went, and ends. The agent itself never calls `libcontainer`, which forks.

pub(crate) mod executor;
mod failure;
pub(crate) mod plan;
mod rootfs;
mod sys;

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::Value;

use executor::WorkloadExecutor;
use failure::Failures;
use plan::{CGROUP_MOUNT, Create, Exec, Outcome, Place, Plan};

/// Why the jail could not do what its plan says.
#[derive(Debug, thiserror::Error)]
enum JailError {
    #[error("Cannot {0}")]
    Step(&'static str, #[source] std::io::Error),
    #[error("Cannot read the plan that the agent passed")]
    Plan(#[source] serde_json::Error),
    #[error("Cannot read the container's state")]
    State(#[source] serde_json::Error),
    #[error(transparent)]
    Library(#[from] libcontainer::error::LibcontainerError),
    #[error(transparent)]
    Root(#[from] rootfs::RootError),
    #[error("The container was made but has no process")]
    NoProcess,
}

type Result<T> = std::result::Result<T, JailError>;

/// Does what the plan says; `arguments` are the numbers of two descriptors: of a memory file with the plan in JSON, and
/// of a pipe for the [`Outcome`], one line of JSON. Stdio is the workload's.
pub(crate) fn main(mut arguments: impl Iterator<Item = String>) -> ExitCode {
    let began = crate::clock::since_boot();
    let (Some(plan), Some(result)) = (arguments.next(), arguments.next()) else {
        eprintln!("Cannot make a container: this command is for the agent itself");
        return ExitCode::FAILURE;
    };
    let outcome = match Failures::record().map_err(|source| JailError::Step("record errors", source)) {
        Ok(failures) => match run(&plan, &failures) {
            Ok(pid) => Outcome::Started { pid, began },
            Err(error) => Outcome::Failed { message: failures.explain(&error) },
        },
        Err(error) => Outcome::Failed { message: crate::report::chain(&error) },
    };
    let failed = matches!(outcome, Outcome::Failed { .. });
    match (send(&result, &outcome), failed) {
        (Ok(()), false) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn run(plan: &str, failures: &Failures) -> Result<i32> {
    let bytes = fs::read(fd_path(plan)).map_err(|source| JailError::Step("open the plan", source))?;
    match serde_json::from_slice(&bytes).map_err(JailError::Plan)? {
        Plan::Create(plan) => create(&plan, failures),
        Plan::Exec(plan) => exec(&plan, failures),
    }
}

/// One line, as the write end is also held by the workload's process until it is started.
fn send(result: &str, outcome: &Outcome) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(outcome)?;
    line.push(b'\n');
    File::options().write(true).open(fd_path(result))?.write_all(&line)
}

fn fd_path(fd: &str) -> PathBuf {
    format!("/proc/self/fd/{fd}").into()
}

fn create(plan: &Create, failures: &Failures) -> Result<i32> {
    enter_cgroup_mount(&plan.place)?;
    rootfs::prepare(&plan.root, &plan.cwd)?;
    let executor = WorkloadExecutor::for_init(failures);
    let container = builder(&plan.place, &plan.place.state_dir, executor)?
        .as_init(&plan.bundle)
        .with_systemd(false)
        .with_detach(true)
        .build()?;
    container.pid().map(nix_pid).ok_or(JailError::NoProcess)
}

fn exec(plan: &Exec, failures: &Failures) -> Result<i32> {
    enter_cgroup_mount(&plan.place)?;
    let scratch = Scratch::of_running(&plan.place)?;
    let process = memfd_create("process.json", MemfdFlags::CLOEXEC)
        .map_err(|source| JailError::Step("make a file for the process", source.into()))?;
    let mut process = File::from(process);
    let json = serde_json::to_vec(&plan.process).map_err(JailError::Plan)?;
    process.write_all(&json).map_err(|source| JailError::Step("write the process to a file", source))?;
    let path = fd_path(&process.as_raw_fd().to_string());
    let executor = WorkloadExecutor::for_exec(failures);
    let pid = builder(&plan.place, &scratch.root, executor)?
        .as_tenant()
        .with_detach(true)
        .with_process(Some(path))
        .build()?;
    Ok(nix_pid(pid))
}

/// `libcontainer` has a `nix` of its own version; only the number crosses over.
fn nix_pid(pid: impl Into<libc::pid_t>) -> i32 {
    pid.into()
}

fn builder(place: &Place, root: &Path, executor: WorkloadExecutor) -> Result<ContainerBuilder> {
    Ok(ContainerBuilder::new(place.container_id.clone(), SyscallType::default())
        .with_executor(executor)
        .with_root_path(root)?
        .with_console_socket(place.console.as_ref()))
}

/// Puts the cgroup hierarchy to use where `libcontainer` expects it, seen by this process and its children only.
fn enter_cgroup_mount(place: &Place) -> Result<()> {
    let Some(root) = &place.cgroup_root else { return Ok(()) };
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none))
        .and_then(|()| mount(Some(root), CGROUP_MOUNT, none, MsFlags::MS_BIND, none))
        .map_err(|errno| JailError::Step("mount the cgroup hierarchy of the container", errno.into()))
}

/// A state directory of its own for one exec: `libcontainer` wants the state to say "running", which the agent
/// knows without rewriting the shared file, and leaves sockets behind there.
struct Scratch {
    root: PathBuf,
}

impl Scratch {
    fn of_running(place: &Place) -> Result<Self> {
        let step = |source| JailError::Step("prepare the state for the new process", source);
        let shared = place.state_dir.join(&place.container_id);
        let root = shared.join(format!("exec-{}", std::process::id()));
        let scratch = Self { root };
        let own = scratch.root.join(&place.container_id);
        fs::create_dir_all(&own).map_err(step)?;
        let state = fs::read(shared.join("state.json")).map_err(step)?;
        let mut state: Value = serde_json::from_slice(&state).map_err(JailError::State)?;
        state["status"] = "running".into();
        fs::write(own.join("state.json"), state.to_string()).map_err(step)?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is removed with the container's state.
        let _ = fs::remove_dir_all(&self.root);
    }
}
