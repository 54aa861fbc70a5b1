//! The terminal of a process: made inside the container, its other end sent to the agent.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Gid, Mode, OFlags, Uid, fchown};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::error::{Named, Result};
use super::mounts::{attach, copy};
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
    send(agent, &master).step("pass the terminal on")?;
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

fn send(agent: &OwnedFd, master: &OwnedFd) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let master = [master.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&master));
    sendmsg(agent, &[IoSlice::new(b"t")], &mut control, SendFlags::empty())?;
    Ok(())
}
