//! The command line, as containerd's runtime v2 protocol defines it: Go-style flags, then one action.

use std::path::PathBuf;

/// Environment variable that makes this process the server: the number of the inherited descriptor that
/// is its listening socket.
pub(crate) const BIND_FD_ENV: &str = "KATA_RUNTIME_BIND_FD";

/// The path that the server's socket will have, likewise.
pub(crate) const SOCKET_ENV: &str = "KATA_RUNTIME_SOCKET";

/// Set by containerd: its own ttRPC socket, for events.
pub(crate) const TTRPC_ADDRESS_ENV: &str = "TTRPC_ADDRESS";

/// Shown by `-help` and after wrong use.
pub(crate) const USAGE: &str = "\
Usage: containerd-shim-kata-v2 -namespace N -id ID -address A [-publish-binary B] [-bundle P] [-debug] start|delete
       containerd-shim-kata-v2 -info      (RuntimeInfo protobuf on standard output)
       containerd-shim-kata-v2 -version
This program is started by containerd, not by hand: ctr run --runtime io.containerd.kata.v2 …";

/// What this process was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// Print who we are, for containerd's introspection service.
    Info,
    /// Print the version, for a person.
    Version,
    /// Print [`USAGE`].
    Help,
    /// Start (or find) the server of a container's pod and print its address.
    Start(Identity),
    /// Remove everything a dead shim left.
    Delete(Identity),
    /// Be the server; chosen by [`BIND_FD_ENV`], never by a person.
    Serve(Identity),
}

/// For whom and on whose behalf.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// containerd's namespace.
    pub(crate) namespace: String,
    /// The container; of the server: the sandbox.
    pub(crate) id: String,
    /// containerd's gRPC socket.
    pub(crate) address: String,
    /// containerd's own binary, for `publish` when there is no ttRPC address.
    pub(crate) publish_binary: String,
    /// The bundle, when it is not the working directory.
    pub(crate) bundle: Option<PathBuf>,
    /// Log at debug level.
    pub(crate) debug: bool,
    /// Our own flag, from `start` to the server: the configuration file named by containerd's runtime options.
    pub(crate) config: Option<PathBuf>,
}

/// Wrong use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UsageError {
    /// Not one of ours.
    #[error("Unknown flag {0}\n{USAGE}")]
    UnknownFlag(String),
    /// The flag ends the command line.
    #[error("Flag -{0} needs a value\n{USAGE}")]
    NoValue(String),
    /// A boolean flag with a value that is none.
    #[error("Flag -{flag} is true or false, not {value:?}\n{USAGE}")]
    NotBoolean {
        /// Without its dash.
        flag: String,
        /// What stood after `=`.
        value: String,
    },
    /// A flag that this action cannot do without.
    #[error("Flag -{0} is missing or empty\n{USAGE}")]
    Missing(&'static str),
    /// No action, and not started as a server.
    #[error("No action: say start or delete\n{USAGE}")]
    NoAction,
    /// Not start and not delete.
    #[error("Unknown action {0:?}: say start or delete\n{USAGE}")]
    UnknownAction(String),
    /// More words than an action.
    #[error("Unexpected argument {0:?}\n{USAGE}")]
    Extra(String),
}

/// Reads a command line (without the program's name). `serving`: [`BIND_FD_ENV`] is set.
///
/// # Errors
/// Wrong use; the text ends with [`USAGE`].
pub(crate) fn parse(words: impl IntoIterator<Item = String>, serving: bool) -> Result<Command, UsageError> {
    let mut words = words.into_iter();
    let mut identity = Identity::default();
    let mut action = None;
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')).filter(|f| !f.is_empty())
        else {
            action = Some(word);
            break;
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (flag.to_owned(), None),
        };
        match name.as_str() {
            "v" | "version" => return Ok(Command::Version),
            "info" => return Ok(Command::Info),
            "h" | "help" => return Ok(Command::Help),
            "debug" => identity.debug = boolean(name, value)?,
            _ => set(&mut identity, &name, value, &mut words)?,
        }
    }
    if let Some(extra) = words.next() {
        return Err(UsageError::Extra(extra));
    }
    command(identity, action.as_deref(), serving)
}

fn boolean(flag: String, value: Option<String>) -> Result<bool, UsageError> {
    match value.as_deref() {
        None | Some("true" | "1" | "t") => Ok(true),
        Some("false" | "0" | "f") => Ok(false),
        Some(_) => Err(UsageError::NotBoolean { flag, value: value.unwrap_or_default() }),
    }
}

fn set(
    identity: &mut Identity,
    name: &str,
    value: Option<String>,
    rest: &mut impl Iterator<Item = String>,
) -> Result<(), UsageError> {
    let take = || value.or_else(|| rest.next()).ok_or_else(|| UsageError::NoValue(name.to_owned()));
    match name {
        "namespace" => identity.namespace = take()?,
        "id" => identity.id = take()?,
        "address" => identity.address = take()?,
        "publish-binary" => identity.publish_binary = take()?,
        "bundle" => identity.bundle = Some(take()?).filter(|path| !path.is_empty()).map(PathBuf::from),
        "config" => identity.config = Some(PathBuf::from(take()?)),
        _ => return Err(UsageError::UnknownFlag(format!("-{name}"))),
    }
    Ok(())
}

fn command(identity: Identity, action: Option<&str>, serving: bool) -> Result<Command, UsageError> {
    let make = match action {
        Some("start") => Command::Start,
        Some("delete") => Command::Delete,
        Some(other) => return Err(UsageError::UnknownAction(other.to_owned())),
        None if serving => Command::Serve,
        None => return Err(UsageError::NoAction),
    };
    if identity.namespace.is_empty() {
        return Err(UsageError::Missing("namespace"));
    }
    if identity.id.is_empty() {
        return Err(UsageError::Missing("id"));
    }
    Ok(make(identity))
}

#[cfg(test)]
mod tests {
    use super::{Command, Identity, UsageError, parse};

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn containerd_1_6_start() {
        let line = "-namespace default -address /run/containerd/containerd.sock -publish-binary /usr/bin/containerd -id web -debug start";
        let Command::Start(identity) = parse(words(line), false).unwrap() else { panic!("not start") };
        let expected = Identity {
            namespace: "default".into(),
            id: "web".into(),
            address: "/run/containerd/containerd.sock".into(),
            publish_binary: "/usr/bin/containerd".into(),
            debug: true,
            ..Identity::default()
        };
        assert_eq!(identity, expected);
    }

    #[test]
    fn delete_with_a_bundle_and_other_ways_to_write_flags() {
        let line =
            "--namespace=k8s.io -id=web --address /sock -publish-binary= -bundle /b -debug=false delete";
        let Command::Delete(identity) = parse(words(line), false).unwrap() else { panic!("not delete") };
        assert_eq!(identity.namespace, "k8s.io");
        assert_eq!(identity.bundle.unwrap().to_str(), Some("/b"));
        assert!(!identity.debug);
    }

    #[test]
    fn the_server_has_no_action() {
        let line = "-namespace n -id s -address a -config /etc/kata.toml";
        let Command::Serve(identity) = parse(words(line), true).unwrap() else { panic!("not serve") };
        assert_eq!(identity.config.unwrap().to_str(), Some("/etc/kata.toml"));
        assert_eq!(parse(words(line), false), Err(UsageError::NoAction));
    }

    #[test]
    fn information_needs_nothing_else() {
        assert_eq!(parse(words("-info"), false), Ok(Command::Info));
        assert_eq!(parse(words("--version"), false), Ok(Command::Version));
        assert_eq!(parse(words("-v"), false), Ok(Command::Version));
        assert_eq!(parse(words("-h"), false), Ok(Command::Help));
    }

    #[test]
    fn wrong_use_says_what_is_wrong() {
        let cases = [
            ("-namespace n -id i restart", UsageError::UnknownAction("restart".into())),
            ("-id i start", UsageError::Missing("namespace")),
            ("-namespace n start", UsageError::Missing("id")),
            ("-namespace n -id i", UsageError::NoAction),
            ("-namespace n -id", UsageError::NoValue("id".into())),
            ("-bogus x start", UsageError::UnknownFlag("-bogus".into())),
            ("-namespace n -id i start now", UsageError::Extra("now".into())),
            (
                "-namespace n -id i -debug=maybe start",
                UsageError::NotBoolean { flag: "debug".into(), value: "maybe".into() },
            ),
        ];
        for (line, expected) in cases {
            assert_eq!(parse(words(line), false), Err(expected), "{line}");
        }
    }
}
