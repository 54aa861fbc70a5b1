//! Spans as OpenTelemetry has them: what one is, its W3C trace context, its form in OTLP, and, with the feature `host`,
//! the way to a collector.
//!
//! Written by hand because it is little: five messages of OTLP, one header, one POST. Nothing of it runs, and nothing is
//! kept, unless somebody has made a [`Tracer`].

mod context;
mod endpoint;
mod otlp;
mod span;
mod wire;

#[cfg(feature = "host")]
mod current;
#[cfg(feature = "host")]
mod export;
#[cfg(feature = "host")]
mod frames;
#[cfg(feature = "host")]
mod read;
#[cfg(all(feature = "host", any(test, feature = "testing")))]
pub mod testing;
#[cfg(feature = "host")]
mod tracer;

pub use context::{Context, SpanId, TRACEPARENT, of_metadata};
pub use endpoint::{BadEndpoint, Credentials, Endpoint};
pub use otlp::{Batch, encode, frame};
pub use span::{Kind, Span};

#[cfg(feature = "host")]
pub use current::{current, scope};
#[cfg(feature = "host")]
pub use export::{ExportError, post};
#[cfg(feature = "host")]
pub use frames::{MAX_FRAME, next_frame};
#[cfg(feature = "host")]
pub use read::{BadSpans, spans};
#[cfg(feature = "host")]
pub use tracer::{Open, Tracer};
