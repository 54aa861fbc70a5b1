//! Spans of a guest, read from what it says is OTLP. A guest is not trusted: what is not understood is refused, and of the
//! rest only what a [`Span`] holds goes any further.

use std::borrow::Cow;

use crate::otlp::{STATUS_ERROR, kind_number};
use crate::wire::{Fields, Value};
use crate::{Context, Kind, Span};

/// What is kept of a guest's span: so many attributes, and so many bytes of each text, of an error four times as many. A message that
/// is small on the wire can be much in memory.
const ATTRIBUTES: usize = 16;
const TEXT: usize = 256;

/// These bytes are no spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("The guest's agent sent spans that are no ExportTraceServiceRequest of OTLP")]
pub struct BadSpans;

impl From<()> for BadSpans {
    fn from((): ()) -> Self {
        Self
    }
}

/// The spans of an `ExportTraceServiceRequest`, whatever their resources.
///
/// # Errors
/// It is none, or one of its spans has no valid name or place.
pub fn spans(request: &[u8]) -> Result<Vec<Span>, BadSpans> {
    let mut spans = Vec::new();
    for resource_spans in messages(request, 1) {
        for scope_spans in messages(resource_spans?, 2) {
            for each in messages(scope_spans?, 2) {
                spans.push(span(each?)?);
            }
        }
    }
    Ok(spans)
}

/// The messages in a field that may be there many times.
fn messages(bytes: &[u8], field: u64) -> impl Iterator<Item = Result<&[u8], BadSpans>> {
    Fields(bytes).filter_map(move |read| match read {
        Ok((number, Value::Bytes(bytes))) if number == field => Some(Ok(bytes)),
        Ok(_) => None,
        Err(()) => Some(Err(BadSpans)),
    })
}

fn span(bytes: &[u8]) -> Result<Span, BadSpans> {
    let context = Context { trace: [0; 16], span: [0; 8], sampled: true };
    let mut span = Span {
        context,
        parent: None,
        name: Cow::Borrowed(""),
        kind: Kind::Internal,
        start: 0,
        end: 0,
        attributes: Vec::new(),
        error: None,
    };
    for field in Fields(bytes) {
        match field? {
            (1, Value::Bytes(id)) => span.context.trace = id.try_into().map_err(|_| BadSpans)?,
            (2, Value::Bytes(id)) => span.context.span = id.try_into().map_err(|_| BadSpans)?,
            (4, Value::Bytes([])) => {}
            (4, Value::Bytes(id)) => span.parent = Some(id.try_into().map_err(|_| BadSpans)?),
            (5, Value::Bytes(name)) => span.name = text(name)?.into(),
            (6, Value::Number(number)) if number == kind_number(Kind::Server) => span.kind = Kind::Server,
            (7, Value::Fixed64(time)) => span.start = time,
            (8, Value::Fixed64(time)) => span.end = time,
            (9, Value::Bytes(pair)) if span.attributes.len() < ATTRIBUTES => {
                span.attributes.extend(attribute(pair)?);
            }
            (15, Value::Bytes(status)) => span.error = error(status)?,
            _ => {}
        }
    }
    let is_placed = span.context.trace != [0; 16] && span.context.span != [0; 8] && span.start <= span.end;
    is_placed.then_some(span).ok_or(BadSpans)
}

/// Of values that are no text nothing is said.
fn attribute(pair: &[u8]) -> Result<Option<(Cow<'static, str>, String)>, BadSpans> {
    let (mut key, mut said) = (String::new(), None);
    for field in Fields(pair) {
        match field? {
            (1, Value::Bytes(name)) => key = text(name)?,
            (2, Value::Bytes(any)) => {
                for value in messages(any, 1) {
                    said = Some(text(value?)?);
                }
            }
            _ => {}
        }
    }
    Ok(said.map(|value| (key.into(), value)))
}

fn error(status: &[u8]) -> Result<Option<String>, BadSpans> {
    let (mut message, mut code) = (String::new(), 0);
    for field in Fields(status) {
        match field? {
            (2, Value::Bytes(words)) => message = cut(words, 4 * TEXT)?,
            (3, Value::Number(number)) => code = number,
            _ => {}
        }
    }
    Ok((code == STATUS_ERROR).then_some(message))
}

fn text(bytes: &[u8]) -> Result<String, BadSpans> {
    cut(bytes, TEXT)
}

fn cut(bytes: &[u8], length: usize) -> Result<String, BadSpans> {
    let text = std::str::from_utf8(bytes).map_err(|_| BadSpans)?;
    Ok(text[..text.floor_char_boundary(length)].to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{BadSpans, spans};
    use crate::{Batch, Context, Kind, Span, encode};

    fn span() -> Span {
        Span {
            context: Context::root(),
            parent: Some([7; 8]),
            name: "grpc.AgentService/StartContainer".into(),
            kind: Kind::Server,
            start: 1,
            end: 1 << 40,
            attributes: vec![("container".into(), "web".into())],
            error: Some("There is no container web".into()),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let root = Span { parent: None, kind: Kind::Internal, error: None, attributes: Vec::new(), ..span() };
        let all = [span(), root];
        let resource = [("service.name", "kata-agent".to_owned())];
        assert_eq!(spans(&encode(Batch { resource: &resource, spans: &all })), Ok(all.to_vec()));
    }

    #[test]
    fn two_messages_one_after_the_other_are_one() {
        let batch = |span: &Span| encode(Batch { resource: &[], spans: std::slice::from_ref(span) });
        let both = [span(), span()];
        assert_eq!(spans(&[batch(&both[0]), batch(&both[1])].concat()), Ok(both.to_vec()));
    }

    /// A message of 64 KiB became a span of half a megabyte, of which a thousand may wait.
    #[test]
    fn of_a_large_span_little_is_kept() {
        let long = "ä".repeat(3000);
        let attributes = vec![(long.clone().into(), long.clone()); 20];
        let large = Span { name: long.clone().into(), attributes, error: Some(long), ..span() };
        let read = spans(&encode(Batch { resource: &[], spans: &[large] })).unwrap();
        assert_eq!((read[0].name.len(), read[0].attributes.len()), (256, 16));
        assert_eq!(read[0].attributes[15].1, "ä".repeat(128));
        assert_eq!(read[0].error.as_ref().map(String::len), Some(1024));
    }

    #[test]
    fn a_span_without_a_place_is_refused() {
        let none = Context { trace: [0; 16], ..Context::root() };
        for wrong in [Span { context: none, ..span() }, Span { start: 2, end: 1, ..span() }] {
            assert_eq!(spans(&encode(Batch { resource: &[], spans: &[wrong] })), Err(BadSpans));
        }
    }

    #[test]
    fn a_message_that_is_cut_off_is_refused() {
        let whole = encode(Batch { resource: &[], spans: &[span()] });
        for length in 1..whole.len() {
            assert_eq!(spans(&whole[..length]), Err(BadSpans), "{length}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes in any::<Vec<u8>>()) {
            let _ = spans(&bytes);
        }
    }
}
