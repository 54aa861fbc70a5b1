//! The QEMU driver: works with QEMU 7.2 and newer.

mod backend;
mod command_line;
mod config;
mod console;
mod control;
mod diagnosis;
mod disk;
mod disk_hotplug;
mod disks;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod hotplug;
mod lifecycle;
mod memory;
mod nic;
mod numa;
mod pinning;
mod ports;
mod processors;
pub mod qmp;
mod resize;
mod stderr;
mod sys;
#[cfg(test)]
mod tests;
mod tsc;
mod version;

pub use command_line::CommandLineError;
pub use disk::DiskError;
pub use lifecycle::{Qemu, launch};
pub use qmp::{QmpError, Version};
pub use version::{OLDEST_SUPPORTED, probe};
