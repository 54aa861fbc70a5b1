//! Runtime options: what a user of containerd can say to this runtime (`--runtime-config-path`, `ConfigPath`).

use std::path::PathBuf;

use protobuf::CodedInputStream;
use protobuf::well_known_types::any::Any;

/// `runtimeoptions.v1.Options` of containerd's API, as far as we use it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    /// Field 2: the configuration file.
    pub(crate) config_path: Option<PathBuf>,
}

/// The options are of our type but broken, or ask for what we do not have.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OptionsError {
    /// Not a message.
    #[error("The value of {type_url} does not parse")]
    Malformed {
        /// The type it claims to be.
        type_url: String,
        /// Why not.
        source: protobuf::Error,
    },
    /// Field 3 of containerd 1.7 and later: a configuration as text.
    #[error(
        "A configuration inside containerd's runtime options is not supported; write it to a file and name that as ConfigPath"
    )]
    Inline,
}

impl Options {
    /// Reads options; those of another runtime's type count as none.
    ///
    /// # Errors
    /// A value that is not what its type says.
    pub(crate) fn from_any(any: &Any) -> Result<Self, OptionsError> {
        if !any.type_url.ends_with("runtimeoptions.v1.Options") {
            return Ok(Self::default());
        }
        let malformed = |source| OptionsError::Malformed { type_url: any.type_url.clone(), source };
        let mut path = String::new();
        let mut body = Vec::new();
        let mut input = CodedInputStream::from_bytes(&any.value);
        while let Some(tag) = input.read_raw_tag_or_eof().map_err(malformed)? {
            match tag {
                0x12 => path = input.read_string().map_err(malformed)?,
                0x1a => body = input.read_bytes().map_err(malformed)?,
                _ => skip(tag, &mut input).map_err(malformed)?,
            }
        }
        if path.is_empty() && !body.is_empty() {
            return Err(OptionsError::Inline);
        }
        Ok(Self { config_path: Some(path).filter(|path| !path.is_empty()).map(PathBuf::from) })
    }
}

fn skip(tag: u32, input: &mut CodedInputStream<'_>) -> protobuf::Result<()> {
    protobuf::rt::read_unknown_or_skip_group(tag, input, &mut protobuf::UnknownFields::new())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use protobuf::well_known_types::any::Any;

    use super::{Options, OptionsError};

    fn any(value: &[u8]) -> Any {
        Any { type_url: "runtimeoptions.v1.Options".into(), value: value.to_vec(), ..Any::default() }
    }

    #[test]
    fn a_path_beside_other_fields() {
        let options = Options::from_any(&any(b"\x0a\x01t\x12\x02/c\x20\x07")).unwrap();
        assert_eq!(options.config_path.as_deref(), Some(Path::new("/c")));
    }

    #[test]
    fn a_configuration_in_the_options_is_refused_and_not_ignored() {
        assert!(matches!(Options::from_any(&any(b"\x1a\x02[]")), Err(OptionsError::Inline)));
        assert!(Options::from_any(&any(b"\x12\x02/c\x1a\x02[]")).is_ok());
    }

    #[test]
    fn broken_options_are_an_error() {
        assert!(matches!(Options::from_any(&any(b"\x12\x7f/c")), Err(OptionsError::Malformed { .. })));
    }
}
