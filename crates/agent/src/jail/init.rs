//! Making a container: from its specification to its first process, which waits to be started.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use kata_protocol::oci;
use rustix::fs::{CWD, Mode};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, chdir, fchdir, getcwd, pivot_root, setsid, umask};
use rustix::system::{setdomainname, sethostname};

use super::error::{JailError, Named, Result};
use super::label::Labels;
use super::mounts::Planned;
use super::mounts::options::propagation;
use super::namespaces::Joined;
use super::plan::{Answer, Descriptors, Steps};
use super::rootfs::Root;
use super::seccomp::Filter;
use super::sys::{self, MountChange};
use super::users::Gate;
use super::{
    FAILED, clocks, console, delegate, devices, hold, hooks, identity, mounts, namespaces, protect,
    read_plan, scheduling, spawn, spawn_inside, workload,
};

/// Where the container's root is attached in the guest's, which its process then leaves, if that process may not reach
/// its own place in a user namespace.
const ATTACHED: &str = "/sys";

/// What a first process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Calling {
    /// To become the workload.
    Workload,
    /// To hold the sandbox's namespaces.
    Holder,
}

/// Makes the first process; its id.
pub(super) fn make(fds: Descriptors<OwnedFd>, calling: Calling) -> Result<i32> {
    let Descriptors { plan, answer, cgroup, other: start, console, joined } = fds;
    let mut steps = Steps::default();
    let mut spec: oci::Spec = read_plan(plan)?;
    let labels = Labels::prepare(&mut spec)?;
    identity::score(&spec.Process)?;
    let mut cloned = namespaces::cloned(&spec.Linux)?;
    let Joined { before, between } = Joined::of(&spec.Linux);
    if let Some(joined) = &joined {
        namespaces::join(joined, before)?;
    }
    clocks::set_off(&spec.Linux)?;
    steps.done("specification");
    // Here, as only what is in this mount namespace can be copied, and all of it may be reached.
    let path = Path::new(&spec.Root.Path);
    let root =
        mounts::copy(CWD, path, true).map_err(|source| JailError::Root { path: path.to_owned(), source })?;
    let mounts = Planned::all(&spec, &cgroup)?;
    steps.done("volumes");
    let mut gate = Gate::of(&spec.Linux)?;
    if gate.is_some() {
        delegate::give_to_root(&spec, &cgroup)?;
        cloned &= !libc::CLONE_NEWIPC;
    }
    let filter = Filter::prepare(&spec.Linux)?;
    let shared_out = delegate::is_wanted(&spec.Mounts).then(|| cgroup.try_clone()).transpose();
    let shared_out = shared_out.step("pass the container's cgroup on")?;
    let (root, console) = (Root::new(root), console.as_ref());
    let init = Init { spec: &spec, calling, labels, shared_out, root, mounts, console, filter, steps };
    let gate_there = &mut gate;
    let work = || init.run(gate_there.take(), File::from(answer), File::from(start));
    let made = match joined.filter(|_| !between.is_empty()) {
        Some(joined) => spawn_inside((&joined, between), cloned, cgroup, work)?,
        None => spawn(cloned, Some(cgroup), work)?,
    };
    if let (Some(gate), Some(pid)) = (gate, Pid::from_raw(made)) {
        gate.open(pid, &spec)?;
    }
    Ok(made)
}

/// The new process.
struct Init<'a> {
    spec: &'a oci::Spec,
    calling: Calling,
    labels: Labels,
    /// The container's cgroup, if it shares it out.
    shared_out: Option<OwnedFd>,
    root: Root,
    mounts: Vec<Planned<'a>>,
    console: Option<&'a OwnedFd>,
    filter: Option<Filter>,
    /// What the jail has done, and then this.
    steps: Steps,
}

impl Init<'_> {
    /// All of it; returns an exit status if it did not become the workload.
    fn run(self, gate: Option<Gate>, answer: File, mut start: File) -> i32 {
        let (spec, calling) = (self.spec, self.calling);
        let (steps, filter) = match self.prepare(gate) {
            Ok(ready) => ready,
            Err(JailError::GivenUp) => return FAILED,
            Err(error) => {
                let _ = Answer::Failed(crate::report::chain(&error)).send(&answer);
                return FAILED;
            }
        };
        if Answer::Ready(steps).send(&answer).is_err() {
            return FAILED;
        }
        drop(answer);
        // The end without a byte: the container is removed before it was started.
        if start.read_exact(&mut [0]).is_err() {
            return FAILED;
        }
        drop(start);
        if calling == Calling::Holder {
            return hold::hold();
        }
        if let Err(failure) = hooks::run("startContainer", &spec.Hooks.StartContainer, spec, "created") {
            let _ = io::stderr().write_all(format!("{}\n", crate::report::chain(&failure)).as_bytes());
            return FAILED;
        }
        let Err(failure) = workload::become_workload(spec, filter);
        // The output of the container is the only place left to say it.
        let _ = io::stderr().write_all(format!("{}\n", failure.message).as_bytes());
        failure.status
    }

    /// The steps, in their order. A filter of system calls that is left is for the last moment.
    fn prepare(mut self, gate: Option<Gate>) -> Result<(Steps, Option<Filter>)> {
        let (spec, process) = (self.spec, &*self.spec.Process);
        // The mask would take bits from devices and folders.
        umask(Mode::empty());
        setsid().step("make a session")?;
        match gate {
            // Whoever opens it sees to the rest.
            Some(gate) => {
                gate.pass()?;
                self.own_messages()?;
            }
            None => {
                identity::limit(None, process)?;
                scheduling::set(None, process)?;
            }
        }
        self.enter_cgroup_namespace()?;
        if let Some(cgroup) = &self.shared_out {
            delegate::make_room(cgroup)?;
        }
        if let Some(filter) = &mut self.filter {
            filter.identify(spec, "creating")?;
        }
        self.steps.done("new process");
        let null = mounts::guest_path("/dev/null").step("open /dev/null")?;
        self.attach_root()?;
        std::mem::take(&mut self.mounts).into_iter().try_for_each(|mount| mount.attach(&self.root))?;
        self.steps.done("mounts");
        let root = &self.root;
        devices::make_all(root, spec)?;
        if let Some(agent) = self.console {
            console::set_up(root, agent, true, process.User.get_or_default().UID)?;
        }
        self.steps.done("devices");
        self.name_host()?;
        protect::write_settings(&spec.Linux.Sysctl)?;
        protect::make_read_only(root, &spec.Linux.ReadonlyPaths)?;
        protect::mask(root, &spec.Linux.MaskedPaths, &null)?;
        self.steps.done("guarded paths");
        hooks::run("createContainer", &spec.Hooks.CreateContainer, spec, "creating")?;
        self.enter(root)?;
        drop(self.root);
        enter_folder(&process.Cwd)?;
        self.steps.done("container entered");
        self.labels.apply()?;
        let filter = identity::assume(process, self.filter)?;
        if self.calling == Calling::Workload {
            workload::check(spec).map_err(|failure| JailError::Refused(failure.message))?;
        }
        self.steps.done("user and rights");
        Ok((self.steps, filter))
    }

    fn has_own(&self, namespace: &str) -> bool {
        namespaces::is_own(&self.spec.Linux, namespace)
    }

    /// Whoever makes message queues owns their file system: that is the root of the user namespace, whom this process has
    /// just become.
    fn own_messages(&self) -> Result<()> {
        match self.has_own("ipc") {
            true => sys::unshare(libc::CLONE_NEWIPC).step("make an ipc namespace"),
            false => Ok(()),
        }
    }

    fn enter_cgroup_namespace(&self) -> Result<()> {
        if self.has_own("cgroup") {
            sys::unshare(libc::CLONE_NEWCGROUP).step("make a cgroup namespace")
        } else {
            Ok(())
        }
    }

    /// Attaches the root, in a mount namespace which nothing passes out of. Mounts of the guest still come in where the
    /// specification wants that.
    fn attach_root(&self) -> Result<()> {
        let everything = mounts::guest_path("/").step("open the guest's root")?;
        let inwards = MountChange { propagation: libc::MS_SLAVE, ..MountChange::default() };
        sys::change_mount(&everything, inwards, true).step("keep mounts inside")?;
        // Hooks look for it where it was.
        let place = mounts::guest_path(&self.spec.Root.Path).or_else(|_| mounts::guest_path(ATTACHED));
        let place = place.step("find a place for the root")?;
        let alone = MountChange { propagation: libc::MS_PRIVATE, ..MountChange::default() };
        sys::change_mount(&self.root, alone, true)
            .and_then(|()| mounts::attach(&self.root, place))
            .step("mount the root")?;
        self.make_working_folder(&self.root)
    }

    /// As runc does, if it is not there; it may also appear with a mount, and if not, entering it says what is wrong.
    fn make_working_folder(&self, root: &Root) -> Result<()> {
        let cwd = &self.spec.Process.Cwd;
        match root.make_folder(Path::new(cwd)) {
            Err(error)
                if !matches!(
                    error.kind(),
                    io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
                ) =>
            {
                Err(error).at("use the working folder", cwd)
            }
            _ => Ok(()),
        }
    }

    /// Without a namespace of its own the names are the guest's.
    fn name_host(&self) -> Result<()> {
        let (host, domain) = (self.spec.Hostname.as_bytes(), self.spec.Domainname.as_bytes());
        if !self.has_own("uts") {
            return Ok(());
        }
        if !host.is_empty() {
            sethostname(host).step("set the host name")?;
        }
        if !domain.is_empty() {
            setdomainname(domain).step("set the domain name")?;
        }
        Ok(())
    }

    /// Makes the root the one of this process, and leaves the guest's behind.
    fn enter(&self, root: &Root) -> Result<()> {
        let name = self.spec.Linux.RootfsPropagation.as_str();
        if self.spec.Root.Readonly {
            let read_only = MountChange { set: libc::MOUNT_ATTR_RDONLY, ..MountChange::default() };
            sys::change_mount(root, read_only, false).step("make the root read-only")?;
        }
        fchdir(root)
            .and_then(|()| pivot_root(".", "."))
            .and_then(|()| unmount(".", UnmountFlags::DETACH))
            .and_then(|()| chdir("/"))
            .step("enter the container's root")?;
        if name.is_empty() {
            return Ok(());
        }
        let Some((propagation, recursive)) = propagation(name) else {
            let text = format!("There is no propagation {name:?}; correct linux.rootfsPropagation");
            return Err(JailError::Refused(text));
        };
        let change = MountChange { propagation, ..MountChange::default() };
        sys::change_mount(root, change, recursive).step("set the root's propagation")
    }
}

/// Enters the working folder, which must lie inside the root: a descriptor of the guest's could be named by
/// `/proc/self/fd`.
pub(super) fn enter_folder(path: &str) -> Result<()> {
    if !path.starts_with('/') {
        return Err(JailError::Refused(format!(
            "The working folder {path} is not absolute; correct process.cwd"
        )));
    }
    chdir(path).at("enter the working folder", path)?;
    let inside = getcwd(Vec::new()).is_ok_and(|folder| folder.as_bytes().starts_with(b"/"));
    if inside {
        return Ok(());
    }
    Err(JailError::Refused(format!(
        "The working folder {path} lies outside the container's root; choose another"
    )))
}
