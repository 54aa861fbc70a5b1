//! The server's socket: its name, making it, and telling a living one from a stale one.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use sha2::{Digest, Sha256};

use crate::args::Identity;

/// Where containerd's shims keep their sockets; short, because a socket's path may have 107 bytes.
pub(crate) const SOCKET_DIR: &str = "/run/containerd/s";
const SCHEME: &str = "unix://";
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// The socket cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AddressError {
    /// Its directory.
    #[error("Cannot make the socket directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A dead shim's socket is in the way.
    #[error("Cannot remove the stale socket {}", path.display())]
    Stale {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Binding or restricting it.
    #[error("Cannot listen on {}", path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// Result of [`listen`].
#[derive(Debug)]
pub(crate) enum Bound {
    /// The socket listens there now.
    New,
    /// A living server listens there already.
    Alive,
}

/// The socket of the server that serves sandbox `id`, for the containerd and namespace of `identity`.
///
/// The name is the upper-case hex SHA-256 of `address/namespace/id`, as upstream's Rust runtime makes it.
#[must_use]
pub(crate) fn socket_path(dir: &Path, identity: &Identity, id: &str) -> PathBuf {
    let Identity { address, namespace, .. } = identity;
    let mut name = String::with_capacity(64);
    for byte in Sha256::digest(format!("{address}/{namespace}/{id}")) {
        write!(name, "{byte:02X}").expect("writing to a string cannot fail");
    }
    dir.join(name)
}

/// A socket as containerd wants to read it.
#[must_use]
pub(crate) fn url(path: &Path) -> String {
    format!("{SCHEME}{}", path.display())
}

/// The path in an address, with or without its scheme.
#[must_use]
pub(crate) fn path_of(address: &str) -> PathBuf {
    let address = address.trim();
    PathBuf::from(address.strip_prefix(SCHEME).unwrap_or(address))
}

/// A socket that listens nowhere yet.
///
/// # Errors
/// The system's.
pub(crate) fn unbound() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// Makes `socket` listen on `path`, in the place of a dead server if there was one.
///
/// # Errors
/// The system's, with the path.
pub(crate) fn listen(socket: &OwnedFd, path: &Path) -> Result<Bound, AddressError> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(dir)
        .map_err(|source| AddressError::Directory { path: dir.to_owned(), source })?;
    let bind_error = |source| AddressError::Bind { path: path.to_owned(), source };
    let name = SocketAddrUnix::new(path).map_err(|error| bind_error(error.into()))?;
    match net::bind(socket, &name) {
        Err(Errno::ADDRINUSE) => {
            if alive(path) {
                return Ok(Bound::Alive);
            }
            remove(path)?;
            net::bind(socket, &name)
        }
        other => other,
    }
    .map_err(|error| bind_error(error.into()))?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(bind_error)?;
    net::listen(socket, BACKLOG).map_err(|error| bind_error(error.into()))?;
    Ok(Bound::New)
}

/// Whether somebody listens on `path`.
#[must_use]
pub(crate) fn alive(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

/// Removes a socket; one that is not there is fine.
///
/// # Errors
/// The system's, with the path.
pub(crate) fn remove(path: &Path) -> Result<(), AddressError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(AddressError::Stale { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Removes the sockets in `dir`, older than `age`, on which nobody listens: servers that died between their `start` and
/// containerd's first connection, after which containerd calls nobody. Others' sockets have other names.
pub(crate) fn sweep(dir: &Path, age: Duration) {
    // Most live: they are not to be woken.
    let known = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_old =
            || entry.metadata().and_then(|data| data.modified()).is_ok_and(|time| is_past(time, age));
        let is_named = entry.file_name().to_str().is_some_and(is_hash);
        let refuses = || {
            UnixStream::connect(&path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        };
        if is_named
            && !known.contains(&*path.to_string_lossy())
            && is_old()
            && refuses()
            && let Err(error) = remove(&path)
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "the socket of a dead server is left");
        }
    }
}

/// As [`socket_path`] makes it.
fn is_hash(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'))
}

fn is_past(time: SystemTime, age: Duration) -> bool {
    time.elapsed().is_ok_and(|elapsed| elapsed >= age)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use super::{Bound, alive, listen, path_of, remove, socket_path, sweep, unbound, url};
    use crate::args::Identity;

    #[test]
    fn the_name_is_the_hash_of_address_namespace_and_id() {
        let identity = Identity {
            address: "/run/containerd/containerd.sock".into(),
            namespace: "default".into(),
            ..Identity::default()
        };
        let path = socket_path(Path::new("/run/containerd/s"), &identity, "web");
        // printf %s /run/containerd/containerd.sock/default/web | sha256sum
        let hash = "2CDE4450FA38C74F53603E01D2AFD903B315A27A596F12A151414CD59897D883";
        assert_eq!(path.file_name().unwrap().len(), hash.len());
        assert_eq!(path.file_name().unwrap().to_str().unwrap(), hash);
        assert!(url(&path).starts_with("unix:///run/containerd/s/"));
        assert_eq!(path_of(&format!("{}\n", url(&path))), path);
        assert_eq!(path_of("/plain"), PathBuf::from("/plain"));
        assert_ne!(socket_path(Path::new("/run/containerd/s"), &identity, "db"), path);
    }

    /// A server that was killed as soon as `start` had answered left its socket for ever.
    #[test]
    fn only_sockets_of_dead_servers_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let [living, dead, foreign] =
            ["A".repeat(64), "B".repeat(64), "c".repeat(64)].map(|name| dir.path().join(name));
        let listener = unbound().unwrap();
        listen(&listener, &living).unwrap();
        for path in [&dead, &foreign] {
            listen(&unbound().unwrap(), path).unwrap();
        }
        sweep(dir.path(), Duration::from_secs(60));
        assert!(dead.exists(), "it may be about to listen");
        sweep(dir.path(), Duration::ZERO);
        assert!(living.exists() && foreign.exists() && !dead.exists());
    }

    #[test]
    fn a_living_socket_is_kept_and_a_stale_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s/socket");
        let listener = unbound().unwrap();
        assert!(matches!(listen(&listener, &path).unwrap(), Bound::New));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(listen(&unbound().unwrap(), &path).unwrap(), Bound::Alive));
        drop(listener);
        assert!(!alive(&path));
        assert!(matches!(listen(&unbound().unwrap(), &path).unwrap(), Bound::New));
        remove(&path).unwrap();
        remove(&path).unwrap();
    }
}
