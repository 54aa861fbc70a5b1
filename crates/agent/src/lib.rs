//! The agent's modules as a library, for the fuzz targets in `fuzz/` and nobody else. Without the feature `fuzzing` it is
//! empty: the program is one crate, because linked from two it is six kilobytes larger.
#![cfg(feature = "fuzzing")]
#![expect(dead_code, reason = "the program's beginning is in main.rs")]

mod agent;
mod announcements;
mod block;
mod boot;
mod cgroup;
mod clock;
mod console;
mod container;
mod forward;
pub mod fuzzing;
mod hooks;
mod id;
mod image;
mod jail;
mod logging;
mod memory_file;
mod mountinfo;
mod network;
mod options;
mod pci;
mod random;
mod reaper;
mod report;
mod resources;
mod rpc;
mod service;
mod signals;
mod spans;
mod stdio;
mod storage;
mod swap;
mod sys;
mod task;
mod traffic;
mod watches;
