//! The pod's configuration as CRI implementations hand it to `CreateSandbox`: `runtime.v1.PodSandboxConfig`, as far as
//! a VM can tell the difference.

use std::collections::BTreeMap;

use protobuf::CodedInputStream;
use protobuf::well_known_types::any::Any;

/// Annotations that are ours; others are for other eyes.
const OURS: &str = "io.katacontainers.";

/// What a pod shall be.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct PodConfig {
    /// Field 2: its host name; empty for none.
    pub(crate) hostname: String,
    /// Field 7: those of its annotations that are for this runtime.
    pub(crate) annotations: BTreeMap<String, String>,
}

/// The configuration is broken, or asks for what we do not have.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CriError {
    /// Not a message.
    #[error("The value of {type_url} does not parse")]
    Malformed {
        /// The type it claims to be.
        type_url: String,
        /// Why not.
        source: protobuf::Error,
    },
    /// Field 3 of field 8.
    #[error(
        "Kernel settings of a pod (securityContext.sysctls) are not supported by the Sandbox API of this runtime; \
         remove them, or let containerd run a pause container (sandboxer = \"podsandbox\")"
    )]
    Sysctls,
}

impl PodConfig {
    /// Whether these options of `CreateSandbox` are a pod's configuration.
    pub(crate) fn is_in(any: &Any) -> bool {
        any.type_url.ends_with(".PodSandboxConfig")
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is none, or asks for what would be ignored.
    pub(crate) fn from_any(any: &Any) -> Result<Self, CriError> {
        let malformed = |source| CriError::Malformed { type_url: any.type_url.clone(), source };
        let mut config = Self::default();
        let mut linux = Vec::new();
        let mut input = CodedInputStream::from_bytes(&any.value);
        while let Some(tag) = input.read_raw_tag_or_eof().map_err(malformed)? {
            match tag {
                0x12 => config.hostname = input.read_string().map_err(malformed)?,
                0x3a => {
                    let bytes = input.read_bytes().map_err(malformed)?;
                    let (name, value) = entry(&bytes).map_err(malformed)?;
                    if name.starts_with(OURS) {
                        config.annotations.insert(name, value);
                    }
                }
                0x42 => linux = input.read_bytes().map_err(malformed)?,
                _ => skip(tag, &mut input).map_err(malformed)?,
            }
        }
        match has_sysctls(&linux).map_err(malformed)? {
            true => Err(CriError::Sysctls),
            false => Ok(config),
        }
    }
}

/// An entry of a map of strings.
fn entry(bytes: &[u8]) -> protobuf::Result<(String, String)> {
    let mut entry = (String::new(), String::new());
    let mut input = CodedInputStream::from_bytes(bytes);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        match tag {
            0x0a => entry.0 = input.read_string()?,
            0x12 => entry.1 = input.read_string()?,
            _ => skip(tag, &mut input)?,
        }
    }
    Ok(entry)
}

/// Whether a `LinuxPodSandboxConfig` has any.
fn has_sysctls(linux: &[u8]) -> protobuf::Result<bool> {
    let mut found = false;
    let mut input = CodedInputStream::from_bytes(linux);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        found |= tag == 0x1a;
        skip(tag, &mut input)?;
    }
    Ok(found)
}

fn skip(tag: u32, input: &mut CodedInputStream<'_>) -> protobuf::Result<()> {
    protobuf::rt::read_unknown_or_skip_group(tag, input, &mut protobuf::UnknownFields::new())
}

#[cfg(test)]
mod tests {
    use protobuf::well_known_types::any::Any;

    use super::{CriError, PodConfig};

    fn any(value: &[u8]) -> Any {
        Any { type_url: "runtime.v1.PodSandboxConfig".into(), value: value.to_vec(), ..Any::default() }
    }

    #[test]
    fn the_name_and_our_annotations_are_read() {
        let ours = b"\x3a\x1a\x0a\x15io.katacontainers.x.y\x12\x01z";
        let other = b"\x3a\x06\x0a\x01a\x12\x01b";
        let metadata = b"\x0a\x03\x0a\x01p";
        let config = [&metadata[..], b"\x12\x03web", ours, other, b"\x42\x02\x0a\x00"].concat();
        let config = PodConfig::from_any(&any(&config)).unwrap();
        assert_eq!(config.hostname, "web");
        assert_eq!(
            config.annotations.into_iter().collect::<Vec<_>>(),
            [("io.katacontainers.x.y".into(), "z".into())]
        );
    }

    #[test]
    fn sysctls_are_refused_and_not_ignored() {
        let linux = b"\x42\x08\x1a\x06\x0a\x01a\x12\x01b";
        assert!(matches!(PodConfig::from_any(&any(linux)), Err(CriError::Sysctls)));
    }

    #[test]
    fn what_does_not_parse_is_an_error() {
        assert!(matches!(PodConfig::from_any(&any(b"\x12\x7fweb")), Err(CriError::Malformed { .. })));
    }
}
