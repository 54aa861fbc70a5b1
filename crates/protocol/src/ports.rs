//! The ports of the agent, the same on every transport.

/// ttRPC: `grpc.AgentService`, `grpc.Health`, `kata.v1.Sandbox`.
pub const AGENT: u32 = 1024;
/// The agent's log, one line per record.
pub const LOG: u32 = 1025;
/// The debug console.
pub const DEBUG_CONSOLE: u32 = 1026;
/// Raw stdio: one connection per stream, named by the connection's local port.
pub const STDIO: u32 = 1027;
/// Where the agent calls the host when it is about to serve.
pub const DOORBELL: u32 = 1028;
/// Connections to ports of the pod: one connection each, which begins as [`forward`](crate::forward) says.
pub const FORWARD: u32 = 1029;
