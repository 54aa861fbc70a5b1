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
mod container;
mod forward;
pub mod fuzzing;
mod hooks;
mod id;
mod image;
mod jail;
mod logging;
mod mountinfo;
mod network;
mod options;
mod pci;
mod random;
mod reaper;
mod report;
mod rpc;
mod service;
mod stdio;
mod storage;
mod sys;
mod traffic;
mod watches;
