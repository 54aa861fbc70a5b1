//! The arguments of a request: `name=value …`, `json://{…}` or `file:///x.json`, all as one JSON object.

use std::fs;
use std::io;
use std::path::PathBuf;

use data_encoding::BASE64;
use protobuf::reflect::{MessageDescriptor, RuntimeFieldType, RuntimeType};
use serde_json::{Map, Value};

use crate::message::{MessageError, field};

const JSON: &str = "json://";
const FILE: &str = "file://";

/// The arguments cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArgumentError {
    /// Not of the form of an argument.
    #[error("`{0}` is no argument; write NAME=VALUE, json://{{…}} or file:///x.json")]
    Form(String),
    /// Said twice, and there is room for one.
    #[error("{0} is given twice")]
    Twice(String),
    /// The name goes deeper than the field, or not deep enough.
    #[error("{name} cannot be given as {name}=VALUE: it is {kind}; {instead}")]
    Shape {
        /// The name.
        name: String,
        /// What it is.
        kind: &'static str,
        /// What can be written.
        instead: &'static str,
    },
    /// A quote that does not end.
    #[error("A quotation mark is not closed: {0}")]
    Quote(String),
    /// It should be JSON.
    #[error("{place} holds no JSON")]
    Json {
        /// The argument or the file.
        place: String,
        /// Why not.
        source: serde_json::Error,
    },
    /// A file cannot be read.
    #[error("Cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It does not fit the request.
    #[error(transparent)]
    Message(#[from] MessageError),
}

/// The arguments of a request of this type.
pub(crate) fn parse(text: &str, descriptor: &MessageDescriptor) -> Result<Value, ArgumentError> {
    let text = text.trim();
    if text.starts_with(JSON) {
        return from_json(text);
    }
    let words = split(text)?;
    match words.as_slice() {
        [file] if file.starts_with(FILE) => from_file(file),
        _ => {
            let mut fields = Map::new();
            for word in &words {
                let (name, text) = word.split_once('=').ok_or_else(|| ArgumentError::Form(word.clone()))?;
                insert(&mut fields, descriptor, (name, name), text)?;
            }
            Ok(Value::Object(fields))
        }
    }
}

/// Words are apart by spaces; quotation marks hold spaces, and a backslash takes the meaning from what follows. A value
/// that begins with `json://` is the rest of the line as it is.
pub(crate) fn split(text: &str) -> Result<Vec<String>, ArgumentError> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let value = rest.split_once('=').map_or("", |(_, value)| value);
        if value.starts_with(JSON) && !rest.starts_with(['"', '\'']) && !has_space_before(rest, '=') {
            words.push(rest.trim_end().to_owned());
            break;
        }
        let (word, after) = word(rest)?;
        words.push(word);
        rest = after.trim_start();
    }
    Ok(words)
}

fn has_space_before(text: &str, end: char) -> bool {
    text.chars().take_while(|c| *c != end).any(char::is_whitespace)
}

/// The first word, and what is after it.
fn word(text: &str) -> Result<(String, &str), ArgumentError> {
    let mut word = String::new();
    let mut quote = None;
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => match characters.next() {
                Some((_, escaped)) => word.push(escaped),
                None => return Err(ArgumentError::Quote(text.to_owned())),
            },
            (c, Some(open)) if c == open => quote = None,
            (c, Some(_)) => word.push(c),
            ('"' | '\'', None) => quote = Some(c),
            (c, None) if c.is_whitespace() => return Ok((word, &text[at..])),
            (c, None) => word.push(c),
        }
    }
    if quote.is_some() { Err(ArgumentError::Quote(text.to_owned())) } else { Ok((word, "")) }
}

/// Puts `whole=text` where it belongs: `name` is the part of the name that is not gone yet, with dots between fields.
fn insert(
    fields: &mut Map<String, Value>,
    descriptor: &MessageDescriptor,
    (name, whole): (&str, &str),
    text: &str,
) -> Result<(), ArgumentError> {
    let (first, rest) = name.split_once('.').map_or((name, None), |(first, rest)| (first, Some(rest)));
    let field = field(descriptor, first)?;
    let shape = |kind, instead| ArgumentError::Shape { name: whole.to_owned(), kind, instead };
    let twice = || ArgumentError::Twice(whole.to_owned());
    match (field.runtime_field_type(), rest) {
        (RuntimeFieldType::Singular(RuntimeType::Message(inner)), Some(rest)) => {
            let object = fields.entry(field.name()).or_insert_with(|| Value::Object(Map::new()));
            insert(object.as_object_mut().ok_or_else(twice)?, &inner, (rest, whole), text)
        }
        (RuntimeFieldType::Singular(kind), None) => {
            let value = leaf(&kind, whole, text)?;
            fields.insert(field.name().to_owned(), value).map_or(Ok(()), |_| Err(twice()))
        }
        (RuntimeFieldType::Repeated(kind), None) => {
            let value = leaf(&kind, whole, text)?;
            let list = fields.entry(field.name()).or_insert_with(|| Value::Array(Vec::new()));
            list.as_array_mut().ok_or_else(twice)?.push(value);
            Ok(())
        }
        (RuntimeFieldType::Map(_, kind), Some(key)) => {
            let value = leaf(&kind, whole, text)?;
            let object = fields.entry(field.name()).or_insert_with(|| Value::Object(Map::new()));
            let object = object.as_object_mut().ok_or_else(twice)?;
            object.insert(key.to_owned(), value).map_or(Ok(()), |_| Err(twice()))
        }
        (RuntimeFieldType::Map(..), None) => Err(shape("a map", "write NAME.KEY=VALUE")),
        (RuntimeFieldType::Repeated(_), Some(_)) => {
            Err(shape("in a list", "write the list's items as NAME=json://{…}"))
        }
        (RuntimeFieldType::Singular(_), Some(_)) => {
            Err(shape("below a field without parts", "shorten the name"))
        }
    }
}

/// One value. Bytes are the text itself or those of a file, not base64 as in JSON.
fn leaf(kind: &RuntimeType, name: &str, text: &str) -> Result<Value, ArgumentError> {
    let is_message = matches!(kind, RuntimeType::Message(_));
    match kind {
        RuntimeType::VecU8 => {
            let bytes = match text.strip_prefix(FILE) {
                Some(path) => read(path)?,
                None => text.as_bytes().to_owned(),
            };
            Ok(Value::String(BASE64.encode(&bytes)))
        }
        _ if text.starts_with(JSON) => from_json(text),
        _ if is_message && text.starts_with(FILE) => from_file(text),
        _ if is_message => Err(ArgumentError::Shape {
            name: name.to_owned(),
            kind: "a message",
            instead: "write NAME.FIELD=VALUE, NAME=json://{…} or NAME=file:///x.json",
        }),
        _ => Ok(Value::String(text.to_owned())),
    }
}

fn from_json(argument: &str) -> Result<Value, ArgumentError> {
    let text = argument.strip_prefix(JSON).unwrap_or(argument);
    serde_json::from_str(text).map_err(|source| ArgumentError::Json { place: argument.to_owned(), source })
}

fn from_file(argument: &str) -> Result<Value, ArgumentError> {
    let bytes = read(argument.strip_prefix(FILE).unwrap_or(argument))?;
    serde_json::from_slice(&bytes)
        .map_err(|source| ArgumentError::Json { place: argument.to_owned(), source })
}

fn read(path: &str) -> Result<Vec<u8>, ArgumentError> {
    fs::read(path).map_err(|source| ArgumentError::File { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use kata_protocol::agent::{CreateContainerRequest, UpdateInterfaceRequest, WriteStreamRequest};
    use protobuf::MessageFull;
    use serde_json::{Value, json};

    use super::{parse, split};

    fn read<M: MessageFull>(text: &str) -> Result<Value, String> {
        parse(text, &M::descriptor()).map_err(|error| error.to_string())
    }

    #[test]
    fn pairs_json_and_files_say_the_same() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), r#"{"container_id": "c d"}"#).expect("written");
        let file = format!("file://{}", file.path().display());
        for text in [
            "container_id=\"c d\"",
            "container_id='c d'",
            r"container_id=c\ d",
            r#"json://{"container_id": "c d"}"#,
            &file,
        ] {
            assert_eq!(
                read::<CreateContainerRequest>(text).expect(text),
                json!({ "container_id": "c d" }),
                "{text}"
            );
        }
        assert_eq!(read::<CreateContainerRequest>("").expect("nothing"), json!({}));
    }

    #[test]
    fn dots_lead_into_messages_and_maps() {
        let pairs = "interface.name=eth0 interface.mtu=1400";
        let expected = json!({ "interface": { "name": "eth0", "mtu": "1400" } });
        assert_eq!(read::<UpdateInterfaceRequest>(pairs).expect("fits"), expected);
        let pairs = "OCI.Annotations.a.b=c";
        assert_eq!(
            read::<CreateContainerRequest>(pairs).expect("fits"),
            json!({ "OCI": { "Annotations": { "a.b": "c" } } })
        );
    }

    #[test]
    fn a_name_given_again_adds_to_a_list() {
        let pairs = r#"OCI.Process.Args=ls OCI.Process.Args=-l devices=json://{"id": "a b"}"#;
        let expected =
            json!({ "OCI": { "Process": { "Args": ["ls", "-l"] } }, "devices": [{ "id": "a b" }] });
        assert_eq!(read::<CreateContainerRequest>(pairs).expect("fits"), expected);
        assert_eq!(
            read::<CreateContainerRequest>("exec_id=a exec_id=b").unwrap_err(),
            "exec_id is given twice"
        );
    }

    #[test]
    fn bytes_are_the_text_itself_or_a_files() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), b"\xff\x00").expect("written");
        assert_eq!(read::<WriteStreamRequest>("data=hello").expect("fits"), json!({ "data": "aGVsbG8=" }));
        let file = format!("data=file://{}", file.path().display());
        assert_eq!(read::<WriteStreamRequest>(&file).expect("fits"), json!({ "data": "/wA=" }));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let cases = [
            ("container_id", "`container_id` is no argument; write NAME=VALUE, json://{…} or file:///x.json"),
            ("json://{", "json://{ holds no JSON"),
            ("file:///no/such.json", "Cannot read /no/such.json"),
            ("container_id='c", "A quotation mark is not closed: container_id='c"),
            (
                "OCI.Annotations=x",
                "OCI.Annotations cannot be given as OCI.Annotations=VALUE: it is a map; write NAME.KEY=VALUE",
            ),
            (
                "exec_id.x=1",
                "exec_id.x cannot be given as exec_id.x=VALUE: it is below a field without parts; shorten the name",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(read::<CreateContainerRequest>(text).unwrap_err(), expected);
        }
        let shape = read::<CreateContainerRequest>("OCI=x").unwrap_err();
        assert!(shape.starts_with("OCI cannot be given as OCI=VALUE: it is a message; write"), "{shape}");
    }

    #[test]
    fn words_are_apart_by_spaces_unless_quoted() {
        assert_eq!(
            split(r#" a  "b c" d\ e 'f"g' h"i"j "#).expect("words"),
            ["a", "b c", "d e", "f\"g", "hij"]
        );
        assert!(split("").expect("nothing").is_empty());
        assert!(split("a\\").is_err());
    }
}
