//! The modules that `build.rs` makes from `protos/`.

macro_rules! generated {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[allow(
            missing_docs, unused_qualifications, unreachable_pub, dead_code, non_camel_case_types, non_snake_case,
            non_upper_case_globals, unused_imports, unused_mut, clippy::all, clippy::unwrap_used,
            clippy::needless_pass_by_value, clippy::semicolon_if_nothing_returned, clippy::uninlined_format_args,
            clippy::too_many_lines, clippy::allow_attributes, clippy::if_not_else, clippy::cast_possible_truncation,
            clippy::cast_sign_loss, clippy::cast_lossless, clippy::map_unwrap_or, clippy::panic
        )]
        pub mod $name {
            include!(concat!(env!("OUT_DIR"), "/", stringify!($name), ".rs"));
        }
    )*};
}

generated! {
    /// Messages of `grpc.AgentService`.
    agent
    /// Client and server of `grpc.AgentService`.
    agent_ttrpc
    /// The OCI specification as messages.
    oci
    /// Network and file system types.
    types
    /// Volume statistics.
    csi
    /// Messages of `grpc.Health`.
    health
    /// Client and server of `grpc.Health`.
    health_ttrpc
    /// `google.protobuf.Empty`.
    empty
    /// Messages of `kata.v1.Sandbox`.
    kata
    /// Client and server of `kata.v1.Sandbox`.
    kata_ttrpc
}
