//! Who may speak: TLS, and the token that requests must bear.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::header::{AUTHORIZATION, HeaderMap};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::args::Args;

/// The door cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DoorError {
    /// A file of certificates or a key.
    #[error("{} cannot be used: it must be PEM, and readable for this process", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: pem::Error,
    },
    /// They do not fit.
    #[error("{} and {} are no certificate and its key", cert.display(), key.display())]
    Pair {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// The token's file.
    #[error("The token cannot be read from {}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// An empty one would let in everybody.
    #[error("{} has no token: write one line of letters and digits into it", .0.display())]
    NoToken(PathBuf),
}

/// Who may speak.
#[derive(Clone, Default)]
pub(crate) struct Door {
    /// With TLS.
    pub(crate) tls: Option<TlsAcceptor>,
    token: Option<Arc<str>>,
}

impl Door {
    /// As the command line says.
    pub(crate) fn new(args: &Args) -> Result<Self, DoorError> {
        let tls = match (&args.tls_cert, &args.tls_key) {
            (Some(cert), Some(key)) => Some(acceptor(cert, key)?),
            _ => None,
        };
        Ok(Self { tls, token: args.token_file.as_deref().map(token).transpose()? })
    }

    /// Whether anybody may come in.
    pub(crate) fn is_open(&self) -> bool {
        self.token.is_none()
    }

    /// Whether a request bears the token, if there is one.
    pub(crate) fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let words = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let (scheme, given) = words.and_then(|words| words.split_once(' ')).unwrap_or_default();
        scheme.eq_ignore_ascii_case("bearer") && is_same(given.trim().as_bytes(), token.as_bytes())
    }
}

/// Takes as long for a token that is nearly right as for any other.
fn is_same(given: &[u8], token: &[u8]) -> bool {
    let differences = given.iter().zip(token).fold(0, |all, (one, other)| all | (one ^ other));
    given.len() == token.len() && differences == 0
}

fn token(path: &Path) -> Result<Arc<str>, DoorError> {
    let text =
        fs::read_to_string(path).map_err(|source| DoorError::Token { path: path.to_owned(), source })?;
    match text.trim() {
        "" => Err(DoorError::NoToken(path.to_owned())),
        token => Ok(token.into()),
    }
}

fn acceptor(cert: &Path, key: &Path) -> Result<TlsAcceptor, DoorError> {
    let wrong = |path: &Path| {
        let path = path.to_owned();
        |source| DoorError::Pem { path, source }
    };
    let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect).map_err(wrong(cert))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(wrong(key))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let made = builder
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private));
    let pair = |source| DoorError::Pair { cert: cert.to_owned(), key: key.to_owned(), source };
    Ok(TlsAcceptor::from(Arc::new(made.map_err(pair)?)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue};

    use super::{Door, DoorError, token};

    #[test]
    fn a_request_must_bear_the_token() {
        let door = Door { tls: None, token: Some("s3cret".into()) };
        let with =
            |words| door.admits(&HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(words))]));
        assert!(with("Bearer s3cret") && with("bearer  s3cret"));
        for wrong in ["Bearer s3cre", "Bearer s3crets", "Bearer ", "s3cret", "Basic s3cret", ""] {
            assert!(!with(wrong), "{wrong}");
        }
        assert!(!door.admits(&HeaderMap::new()) && Door::default().admits(&HeaderMap::new()));
    }

    #[test]
    fn an_empty_token_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        assert!(matches!(token(&path), Err(DoorError::Token { .. })));
        fs::write(&path, " \n").unwrap();
        assert!(matches!(token(&path), Err(DoorError::NoToken(_))));
        fs::write(&path, "s3cret\n").unwrap();
        assert_eq!(&*token(&path).unwrap(), "s3cret");
    }
}
