//! The system calls of the agent that have no safe wrapper.
#![expect(
    unsafe_code,
    reason = "signals by number, registration of descriptors with tokio, the random device's ioctls, BPF"
)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Sends a signal, which need not have a name, to a process or, if `pid` is not positive, to those that kill(2) tells.
pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: two numbers, which the kernel checks.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Watches a descriptor from within the current runtime.
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by the AsyncFd, so it stays open as long as it is registered, and an
    // OwnedFd gives out the same number for all its life.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// Lets workloads use up their time before a thread of this process gets the CPU that it was woken for (`SCHED_BATCH`):
/// output is then moved in large pieces, not a piece for every write. Holds for the threads there are; the jail sets what
/// holds for workloads.
pub(crate) fn let_workloads_go_first() -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: 0 };
    for thread in std::fs::read_dir("/proc/self/task")? {
        let name = thread?.file_name();
        let id: libc::pid_t = name.to_string_lossy().parse().map_err(io::Error::other)?;
        // SAFETY: the kernel reads the parameter, which outlives the call.
        if unsafe { libc::sched_setscheduler(id, libc::SCHED_BATCH, &raw const parameter) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// `struct rand_pool_info` of linux/random.h with room for [`POOL_BYTES`].
#[repr(C)]
struct RandomPool {
    entropy_count: libc::c_int,
    buf_size: libc::c_int,
    buf: [u8; POOL_BYTES],
}

/// Bytes of entropy that are credited at once.
pub(crate) const POOL_BYTES: usize = 512;

nix::ioctl_write_ptr_bad!(add_entropy_ioctl, nix::request_code_write!(b'R', 0x03, 8), RandomPool);
nix::ioctl_none!(reseed_ioctl, b'R', 0x07);

/// Credits `bytes` (at most [`POOL_BYTES`]) to the kernel's random number generator.
pub(crate) fn add_entropy(random: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    let length = bytes.len().min(POOL_BYTES);
    let size = i32::try_from(length).map_err(io::Error::other)?;
    let mut pool = RandomPool { entropy_count: size * 8, buf_size: size, buf: [0; POOL_BYTES] };
    pool.buf[..length].copy_from_slice(&bytes[..length]);
    // SAFETY: the kernel reads the header and `buf_size` bytes behind it, which `pool` holds.
    unsafe { add_entropy_ioctl(random.as_raw_fd(), &raw const pool) }?;
    Ok(())
}

/// Makes the kernel draw its next random numbers from the new entropy.
pub(crate) fn reseed(random: &OwnedFd) -> io::Result<()> {
    // SAFETY: takes no argument.
    unsafe { reseed_ioctl(random.as_raw_fd()) }?;
    Ok(())
}

/// linux/swap.h: what is no longer swapped is discarded.
const SWAP_FLAG_DISCARD: libc::c_int = 0x10000;

/// Lets the kernel swap to a file or device.
pub(crate) fn swap_on(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads the name, which outlives the call.
    let result = unsafe { libc::swapon(path.as_ptr(), SWAP_FLAG_DISCARD) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// linux/bpf.h.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// The beginning of `union bpf_attr` for a program to be loaded.
#[repr(C)]
struct Load {
    kind: u32,
    length: u32,
    instructions: u64,
    license: u64,
}

/// The beginning of `union bpf_attr` for a program to be attached.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

fn load_program(load: &Load) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads a structure of this size, and what it points to, which its makers keep.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const *load, size_of::<Load>()) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just opened, and nothing else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lets a program decide which devices the processes of a cgroup may use, besides those of the cgroups above and below.
pub(crate) fn guard_devices(cgroup: &OwnedFd, program: &[u64]) -> io::Result<()> {
    let load = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        length: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr().addr() as u64,
        license: c"Apache-2.0".as_ptr().addr() as u64,
    };
    // A signal that arrives meanwhile makes the verifier give up (EAGAIN).
    let program = loop {
        match load_program(&load) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
            loaded => break loaded?,
        }
    };
    let attach = Attach {
        target: cgroup.as_raw_fd().cast_unsigned(),
        program: program.as_raw_fd().cast_unsigned(),
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: the kernel reads a structure of this size.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attach, size_of::<Attach>()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `libc` has it in a type that is too wide.
const IFF_UP: libc::c_short = 1;

/// Sets an interface up (`SIOCSIFFLAGS`); `socket` is any of its network namespace.
pub(crate) fn set_interface_up(socket: &OwnedFd, name: &str) -> io::Result<()> {
    // SAFETY: zero is a valid value of every field.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte less, so that a zero ends the name.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = IFF_UP;
    // SAFETY: the kernel reads a request of this size, which outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
