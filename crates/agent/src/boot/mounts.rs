//! The file systems of the guest.

use std::fs;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot, dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::fs::{Mode, OFlags, open};

use super::{Result, step};

struct FileSystem {
    kind: &'static str,
    target: &'static str,
    flags: MsFlags,
    data: &'static str,
}

const QUIET: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// In this order, as some lie in others. Terminals and shared memory are the containers' own.
const FILE_SYSTEMS: [FileSystem; 5] = [
    FileSystem { kind: "proc", target: "/proc", flags: QUIET, data: "" },
    FileSystem { kind: "sysfs", target: "/sys", flags: QUIET, data: "" },
    FileSystem { kind: "devtmpfs", target: "/dev", flags: MsFlags::MS_NOSUID, data: "mode=0755" },
    FileSystem {
        kind: "tmpfs",
        target: "/run",
        flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV),
        data: "mode=0755",
    },
    FileSystem { kind: "cgroup2", target: "/sys/fs/cgroup", flags: QUIET, data: "nsdelegate" },
];

/// Moves to a root that is a mount of its own: nothing can be pivoted away from the kernel's initial one.
pub(super) fn leave_initial_root() -> Result<()> {
    const NEW_ROOT: &str = "/.root";
    let none: Option<&str> = None;
    let failed = |errno: nix::Error| step("leave the initial root file system")(errno.into());
    fs::create_dir_all(NEW_ROOT).map_err(step("leave the initial root file system"))?;
    mount(Some("/"), NEW_ROOT, none, MsFlags::MS_BIND, none).map_err(failed)?;
    chdir(NEW_ROOT).map_err(failed)?;
    mount(Some("."), "/", none, MsFlags::MS_MOVE, none).map_err(failed)?;
    chroot(".").map_err(failed)?;
    chdir("/").map_err(failed)?;
    // Only an empty folder is left, and it is in nobody's way.
    let _ = fs::remove_dir(NEW_ROOT);
    Ok(())
}

/// Mounts [`FILE_SYSTEMS`]; the kernel may have mounted some itself.
pub(super) fn mount_all() -> Result<()> {
    for FileSystem { kind, target, flags, data } in FILE_SYSTEMS {
        let what = || format!("mount {kind} on {target}");
        fs::create_dir_all(target).map_err(step(what()))?;
        match mount(Some(kind), target, Some(kind), flags, Some(data)) {
            Ok(()) | Err(nix::Error::EBUSY) => {}
            Err(errno) => return Err(step(what())(errno.into())),
        }
    }
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "fd/0"),
        ("/dev/stdout", "fd/1"),
        ("/dev/stderr", "fd/2"),
    ] {
        if !Path::new(link).exists() {
            std::os::unix::fs::symlink(target, link).map_err(step(format!("link {link}")))?;
        }
    }
    fs::create_dir_all("/tmp").map_err(step("make /tmp"))
}

/// Terminals of the guest's own, which only a debug console has.
pub(crate) fn mount_terminals() -> Result<()> {
    const TERMINALS: &str = "/dev/pts";
    const WHAT: &str = "mount devpts on /dev/pts";
    fs::create_dir_all(TERMINALS).map_err(step(WHAT))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    match mount(Some("devpts"), TERMINALS, Some("devpts"), flags, Some("mode=0620,ptmxmode=0666")) {
        Ok(()) | Err(nix::Error::EBUSY) => Ok(()),
        Err(errno) => Err(step(WHAT)(errno.into())),
    }
}

/// The kernel leaves PID 1 without stdio when the initial root has no `/dev/console`.
pub(super) fn take_console() -> Result<()> {
    let console = open("/dev/console", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty());
    let Ok(console) = console.or_else(|_| open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()))
    else {
        return Ok(());
    };
    let failed = |errno: nix::Error| step("take the console")(errno.into());
    dup2_stdin(&console).map_err(failed)?;
    dup2_stdout(&console).map_err(failed)?;
    dup2_stderr(&console).map_err(failed)
}

/// Enables every controller for the containers. The agent stays in the root, the one cgroup that may have both
/// processes and controlled children.
pub(super) fn set_up_cgroups() -> Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    let controllers =
        fs::read_to_string(root.join("cgroup.controllers")).map_err(step("list the cgroup controllers"))?;
    let enable: Vec<String> = controllers.split_whitespace().map(|name| format!("+{name}")).collect();
    fs::write(root.join("cgroup.subtree_control"), enable.join(" "))
        .map_err(step("enable the cgroup controllers"))
}
