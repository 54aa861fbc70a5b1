//! logfmt: `key=value` pairs with spaces between, values in quotation marks where they must be.

use std::fmt::Write;

/// What is wrong with a line, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LogfmtError {
    /// A word without a value, which logfmt's writers do not write.
    #[error("`{0}` is no key=value pair")]
    Pair(String),
    /// A value's end is missing.
    #[error("the value of `{0}` has no closing quotation mark")]
    Open(String),
    /// A value's end is not the word's.
    #[error("after the value of `{0}` there is no space")]
    Glued(String),
    /// A backslash and something odd.
    #[error("the value of `{0}` has an escape sequence that nobody knows")]
    Escape(String),
}

/// The pairs of a line, in order.
pub(crate) fn parse(line: &str) -> Result<Vec<(String, String)>, LogfmtError> {
    let mut pairs = Vec::new();
    let mut rest = line.trim_start_matches(' ');
    while !rest.is_empty() {
        let end = rest.find([' ', '=', '"']).unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        let word = || rest.split(' ').next().unwrap_or(rest).to_owned();
        let Some(value) = after.strip_prefix('=').filter(|_| !key.is_empty()) else {
            return Err(LogfmtError::Pair(word()));
        };
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => unquote(key, quoted)?,
            None => {
                let (value, after) = value.split_at(value.find(' ').unwrap_or(value.len()));
                (value.to_owned(), after)
            }
        };
        if !after.is_empty() && !after.starts_with(' ') {
            return Err(LogfmtError::Glued(key.to_owned()));
        }
        pairs.push((key.to_owned(), value));
        rest = after.trim_start_matches(' ');
    }
    Ok(pairs)
}

/// The value up to the closing mark, as Go and JSON escape, and what is after it.
fn unquote<'a>(key: &str, text: &'a str) -> Result<(String, &'a str), LogfmtError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    loop {
        let Some(at) = rest.find(['"', '\\']) else { return Err(LogfmtError::Open(key.to_owned())) };
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let found = rest.as_bytes()[at];
        rest = &rest[at + 1..];
        if found == b'"' {
            // `\x` can make anything of bytes.
            let value = String::from_utf8(bytes)
                .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
            return Ok((value, rest));
        }
        rest = escape(rest, &mut bytes).ok_or_else(|| LogfmtError::Escape(key.to_owned()))?;
    }
}

/// What a backslash begins; the rest after it.
fn escape<'a>(text: &'a str, bytes: &mut Vec<u8>) -> Option<&'a str> {
    let kind = text.chars().next()?;
    let rest = &text[kind.len_utf8()..];
    let simple = match kind {
        '"' | '\\' | '\'' | '/' => kind as u8,
        'a' => 7,
        'b' => 8,
        't' => 9,
        'n' => 10,
        'v' => 11,
        'f' => 12,
        'r' => 13,
        'x' => {
            bytes.push(u8::from_str_radix(digits(rest, 2)?, 16).ok()?);
            return rest.get(2..);
        }
        'u' => return unicode(rest, 4, bytes),
        'U' => return unicode(rest, 8, bytes),
        _ => return None,
    };
    bytes.push(simple);
    Some(rest)
}

fn unicode<'a>(text: &'a str, length: usize, bytes: &mut Vec<u8>) -> Option<&'a str> {
    let read = |text: &str| u32::from_str_radix(digits(text, length)?, 16).ok();
    let (mut code, mut rest) = (read(text)?, text.get(length..)?);
    // JSON writes what is beyond 16 bits as two halves.
    if (0xd800..0xdc00).contains(&code)
        && let Some(low) =
            rest.strip_prefix("\\u").and_then(read).filter(|low| (0xdc00..0xe000).contains(low))
    {
        code = 0x1_0000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        rest = rest.get(6..)?;
    }
    bytes.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut [0; 4]).as_bytes());
    Some(rest)
}

/// So many hexadecimal digits.
fn digits(text: &str, length: usize) -> Option<&str> {
    text.get(..length).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Adds `key=value` to a line, so that [`parse`] reads the same.
pub(crate) fn push(line: &mut String, key: &str, value: &str) {
    if !line.is_empty() {
        line.push(' ');
    }
    line.push_str(key);
    line.push('=');
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+:".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        line.push_str(value);
        return;
    }
    line.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => line.extend(['\\', c]),
            '\n' => line.push_str("\\n"),
            '\t' => line.push_str("\\t"),
            c if c.is_control() => {
                write!(line, "\\u{:04x}", u32::from(c)).expect("writing to a string cannot fail");
            }
            c => line.push(c),
        }
    }
    line.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{LogfmtError, parse, push};

    fn pairs(line: &str) -> Vec<(String, String)> {
        parse(line).expect(line)
    }

    #[test]
    fn values_may_be_bare_quoted_or_empty() {
        let line =
            r#"time="2026-11-22T07:36:11Z" level=info msg="a \"b\" = c"  path=/run/x:1 none= empty="""#;
        let expected = [
            ("time", "2026-11-22T07:36:11Z"),
            ("level", "info"),
            ("msg", "a \"b\" = c"),
            ("path", "/run/x:1"),
            ("none", ""),
            ("empty", ""),
        ];
        assert_eq!(pairs(line), expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }

    #[test]
    fn escapes_of_go_and_of_json_are_read() {
        let line = r#"a="\t\n\r\\\x1b\u001b\U0001f600\ud83d\ude00\x80""#;
        assert_eq!(pairs(line)[0].1, "\t\n\r\\\x1b\x1b😀😀\u{fffd}");
    }

    #[test]
    fn what_is_no_logfmt_is_named() {
        let cases = [
            ("hello world", LogfmtError::Pair("hello".into())),
            ("a=1 hello", LogfmtError::Pair("hello".into())),
            ("=1", LogfmtError::Pair("=1".into())),
            ("a=\"b", LogfmtError::Open("a".into())),
            ("a=\"b\\", LogfmtError::Escape("a".into())),
            ("a=\"b\"c=1", LogfmtError::Glued("a".into())),
            ("a=\"\\q\"", LogfmtError::Escape("a".into())),
            ("a=\"\\ud83d\"", LogfmtError::Escape("a".into())),
        ];
        for (line, expected) in cases {
            assert_eq!(parse(line), Err(expected), "{line}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_the_same(fields in prop::collection::vec(("[a-z_.-]{1,8}", any::<String>()), 0..6)) {
            let mut line = String::new();
            for (key, value) in &fields {
                push(&mut line, key, value);
            }
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(parse(&line), Ok(fields));
        }

        #[test]
        fn any_line_is_read_without_panic(line in any::<String>()) {
            let _ = parse(&line);
        }
    }
}
