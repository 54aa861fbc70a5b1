//! Where an output goes, as containerd writes it (containerd's `docs/`: "Logging" of runtime v2).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::StdioError;

/// A destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// Nowhere.
    None,
    /// A path without a scheme, or `fifo://`.
    Path(PathBuf),
    /// `file://`
    File(PathBuf),
    /// `binary://` and `binary-v2://`
    Logger(Program),
}

/// A logging program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    /// Its file.
    pub(super) path: PathBuf,
    /// The query's keys and values, one after the other.
    pub(super) args: Vec<OsString>,
    /// It must write a byte to say that it is ready; else closing is enough.
    pub(super) writes_ready: bool,
}

/// Reads a path or URI.
pub(super) fn parse(uri: &str) -> Result<Target, StdioError> {
    if uri.is_empty() {
        return Ok(Target::None);
    }
    let Some((scheme, rest)) = uri.split_once("://") else {
        return Ok(Target::Path(PathBuf::from(uri)));
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = PathBuf::from(decode(path));
    if !path.is_absolute() {
        return Err(StdioError::Uri { uri: uri.to_owned() });
    }
    match scheme {
        "fifo" => Ok(Target::Path(path)),
        "file" => Ok(Target::File(path)),
        "binary" | "binary-v2" => {
            let writes_ready = scheme == "binary-v2";
            Ok(Target::Logger(Program { path, args: arguments(query), writes_ready }))
        }
        _ => Err(StdioError::Uri { uri: uri.to_owned() }),
    }
}

fn arguments(query: &str) -> Vec<OsString> {
    let mut args = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        args.push(decode(&key.replace('+', " ")));
        args.push(decode(&value.replace('+', " ")));
    }
    args
}

/// Undoes `%41`.
fn decode(text: &str) -> OsString {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                decoded.push(byte);
                at += 3;
            }
            _ => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    OsString::from_vec(decoded)
}

#[cfg(test)]
mod tests {
    use super::{Program, Target, parse};

    #[test]
    fn destinations() {
        assert_eq!(parse("").unwrap(), Target::None);
        assert_eq!(parse("/run/f").unwrap(), Target::Path("/run/f".into()));
        assert_eq!(parse("fifo:///run/f").unwrap(), Target::Path("/run/f".into()));
        assert_eq!(parse("file:///var/a%20b.log").unwrap(), Target::File("/var/a b.log".into()));
        let program = Program {
            path: "/bin/log".into(),
            args: ["--tag", "a b", "-v", ""].into_iter().map(Into::into).collect(),
            writes_ready: false,
        };
        assert_eq!(parse("binary:///bin/log?--tag=a+b&-v=").unwrap(), Target::Logger(program));
    }

    #[test]
    fn what_is_not_a_destination() {
        for uri in ["npipe:////./pipe/x", "file://relative", "http://host/log"] {
            assert!(parse(uri).is_err(), "{uri}");
        }
    }
}
