//! Everything a sandbox's files need on the host: the shared directory, containers' root file systems and
//! volumes, and the daemon that shows them to the guest.
//!
//! Mounts are made in the directory `rw` of a [`share::SharedDirectory`] and appear, through mount propagation,
//! in its read-only twin, which [`virtiofsd`] exports. Every step is announced to an [`kata_intent::Intents`] log
//! first, and [`undo`] knows how to take each one back.

pub mod block;
pub mod daemon;
pub mod direct_volume;
pub mod empty_dir;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod http;
pub mod huge_pages;
pub mod idmap;
pub mod image;
mod layer;
pub mod memory;
mod mount;
mod mountinfo;
pub mod nydus;
pub mod processes;
pub mod rootfs;
pub mod sandbox_mounts;
pub mod share;
pub mod swap;
mod sys;
#[cfg(test)]
mod testing;
pub mod trail;
pub mod undo;
pub mod virtiofsd;
pub mod virtual_volume;
pub mod volumes;
pub mod watch;

pub use rootfs::RootfsMount;
