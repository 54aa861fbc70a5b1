//! Spans as OTLP's `ExportTraceServiceRequest`.

use crate::wire::Message;
use crate::{Kind, Span};

/// Who instruments, in OTLP's terms.
const SCOPE: &str = "kata";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// OTLP's number for a failed span.
pub(crate) const STATUS_ERROR: u64 = 2;

/// The spans of one program.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'s> {
    /// Which program, of which sandbox: OTLP's resource.
    pub resource: &'s [(&'static str, String)],
    /// Its spans.
    pub spans: &'s [Span],
}

/// The message. Two of them, one after the other, are one with the spans of both.
#[must_use]
pub fn encode(batch: Batch<'_>) -> Vec<u8> {
    let mut request = Message::default();
    request.message(1, |resource_spans| {
        resource_spans.message(1, |resource| {
            batch.resource.iter().for_each(|(key, value)| attribute(resource, 1, key, value));
        });
        resource_spans.message(2, |scope_spans| {
            scope_spans.message(1, |scope| {
                scope.text(1, SCOPE);
                scope.text(2, VERSION);
            });
            for each in batch.spans {
                scope_spans.message(2, |message| span(message, each));
            }
        });
    });
    request.0
}

/// A message on its way from the guest: its length in 8 bytes, big-endian, and then itself.
#[must_use]
pub fn frame(message: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(8 + message.len());
    frame.extend_from_slice(&(message.len() as u64).to_be_bytes());
    frame.extend_from_slice(message);
    frame
}

fn span(message: &mut Message, span: &Span) {
    message.bytes(1, &span.context.trace);
    message.bytes(2, &span.context.span);
    if let Some(parent) = &span.parent {
        message.bytes(4, parent);
    }
    message.text(5, &span.name);
    message.number(6, kind_number(span.kind));
    message.fixed64(7, span.start);
    message.fixed64(8, span.end);
    for (key, value) in &span.attributes {
        attribute(message, 9, key, value);
    }
    if let Some(error) = &span.error {
        message.message(15, |status| {
            status.text(2, error);
            status.number(3, STATUS_ERROR);
        });
    }
}

/// OTLP's number for a kind.
pub(crate) fn kind_number(kind: Kind) -> u64 {
    match kind {
        Kind::Internal => 1,
        Kind::Server => 2,
    }
}

fn attribute(message: &mut Message, field: u32, key: &str, value: &str) {
    message.message(field, |pair| {
        pair.text(1, key);
        pair.message(2, |any| any.text(1, value));
    });
}
