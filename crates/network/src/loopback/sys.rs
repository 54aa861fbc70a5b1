#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper")]
//! The system call of BPF.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::libc;

use super::program::Instruction;

/// Commands and kinds (linux/bpf.h).
const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;
const MAP_TYPE_SOCKMAP: u32 = 15;
const PROG_TYPE_SK_LOOKUP: u32 = 30;
const SK_LOOKUP: u32 = 36;

/// What tools show.
const NAME: [u8; 16] = *b"kata_loopback\0\0\0";

/// The beginnings of `union bpf_attr`, by command.
#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

#[repr(C)]
struct MapUpdate {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgLoad {
    kind: u32,
    length: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

fn number(fd: impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().cast_unsigned()
}

/// A map of listening sockets.
pub(super) fn socket_map(slots: u32) -> io::Result<OwnedFd> {
    let attributes = MapCreate { kind: MAP_TYPE_SOCKMAP, key_size: 4, value_size: 4, max_entries: slots };
    // SAFETY: the kernel reads a structure of this size.
    let fd =
        unsafe { libc::syscall(libc::SYS_bpf, MAP_CREATE, &raw const attributes, size_of::<MapCreate>()) };
    owned(fd)
}

/// Puts a socket into a map.
pub(super) fn put_socket(map: &OwnedFd, slot: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
    let value = number(socket);
    let attributes = MapUpdate {
        map: number(map),
        padding: 0,
        key: (&raw const slot).addr() as u64,
        value: (&raw const value).addr() as u64,
        flags: 0,
    };
    // SAFETY: the kernel reads a structure of this size, and the key and the value, which outlive the call.
    let done = unsafe {
        libc::syscall(libc::SYS_bpf, MAP_UPDATE_ELEM, &raw const attributes, size_of::<MapUpdate>())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Loads a program for socket lookups.
pub(super) fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let attributes = ProgLoad {
        kind: PROG_TYPE_SK_LOOKUP,
        length: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr().addr() as u64,
        license: c"Apache-2.0".as_ptr().addr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: NAME,
        interface: 0,
        attach_type: SK_LOOKUP,
    };
    // A signal that arrives meanwhile makes the verifier give up (EAGAIN).
    loop {
        // SAFETY: the kernel reads a structure of this size, and what it points to, which outlives the call.
        let fd =
            unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const attributes, size_of::<ProgLoad>()) };
        match owned(fd) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
            loaded => return loaded,
        }
    }
}

/// Sets a program on the socket lookups of a network namespace, until the link that is returned is closed.
pub(super) fn attach(program: &OwnedFd, netns: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let attributes =
        LinkCreate { program: number(program), target: number(netns), attach_type: SK_LOOKUP, flags: 0 };
    // SAFETY: the kernel reads a structure of this size.
    let fd =
        unsafe { libc::syscall(libc::SYS_bpf, LINK_CREATE, &raw const attributes, size_of::<LinkCreate>()) };
    owned(fd)
}

/// The descriptor that a call returned. The kernel closes each of them on exec.
fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(fd) {
        // SAFETY: it was just opened, and nothing else has it.
        Ok(fd @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
