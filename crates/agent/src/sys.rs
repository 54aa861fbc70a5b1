//! The system calls of the agent that have no safe wrapper.
#![expect(unsafe_code, reason = "registration of descriptors with tokio and the random device's ioctls")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Where the C library begins, in place of the standard library's own beginning: that reads `/proc/self/maps` to find
/// the end of the stack, in every jail again. What it does for SIGPIPE is done here.
#[cfg(not(test))]
#[unsafe(no_mangle)]
extern "C" fn main(_: libc::c_int, _: *const *const libc::c_char) -> libc::c_int {
    // SAFETY: no handler is installed, so no code can run in signal context.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    crate::run_program().into()
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
