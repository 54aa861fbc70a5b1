//! Conversion of `oci-spec`'s OCI specification to that of the agent protocol.
//!
//! It starts at the JSON form of the specification, whose names and enumerations `oci-spec` already knows.
//! In the protocol a zero, an empty string or an empty list means "not given"; a device number of -1 means "any".

mod from_json;

#[cfg(test)]
mod tests;

use oci_spec::runtime;
use serde_json::Value;

use crate::oci;

/// Parts of the specification (JSON pointers) that have no field in the protocol.
const UNSUPPORTED: [&str; 2] = ["/linux/memoryPolicy", "/linux/netDevices"];

/// `spec` as a message; what the protocol cannot hold is left out.
#[must_use]
pub fn spec_to_grpc(spec: &runtime::Spec) -> oci::Spec {
    from_json::spec(from_json::Node(&as_json(spec)))
}

/// `process` as a message; what the protocol cannot hold is left out.
#[must_use]
pub fn process_to_grpc(process: &runtime::Process) -> oci::Process {
    from_json::process(from_json::Node(&as_json(process)))
}

/// `resources` as a message; what the protocol cannot hold is left out.
#[must_use]
pub fn resources_to_grpc(resources: &runtime::LinuxResources) -> oci::LinuxResources {
    from_json::resources(from_json::Node(&as_json(resources)))
}

/// What `spec` asks for and the message cannot hold; nothing of it may be lost in silence.
#[must_use]
pub fn unsupported(spec: &runtime::Spec) -> Option<String> {
    let json = as_json(spec);
    let is_set = |value: Option<&Value>| match value {
        None | Some(Value::Null) => false,
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::Object(fields)) => !fields.is_empty(),
        Some(_) => true,
    };
    let part = UNSUPPORTED.iter().find(|pointer| is_set(json.pointer(pointer)))?;
    Some(part.trim_start_matches('/').replace('/', "."))
}

fn as_json<T: serde::Serialize>(value: &T) -> Value {
    serde_json::to_value(value).expect("the OCI types have string keys and no fallible serialisers")
}
