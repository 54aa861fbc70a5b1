//! What `help` and `list` print.

use std::fmt::Write;

use protobuf::reflect::{MessageDescriptor, RuntimeFieldType, RuntimeType};

use crate::apis::Apis;

const COMMANDS: &str = "\
REQUEST NAME=VALUE …     send a request; NAME may lead into messages and maps with dots, and a list's name is given again
REQUEST json://{…}       send a request as JSON; bytes are in base64
REQUEST file:///x.json   send a request as JSON, from a file
echo TEXT                print a text
help [REQUEST|MESSAGE]   print this, or the fields of a request or message
list                     print all requests; those of this project have their service's name in front
quit                     end
repeat N [COMMAND]       run a command, or the next one, N times; -1 is for ever
sleep TIME               wait, for example 500ms or 10s; a number alone is nanoseconds";

/// All of the tool's own commands.
pub(crate) fn commands() -> String {
    COMMANDS.to_owned()
}

/// All requests, one a line.
pub(crate) fn list(apis: &Apis) -> String {
    let mut names: Vec<_> = apis.iter().map(|api| (!api.is_upstreams(), api.name())).collect();
    names.sort();
    names.into_iter().map(|(_, name)| name).collect::<Vec<_>>().join("\n")
}

/// The fields of a request and of its answer, or of a message.
pub(crate) fn one(apis: &Apis, name: &str) -> Option<String> {
    if let Some(message) = apis.message(name) {
        return Some(fields(&message));
    }
    let api = apis.find(name)?;
    Some(format!("{}/{}\n{}answers\n{}", api.service, api.method, fields(&api.input), fields(&api.output)))
        .map(|text| text.trim_end().to_owned())
}

fn fields(message: &MessageDescriptor) -> String {
    let rows: Vec<_> =
        message.fields().map(|field| (field.name().to_owned(), kind(&field.runtime_field_type()))).collect();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut text = format!("  {}\n", message.full_name());
    for (name, kind) in rows {
        writeln!(text, "    {name:<width$}  {kind}").expect("writing to a string cannot fail");
    }
    text
}

fn kind(field: &RuntimeFieldType) -> String {
    match field {
        RuntimeFieldType::Singular(kind) => single(kind),
        RuntimeFieldType::Repeated(kind) => format!("list of {}", single(kind)),
        RuntimeFieldType::Map(key, value) => format!("map from {} to {}", single(key), single(value)),
    }
}

/// The protocol's name of a type.
fn single(kind: &RuntimeType) -> String {
    match kind {
        RuntimeType::I32 => "int32".to_owned(),
        RuntimeType::I64 => "int64".to_owned(),
        RuntimeType::U32 => "uint32".to_owned(),
        RuntimeType::U64 => "uint64".to_owned(),
        RuntimeType::F32 => "float".to_owned(),
        RuntimeType::F64 => "double".to_owned(),
        RuntimeType::Bool => "bool".to_owned(),
        RuntimeType::String => "string".to_owned(),
        RuntimeType::VecU8 => "bytes".to_owned(),
        RuntimeType::Message(message) => message.full_name().to_owned(),
        RuntimeType::Enum(names) => {
            names.values().map(|value| value.name().to_owned()).collect::<Vec<_>>().join(" | ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::one;
    use crate::apis::Apis;

    #[test]
    fn a_request_is_explained_by_its_fields_and_its_answer() {
        insta::assert_snapshot!(one(&Apis::new(), "check").expect("is there"), @"
        grpc.Health/Check
          grpc.CheckRequest
            service  string
        answers
          grpc.HealthCheckResponse
            status  UNKNOWN | SERVING | NOT_SERVING
        ");
    }

    #[test]
    fn lists_maps_and_messages_are_told_apart() {
        let text = one(&Apis::new(), "grpc.MemoryStats").expect("is there");
        assert!(text.contains("map from string to uint64"), "{text}");
        let text = one(&Apis::new(), "CreateContainer").expect("is there");
        assert!(text.contains("list of grpc.Storage") && text.contains("OCI            grpc.Spec"), "{text}");
    }
}
