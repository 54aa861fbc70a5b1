//! The shim's modules as a library, for the fuzz targets in `fuzz/` and nobody else. Without the feature `fuzzing` it is
//! empty.
#![cfg(feature = "fuzzing")]
#![expect(dead_code, reason = "the program's beginning is in main.rs")]

mod address;
mod args;
mod backend;
mod bootstrap;
mod chain;
mod connections;
mod core_scheduling;
mod cri;
mod decorate;
mod delete;
mod environment;
mod events;
pub mod fuzzing;
mod handover;
mod info;
mod kata;
mod kills;
mod ledger;
mod logging;
mod management;
mod options;
mod pod;
mod pod_limits;
mod publisher;
mod rpcs;
mod server;
mod service;
mod start;
mod stdio;
mod traces;
