//! The terminal of a process: made inside the container, its other end sent to the agent.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Gid, Mode, OFlags, Uid, fchown};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::error::{Named, Result};
use super::mounts::{attach, copy};
use super::passing::send;
use super::rootfs::Root;
use super::sys;

/// Makes a terminal and gives it to this process, which must lead its session. Where `as_console`, it is `/dev/console`
/// too.
pub(super) fn set_up(root: &Root, agent: &OwnedFd, as_console: bool, uid: u32) -> Result<()> {
    let master = open_master(root).step("make a terminal; is devpts mounted on /dev/pts?")?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = ioctl_tiocgptpeer(&master, flags).step("open the terminal")?;
    fchown(&terminal, Some(Uid::from_raw(uid)), None::<Gid>).step("give the terminal to the user")?;
    if as_console {
        let place = root.make_file(Path::new("/dev/console")).step("make /dev/console")?;
        copy(&terminal, Path::new(""), false)
            .and_then(|mount| attach(mount, place))
            .step("mount the terminal on /dev/console")?;
    }
    send(agent, b"t", &master).step("pass the terminal on")?;
    dup2_stdin(&terminal)
        .and_then(|()| dup2_stdout(&terminal))
        .and_then(|()| dup2_stderr(&terminal))
        .step("use the terminal as standard input and output")?;
    sys::control_terminal(&terminal).step("be controlled by the terminal")
}

fn open_master(root: &Root) -> io::Result<OwnedFd> {
    let master = root.open(Path::new("/dev/pts/ptmx"), OFlags::RDWR | OFlags::NOCTTY, Mode::empty())?;
    unlockpt(&master)?;
    Ok(master)
}
