#![expect(unsafe_code, reason = "a process joins cgroups between fork and exec")]
//! What a new process does before it becomes another program.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process;
use std::sync::Arc;
use std::thread;

use rustix::io::Errno;
use tokio::process::Command;

/// Lets the process of `command` write itself into each of the files before it begins: so no child of its own can be
/// made before. One that the kernel does not let in stays where it is.
pub(crate) fn enter(command: &mut Command, files: Arc<[File]>) {
    let enter = move || {
        for mut file in files.iter() {
            // 0 is whoever writes.
            let _ = file.write(b"0");
        }
        Ok(())
    };
    // SAFETY: the closure makes the system call write(2) on open descriptors and nothing else: no lock, no allocation.
    unsafe { command.pre_exec(enter) };
}

/// Lets the process of `command` begin once `place` has been told its number, in a thread of its own, and has said that it
/// may. Else its start fails with [`Errno::CANCELED`]. It is started once, by a thread that is free to wait.
///
/// # Errors
/// There is no descriptor or thread for it.
pub(crate) fn begin_once(
    command: &mut Command,
    place: impl FnOnce(u32) -> bool + Send + 'static,
) -> io::Result<()> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let number = ours.as_raw_fd();
    let answer = move || {
        let mut process = [0; 4];
        // It is not started after all, or has heard that it may not.
        if ours.read_exact(&mut process).is_ok() && place(u32::from_ne_bytes(process)) {
            ours.write_all(b"1").ok();
        }
    };
    thread::Builder::new().name("vmm-scope".to_owned()).spawn(answer)?;
    let wait = move || {
        // SAFETY: in the new process nobody else uses this copy, which would keep it waiting when the other end has gone.
        unsafe { rustix::io::close(number) };
        let told = (&theirs).write_all(&process::id().to_ne_bytes());
        told.and_then(|()| (&theirs).read_exact(&mut [0])).map_err(|_| Errno::CANCELED.into())
    };
    // SAFETY: the closure makes the system calls close(2), write(2), read(2) and getpid(2) and nothing else: no lock, no
    // allocation.
    unsafe { command.pre_exec(wait) };
    Ok(())
}
