//! `-info` and `-version`: who we are.

use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use protobuf::{Message, MessageField};

/// The runtime's name, as users write it.
pub(crate) const NAME: &str = "io.containerd.kata.v2";
/// This build's version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The annotation by which containerd's mount manager (2.2 and later) learns which mounts of a root file system are not its
/// own to make, and which: layers of EROFS, and what is made of them, are mounted by the guest.
const ALLOWED_MOUNTS: (&str, &str) = ("containerd.io/runtime-allow-mounts", "mkdir/*,format/*,erofs");

/// `RuntimeInfo`, serialised.
#[must_use]
pub(crate) fn runtime_info() -> Vec<u8> {
    let version = RuntimeVersion { version: VERSION.to_owned(), ..RuntimeVersion::default() };
    let (name, value) = ALLOWED_MOUNTS;
    let info = RuntimeInfo {
        name: NAME.to_owned(),
        version: MessageField::some(version),
        annotations: [(name.to_owned(), value.to_owned())].into(),
        ..RuntimeInfo::default()
    };
    info.write_to_bytes().expect("a message in memory always serialises")
}

/// For a person.
#[must_use]
pub(crate) fn version() -> String {
    format!("containerd-shim-kata-v2:\n  Version:  {VERSION}\n  Runtime:  {NAME}\n")
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::types::introspection::RuntimeInfo;
    use protobuf::Message;

    #[test]
    fn the_information_is_a_message() {
        let info = RuntimeInfo::parse_from_bytes(&super::runtime_info()).unwrap();
        assert_eq!(
            (info.name.as_str(), info.version.version.as_str()),
            ("io.containerd.kata.v2", super::VERSION)
        );
        assert_eq!(info.annotations["containerd.io/runtime-allow-mounts"], "mkdir/*,format/*,erofs");
    }
}
