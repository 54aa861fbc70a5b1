//! The wire between the host and the agent in the guest: upstream's `grpc.AgentService` with all its names and
//! numbers, its health service, and this project's additions (`kata.v1.Sandbox`).

pub mod console;
pub mod forward;
mod generated;
pub mod guest;
pub mod oci_convert;
pub mod ports;

#[cfg(test)]
mod tests;

pub use generated::{agent, agent_ttrpc, csi, empty, health, health_ttrpc, kata, kata_ttrpc, oci, types};
