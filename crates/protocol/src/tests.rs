//! The names and numbers that other people's programs rely on.

use protobuf::reflect::FileDescriptor;

use crate::{agent, oci, types};

/// `message.field` to its number on the wire.
fn number(file: &FileDescriptor, message: &str, field: &str) -> i32 {
    let message = file.message_by_package_relative_name(message).expect("the message is there");
    message.field_by_name(field).expect("the field is there").number()
}

#[test]
fn all_methods_of_the_agent_are_there() {
    let services = &agent::file_descriptor().proto().service;
    assert_eq!(services[0].name(), "AgentService");
    assert_eq!(services[0].method.len(), 42);
}

#[test]
fn numbers_that_are_not_in_order_are_upstreams() {
    let file = agent::file_descriptor();
    for (message, field, expected) in [
        ("ReseedRandomDevRequest", "data", 2),
        ("FSGroup", "group_id", 2),
        ("CreateContainerRequest", "OCI", 6),
        ("CreateContainerRequest", "stderr_port", 11),
        ("ExecProcessRequest", "stdin_port", 5),
        ("CreateSandboxRequest", "kernel_modules", 7),
        ("Storage", "shared", 8),
        ("CopyFileRequest", "data", 8),
        ("TtyWinResizeRequest", "column", 4),
    ] {
        assert_eq!(number(file, message, field), expected, "{message}.{field}");
    }
}

#[test]
fn the_specification_has_upstreams_numbers() {
    let file = oci::file_descriptor();
    for (message, field, expected) in [
        ("Spec", "Linux", 8),
        ("Process", "SelinuxLabel", 12),
        ("Linux", "IntelRdt", 13),
        ("Linux", "Seccomp", 8),
        ("Mount", "type", 3),
    ] {
        assert_eq!(number(file, message, field), expected, "{message}.{field}");
    }
    assert_eq!(number(types::file_descriptor(), "Interface", "devicePath"), 6);
}
