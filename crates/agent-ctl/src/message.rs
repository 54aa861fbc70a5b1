//! JSON to messages, by the protocol's descriptors, so that an error says where in the request it is.

use std::fmt::Display;

use data_encoding::BASE64;
use kata_protocol::oci_convert;
use oci_spec::runtime;
use protobuf::MessageDyn;
use protobuf::reflect::{FieldDescriptor, MessageDescriptor, ReflectValueBox, RuntimeFieldType, RuntimeType};
use serde_json::{Map, Value};

/// What is given does not fit the request.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MessageError {
    /// No such field.
    #[error("{message} has no field `{name}`{hint}; `help {message}` lists its fields")]
    UnknownField {
        /// The message's full name.
        message: String,
        /// What was given.
        name: String,
        /// What may be meant.
        hint: String,
    },
    /// Something of another kind.
    #[error("{at} must be {expected}, not {found}")]
    Wrong {
        /// The field.
        at: String,
        /// What it can be.
        expected: String,
        /// What was given.
        found: String,
    },
    /// It is written as in the OCI runtime specification, and wrong.
    #[error("{at} is not what the OCI runtime specification says: {reason}")]
    Oci {
        /// The field.
        at: String,
        /// Why not.
        reason: String,
    },
}

/// The field of this name, in the protocol's or in JSON's spelling.
pub(crate) fn field(message: &MessageDescriptor, name: &str) -> Result<FieldDescriptor, MessageError> {
    message.field_by_name_or_json_name(name).ok_or_else(|| {
        let fields: Vec<_> = message.fields().map(|field| field.name().to_owned()).collect();
        let hint = nearest(name, fields.iter().map(String::as_str));
        MessageError::UnknownField {
            message: message.full_name().to_owned(),
            name: name.to_owned(),
            hint: hint.map_or_else(String::new, |near| format!("; did you mean `{near}`?")),
        }
    })
}

/// The name most like `name`, if one is.
pub(crate) fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_ascii_lowercase();
    let distance = |other: &str| strsim::osa_distance(&name, &other.to_ascii_lowercase());
    let (far, near) = names.map(|other| (distance(other), other)).min()?;
    (far <= 1 + name.len() / 4).then_some(near)
}

/// A message of this type. `null` is as good as not given.
pub(crate) fn from_json(
    descriptor: &MessageDescriptor,
    json: &Value,
    at: &str,
) -> Result<Box<dyn MessageDyn>, MessageError> {
    let Value::Object(fields) = json else { return Err(wrong(at, "an object", json)) };
    if let Some(message) = oci(descriptor, fields, at) {
        return message;
    }
    let mut message = descriptor.new_instance();
    for (name, json) in fields.iter().filter(|(_, json)| !json.is_null()) {
        let field = field(descriptor, name)?;
        set(message.as_mut(), &field, json, &format!("{at}.{name}"))?;
    }
    Ok(message)
}

fn set(
    message: &mut dyn MessageDyn,
    field: &FieldDescriptor,
    json: &Value,
    at: &str,
) -> Result<(), MessageError> {
    match field.runtime_field_type() {
        RuntimeFieldType::Singular(kind) => field.set_singular_field(message, value(&kind, json, at)?),
        RuntimeFieldType::Repeated(kind) => {
            let Value::Array(items) = json else { return Err(wrong(at, "a list", json)) };
            let mut list = field.mut_repeated(message);
            for (index, item) in items.iter().enumerate() {
                list.push(value(&kind, item, &format!("{at}[{index}]"))?);
            }
        }
        RuntimeFieldType::Map(key_kind, kind) => {
            let Value::Object(entries) = json else { return Err(wrong(at, "an object", json)) };
            let mut map = field.mut_map(message);
            for (name, item) in entries {
                let at = format!("{at}.{name}");
                map.insert(value(&key_kind, &Value::from(name.as_str()), &at)?, value(&kind, item, &at)?);
            }
        }
    }
    Ok(())
}

/// Numbers and truth values may be written as strings, as JSON cannot hold every number of 64 bits.
fn value(kind: &RuntimeType, json: &Value, at: &str) -> Result<ReflectValueBox, MessageError> {
    Ok(match kind {
        RuntimeType::I32 => ReflectValueBox::I32(integer(json, at, (i32::MIN, i32::MAX))?),
        RuntimeType::I64 => ReflectValueBox::I64(integer(json, at, (i64::MIN, i64::MAX))?),
        RuntimeType::U32 => ReflectValueBox::U32(integer(json, at, (u32::MIN, u32::MAX))?),
        RuntimeType::U64 => ReflectValueBox::U64(integer(json, at, (u64::MIN, u64::MAX))?),
        RuntimeType::F32 | RuntimeType::F64 => float(kind, json, at)?,
        RuntimeType::Bool => match json {
            Value::Bool(truth) => ReflectValueBox::Bool(*truth),
            Value::String(text) if text == "true" || text == "false" => ReflectValueBox::Bool(text == "true"),
            _ => return Err(wrong(at, "true or false", json)),
        },
        RuntimeType::String => match json {
            Value::String(text) => ReflectValueBox::String(text.clone()),
            _ => return Err(wrong(at, "a string", json)),
        },
        RuntimeType::VecU8 => {
            let bytes = json.as_str().and_then(|text| BASE64.decode(text.as_bytes()).ok());
            ReflectValueBox::Bytes(bytes.ok_or_else(|| wrong(at, "bytes in base64", json))?)
        }
        RuntimeType::Enum(descriptor) => {
            let known = match json {
                Value::String(name) => descriptor.value_by_name(name),
                _ => json
                    .as_i64()
                    .and_then(|n| i32::try_from(n).ok())
                    .and_then(|n| descriptor.value_by_number(n)),
            };
            let names =
                || descriptor.values().map(|value| value.name().to_owned()).collect::<Vec<_>>().join(", ");
            let known = known.ok_or_else(|| wrong(at, &format!("one of {}", names()), json))?;
            ReflectValueBox::Enum(descriptor.clone(), known.value())
        }
        RuntimeType::Message(descriptor) => ReflectValueBox::Message(from_json(descriptor, json, at)?),
    })
}

fn integer<N>(json: &Value, at: &str, (least, most): (N, N)) -> Result<N, MessageError>
where
    N: std::str::FromStr + Display,
{
    let text = match json {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => String::new(),
    };
    text.parse().map_err(|_| wrong(at, &format!("a whole number from {least} to {most}"), json))
}

fn float(kind: &RuntimeType, json: &Value, at: &str) -> Result<ReflectValueBox, MessageError> {
    let text = match json {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => String::new(),
    };
    let parsed = match kind {
        RuntimeType::F32 => text.parse().ok().map(ReflectValueBox::F32),
        _ => text.parse().ok().map(ReflectValueBox::F64),
    };
    parsed.ok_or_else(|| wrong(at, "a number", json))
}

fn wrong(at: &str, expected: &str, found: &Value) -> MessageError {
    let mut found = found.to_string();
    if found.len() > 60 {
        found.truncate(found.floor_char_boundary(60));
        found.push('…');
    }
    MessageError::Wrong { at: at.to_owned(), expected: expected.to_owned(), found }
}

/// Parts of the OCI runtime specification may be written as that writes them, as in a bundle's `config.json`: its names begin
/// with small letters, the protocol's with capitals.
fn oci(
    descriptor: &MessageDescriptor,
    fields: &Map<String, Value>,
    at: &str,
) -> Option<Result<Box<dyn MessageDyn>, MessageError>> {
    let small = fields.keys().any(|name| name.starts_with(|c: char| c.is_ascii_lowercase()));
    let json = || Value::Object(fields.clone());
    match descriptor.full_name() {
        "grpc.Spec" if small => {
            Some(parse::<runtime::Spec>(json(), at).and_then(|spec| spec_message(&spec, at)))
        }
        "grpc.Process" if small => Some(
            parse(json(), at)
                .map(|process| Box::new(oci_convert::process_to_grpc(&process)) as Box<dyn MessageDyn>),
        ),
        "grpc.LinuxResources" if small => Some(
            parse(json(), at)
                .map(|limits| Box::new(oci_convert::resources_to_grpc(&limits)) as Box<dyn MessageDyn>),
        ),
        _ => None,
    }
}

fn parse<T: serde::de::DeserializeOwned>(json: Value, at: &str) -> Result<T, MessageError> {
    serde_json::from_value(json)
        .map_err(|error| MessageError::Oci { at: at.to_owned(), reason: error.to_string() })
}

/// A specification as a message; nothing of it may be lost in silence.
pub(crate) fn spec_message(spec: &runtime::Spec, at: &str) -> Result<Box<dyn MessageDyn>, MessageError> {
    match oci_convert::unsupported(spec) {
        Some(part) => Err(MessageError::Oci {
            at: at.to_owned(),
            reason: format!("the agent's protocol has no place for its {part}"),
        }),
        None => Ok(Box::new(oci_convert::spec_to_grpc(spec))),
    }
}

#[cfg(test)]
mod tests {
    use kata_protocol::agent::{
        CopyFileRequest, CreateContainerRequest, SignalProcessRequest, StatsContainerResponse,
    };
    use kata_protocol::health::HealthCheckResponse;
    use protobuf::{MessageDyn, MessageFull};
    use serde_json::{Value, json};

    use super::from_json;

    fn read<M: MessageFull>(json: &Value) -> Result<M, String> {
        let message = from_json(&M::descriptor(), json, "request").map_err(|error| error.to_string())?;
        Ok(*(message as Box<dyn MessageDyn>).downcast_box::<M>().expect("is of its descriptor's type"))
    }

    #[test]
    fn nested_messages_lists_maps_and_numbers_are_read() {
        let request: CreateContainerRequest = read(&json!({
            "container_id": "c", "sandboxPidns": true, "stdin_port": "7",
            "storages": [{ "driver": "ephemeral", "options": ["a", "b"] }],
            "OCI": { "Annotations": { "a.b": "c" } }, "devices": null,
        }))
        .expect("fits");
        assert_eq!(
            (request.container_id.as_str(), request.sandbox_pidns, request.stdin_port),
            ("c", true, Some(7))
        );
        assert_eq!(request.storages[0].options, ["a", "b"]);
        assert_eq!(request.OCI.Annotations["a.b"], "c");
        let stats: StatsContainerResponse =
            read(&json!({ "cgroup_stats": { "pids_stats": { "limit": "18446744073709551615" } } }))
                .expect("fits");
        assert_eq!(stats.cgroup_stats.pids_stats.limit, u64::MAX);
    }

    #[test]
    fn bytes_are_base64_and_enumerations_names_or_numbers() {
        let request: CopyFileRequest = read(&json!({ "data": "aGVsbG8=" })).expect("fits");
        assert_eq!(request.data, b"hello");
        for status in [json!("SERVING"), json!(1)] {
            let answer: HealthCheckResponse = read(&json!({ "status": status })).expect("fits");
            assert_eq!(answer.status.value(), 1);
        }
    }

    #[test]
    fn an_unknown_field_is_named_with_the_nearest_known_one() {
        let refusal =
            read::<CreateContainerRequest>(&json!({ "storages": [{ "fstyp": "ext4" }] })).unwrap_err();
        assert_eq!(
            refusal,
            "grpc.Storage has no field `fstyp`; did you mean `fstype`?; `help grpc.Storage` lists its fields"
        );
        let refusal = read::<CreateContainerRequest>(&json!({ "zzz": 1 })).unwrap_err();
        assert!(refusal.starts_with("grpc.CreateContainerRequest has no field `zzz`; `help"), "{refusal}");
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_place() {
        let cases = [
            (json!({ "signal": -1 }), "request.signal must be a whole number from 0 to 4294967295, not -1"),
            (json!({ "signal": 1.5 }), "request.signal must be a whole number from 0 to 4294967295, not 1.5"),
            (json!({ "container_id": 1 }), "request.container_id must be a string, not 1"),
            (json!([]), "request must be an object, not []"),
        ];
        for (json, expected) in cases {
            assert_eq!(read::<SignalProcessRequest>(&json).unwrap_err(), expected);
        }
        let storages = json!({ "storages": [{}, { "options": "x" }] });
        assert_eq!(
            read::<CreateContainerRequest>(&storages).unwrap_err(),
            "request.storages[1].options must be a list, not \"x\""
        );
        let status = read::<HealthCheckResponse>(&json!({ "status": "GOOD" })).unwrap_err();
        assert_eq!(status, "request.status must be one of UNKNOWN, SERVING, NOT_SERVING, not \"GOOD\"");
    }

    #[test]
    fn a_specification_may_be_written_as_in_a_bundle() {
        let spec = json!({ "ociVersion": "1.2.0", "root": { "path": "/r" }, "hostname": "h" });
        let request: CreateContainerRequest = read(&json!({ "OCI": spec })).expect("fits");
        assert_eq!((request.OCI.Root.Path.as_str(), request.OCI.Hostname.as_str()), ("/r", "h"));
        let refusal = read::<CreateContainerRequest>(&json!({ "OCI": { "root": 1 } })).unwrap_err();
        assert!(
            refusal.starts_with("request.OCI is not what the OCI runtime specification says: "),
            "{refusal}"
        );
    }
}
