//! Where a span stands: W3C's trace context, and its text `traceparent`.

use std::fmt;

use rustix::rand::{GetRandomFlags, getrandom};

/// The header, and the key in ttRPC's metadata.
pub const TRACEPARENT: &str = "traceparent";

/// What names a span within its trace; never all zero.
pub type SpanId = [u8; 8];

/// A span's place: its trace, its own id, and whether anybody wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// The trace; never all zero.
    pub trace: [u8; 16],
    /// The span.
    pub span: SpanId,
    /// Whoever began the trace has it recorded.
    pub sampled: bool,
}

impl Context {
    /// A span that begins a trace.
    #[must_use]
    pub fn root() -> Self {
        Self { trace: random(), span: random(), sampled: true }
    }

    /// A span below this one.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { span: random(), ..*self }
    }

    /// Reads a `traceparent`. Later versions of the format may say more; what is known stands first. `None`: it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let (version, trace) = (hex::<1>(bytes.get(..2)?)?, hex(bytes.get(3..35)?)?);
        let (span, flags) = (hex(bytes.get(36..52)?)?, hex::<1>(bytes.get(53..55)?)?);
        let dashes = [2, 35, 52].into_iter().all(|at| bytes[at] == b'-');
        let ends = match version {
            [0xff] => false,
            [0] => bytes.len() == 55,
            _ => matches!(bytes.get(55), None | Some(b'-')),
        };
        let real = trace != [0; 16] && span != [0; 8];
        (dashes && ends && real).then_some(Self { trace, span, sampled: flags[0] & 1 == 1 })
    }
}

impl fmt::Display for Context {
    /// As a `traceparent`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex =
            |f: &mut fmt::Formatter<'_>, bytes: &[u8]| bytes.iter().try_for_each(|b| write!(f, "{b:02x}"));
        f.write_str("00-")?;
        hex(f, &self.trace)?;
        f.write_str("-")?;
        hex(f, &self.span)?;
        write!(f, "-{:02x}", u8::from(self.sampled))
    }
}

/// The context that came with a request, in the metadata of ttRPC (lists by key, with keys in any case). What is no
/// context is none.
#[must_use]
pub fn of_metadata<'m>(metadata: impl IntoIterator<Item = (&'m String, &'m Vec<String>)>) -> Option<Context> {
    let mut all = metadata.into_iter();
    let (_, values) = all.find(|(key, _)| key.eq_ignore_ascii_case(TRACEPARENT))?;
    // Two would be a contradiction.
    let [one] = values.as_slice() else { return None };
    Context::parse(one)
}

/// Lower case only, as the standard says.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Early in a guest's life the kernel may have no entropy yet, and a name need not be a secret: nobody waits for it.
    let _ = getrandom(&mut bytes[..], GetRandomFlags::INSECURE);
    // Zero means "none".
    bytes[N - 1] |= u8::from(bytes == [0; N]);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Context, of_metadata};

    const TEXT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_and_written() {
        let context = Context::parse(TEXT).unwrap();
        assert!(context.sampled && context.span[0] == 0xb7 && context.trace[15] == 0x9c);
        assert_eq!(context.to_string(), TEXT);
        assert!(!Context::parse(&TEXT.replace("-01", "-00")).unwrap().sampled);
    }

    #[test]
    fn what_is_no_traceparent_is_none() {
        let zero_trace = TEXT.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32));
        let zero_span = TEXT.replace("b7ad6b7169203331", &"0".repeat(16));
        let more = format!("{TEXT}-more");
        let wrong = ["", "00", &zero_trace, &zero_span, &more, &TEXT.to_uppercase(), &TEXT[..54]];
        for text in wrong.into_iter().chain([&*TEXT.replacen("00", "ff", 1), &TEXT.replacen('-', "_", 1)]) {
            assert_eq!(Context::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_later_version_may_say_more() {
        assert!(Context::parse(&format!("{}-more", TEXT.replacen("00", "01", 1))).is_some());
    }

    #[test]
    fn a_child_is_another_span_of_the_same_trace() {
        let root = Context::root();
        let child = root.child();
        assert!(child.trace == root.trace && child.span != root.span && child.sampled);
    }

    #[test]
    fn one_context_comes_with_a_request_and_two_are_none() {
        let with = |values: &[&str]| {
            let values = values.iter().map(|value| (*value).to_owned()).collect();
            of_metadata(&std::collections::HashMap::from([("Traceparent".to_owned(), values)]))
        };
        assert_eq!(with(&[TEXT]), Context::parse(TEXT));
        assert_eq!([with(&[]), with(&[TEXT, TEXT]), with(&["garbage"])], [None; 3]);
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in any::<String>()) {
            let _ = Context::parse(&text);
        }
    }
}
