//! `containerd-shim-kata-v2`: what containerd starts for each pod. It speaks containerd's task API on one
//! side and drives a sandbox (`kata-sandbox`) on the other.
//!
//! One binary, three lives: `start` makes the server and answers with its address, the server lives as long
//! as the pod, `delete` removes what a dead server left.

mod address;
mod args;
mod backend;
mod bootstrap;
mod chain;
mod decorate;
mod environment;
mod events;
mod info;
mod ledger;
mod logging;
mod options;
mod pod;
mod publisher;
mod service;
mod start;
mod stdio;

fn main() {}
