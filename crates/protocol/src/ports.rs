//! The ports of the agent, the same on every transport.

/// ttRPC: `grpc.AgentService`, `grpc.Health`, `kata.v1.Sandbox`.
pub const AGENT: u32 = 1024;
/// The agent's log, one line per record.
pub const LOG: u32 = 1025;
/// The debug console as upstream has it: the bare bytes of a terminal. The agent may be told of another port for it.
pub const DEBUG_CONSOLE: u32 = 1026;
/// Raw stdio: one connection per stream, named by the connection's local port.
pub const STDIO: u32 = 1027;
/// Where the agent calls the host when it is about to serve.
pub const DOORBELL: u32 = 1028;
/// Connections to ports of the pod: one connection each, which begins as [`forward`](crate::forward) says.
pub const FORWARD: u32 = 1029;
/// The debug console with all that a terminal needs: one connection each, which is spoken as [`console`](crate::console) says.
pub const CONSOLE: u32 = 1030;
/// The agent's spans, for a host that asks for them: messages of OTLP, each with its length before it (8 bytes, big-endian).
pub const TRACE: u32 = 1031;
/// The host's port where a forwarder takes the same from agents; upstream's number.
pub const TRACE_FORWARDER: u32 = 10240;
