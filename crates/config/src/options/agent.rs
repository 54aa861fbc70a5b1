//! Keys of `[agent.kata]`.

use std::time::Duration;

use super::{Kind, Row, Table, set};
use crate::model::LogLevel;
use crate::value::{Fixed, Value};

/// The words of every log level key; upstream's `agent.log` takes the same.
pub(super) const LOG_LEVELS: Kind = Kind::OneOf(&["critical", "error", "warn", "info", "debug", "trace"]);

/// A day: longer deadlines are surely mistakes of unit.
const MAX_MS: i64 = 24 * 3600 * 1000;

const fn row(key: &'static str, kind: Kind, default: Fixed) -> Row {
    Row::new(Table::Agent, key, kind, default)
}

pub(super) static ROWS: &[Row] = &[
    row("enable_debug", Kind::Bool, Fixed::Bool(false))
        .does("Debug output of the agent.", |c, v| set(&mut c.agent.enable_debug, v.flag())),
    row("log_level", LOG_LEVELS, Fixed::Text("info"))
        .does("How much the agent logs; enable_debug makes it at least debug.", |c, v| {
            set(&mut c.agent.log_level, log_level(v))
        }),
    row("debug_console_enabled", Kind::Bool, Fixed::Bool(false))
        .does("Open a shell in the guest to `kata-runtime exec` and `cp`.", |c, v| {
            set(&mut c.agent.debug_console, v.flag())
        }),
    row("enable_tracing", Kind::Bool, Fixed::Bool(false))
        .does(
            "Spans of the agent: to the shim if it traces, else to `kata-trace-forwarder` over vsock.",
            |c, v| set(&mut c.agent.enable_tracing, v.flag()),
        )
        .annotation("agent.enable_tracing"),
    row("reconnect_timeout_ms", Kind::Integer { min: 1, max: MAX_MS }, Fixed::Int(60_000))
        .does("How long the agent may take to announce itself after the VM was started.", |c, v| {
            set(&mut c.agent.dial_timeout, millis(v))
        })
        .alias(Table::Agent, "dial_timeout", 1000),
    row("request_timeout_ms", Kind::Integer { min: 1, max: MAX_MS }, Fixed::Int(30_000))
        .does("Deadline of an ordinary request to the agent.", |c, v| {
            set(&mut c.agent.request_timeout, millis(v))
        }),
    row("create_container_timeout", Kind::Integer { min: 1, max: MAX_MS / 1000 }, Fixed::Int(30))
        .does(
            "Deadline of the request that makes a container, in seconds, without the guest's boot.",
            |c, v| set(&mut c.agent.create_container_timeout, Duration::from_secs(v.unsigned().into())),
        )
        .alias(Table::Runtime, "create_container_timeout", 1)
        .annotation("runtime.create_container_timeout"),
];

fn millis(value: &Value) -> Duration {
    Duration::from_millis(value.unsigned().into())
}

/// The level a checked value names.
pub(super) fn log_level(value: &Value) -> LogLevel {
    match value.text() {
        "critical" => LogLevel::Critical,
        "error" => LogLevel::Error,
        "warn" => LogLevel::Warn,
        "debug" => LogLevel::Debug,
        "trace" => LogLevel::Trace,
        _ => LogLevel::Info,
    }
}
