//! XML: every value is the text of an element.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use crate::record::{Log, Record};

/// The attribute of elements whose text is escaped as in [`escaped`].
const ESCAPED: &str = "escaped";

/// Writes all.
pub(crate) fn write(log: &Log, out: &mut dyn Write) -> io::Result<()> {
    let mut writer = Writer::new_with_indent(&mut *out, b' ', 2);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    writer
        .create_element("log")
        .write_inner_content(|writer| log.entries.iter().try_for_each(|record| entry(writer, record)))?;
    writeln!(out)
}

fn entry<W: Write>(writer: &mut Writer<W>, record: &Record) -> io::Result<()> {
    let number = |number: Option<u64>| number.map(|number| Cow::Owned(number.to_string()));
    let text = |text: &Option<String>| text.clone().map(Cow::<str>::Owned);
    let elements = [
        ("count", number(Some(record.count))),
        ("file", Some(Cow::Borrowed(record.file.as_str()))),
        ("line", number(Some(record.line))),
        ("time", Some(Cow::Borrowed(record.time.as_str()))),
        ("time_delta", number(Some(record.time_delta))),
        ("level", Some(Cow::Borrowed(record.level.as_str()))),
        ("msg", Some(Cow::Borrowed(record.msg.as_str()))),
        ("name", text(&record.name)),
        ("pid", number(record.pid.map(u64::from))),
        ("source", text(&record.source)),
        ("container", text(&record.container)),
        ("sandbox", text(&record.sandbox)),
    ];
    writer.create_element("entry").write_inner_content(|writer| {
        for (name, value) in elements {
            value.map_or(Ok(()), |value| element(writer, name, &value))?;
        }
        for (key, value) in &record.data {
            writer.create_element("field").write_inner_content(|writer| {
                element(writer, "key", key)?;
                element(writer, "value", value)
            })?;
        }
        Ok(())
    })?;
    Ok(())
}

fn element<W: Write>(writer: &mut Writer<W>, name: &str, text: &str) -> io::Result<()> {
    let element = writer.create_element(name);
    match escaped(text) {
        None => element.write_text_content(BytesText::new(text))?,
        Some(text) => element.with_attribute((ESCAPED, "true")).write_text_content(BytesText::new(&text))?,
    };
    Ok(())
}

/// XML has no place for most control characters, and changes a carriage return: a text that has such is written as in a
/// JSON string, with backslashes doubled and those as `\uXXXX`.
fn escaped(text: &str) -> Option<String> {
    let cannot = |c: char| (c.is_control() && c != '\n' && c != '\t') || matches!(c, '\u{fffe}' | '\u{ffff}');
    if !text.contains(cannot) {
        return None;
    }
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            c if cannot(c) => {
                write!(escaped, "\\u{:04x}", u32::from(c)).expect("writing to a string cannot fail");
            }
            c => escaped.push(c),
        }
    }
    Some(escaped)
}
