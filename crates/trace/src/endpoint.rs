//! Where a collector takes spans.

use std::fmt;

/// The port of OTLP over HTTP.
const PORT: u16 = 4318;
/// The path of its traces.
const PATH: &str = "/v1/traces";
/// What Jaeger's collector takes there is Thrift.
const THRIFT_PATH: &str = "/api/traces";

/// A collector's address, for OTLP over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its name or address; one of IPv6 without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Where it takes traces.
    pub path: String,
    /// What it wants to know of whoever sends them.
    pub credentials: Option<Credentials>,
}

/// A name and a password.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    /// The name.
    pub user: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    /// Without the password, which must not get into a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Why no spans can be sent there: the end of a sentence that begins with what was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadEndpoint(pub String);

impl Default for Endpoint {
    /// A collector on this host.
    fn default() -> Self {
        Self { host: "127.0.0.1".to_owned(), port: PORT, path: PATH.to_owned(), credentials: None }
    }
}

impl Endpoint {
    /// Reads `http://HOST[:PORT][/PATH]`; without a path it is OTLP's.
    ///
    /// # Errors
    /// It is something else, or known not to take OTLP.
    pub fn parse(url: &str) -> Result<Self, BadEndpoint> {
        let bad = |words: &str| BadEndpoint(words.to_owned());
        let example = "must be a URL such as http://127.0.0.1:4318/v1/traces";
        if url.starts_with("https://") {
            return Err(bad(
                "is https, which is not spoken: name a collector on this host, which may pass spans on by TLS",
            ));
        }
        let rest = url.strip_prefix("http://").ok_or_else(|| bad(example))?;
        let at = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        if authority.contains('@') {
            return Err(bad("has a name in its URL: jaeger_user and jaeger_password are for that"));
        }
        if path.trim_end_matches('/') == THRIFT_PATH {
            return Err(bad(
                "is where Jaeger takes Thrift: name its port for OTLP, such as http://127.0.0.1:4318/v1/traces",
            ));
        }
        let (host, port) = split(authority).ok_or_else(|| bad(example))?;
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        if host.is_empty() || !is_plain(host) || !is_plain(path) {
            return Err(bad(example));
        }
        let path = if matches!(path, "" | "/") { PATH } else { path };
        Ok(Self { host: host.to_owned(), port, path: path.to_owned(), credentials: None })
    }
}

/// `host`, `host:port`, `[address]`, `[address]:port`.
fn split(authority: &str) -> Option<(&str, u16)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            (address, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    Some((host, port.map_or(Some(80), |port| port.parse().ok().filter(|port| *port > 0))?))
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, path, .. } = self;
        match host.contains(':') {
            true => write!(f, "http://[{host}]:{port}{path}"),
            false => write!(f, "http://{host}:{port}{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Credentials, Endpoint};

    #[test]
    fn a_url_may_leave_out_what_is_usual() {
        for (url, whole) in [
            ("http://127.0.0.1:4318/v1/traces", "http://127.0.0.1:4318/v1/traces"),
            ("http://collector:4318", "http://collector:4318/v1/traces"),
            ("http://[::1]:4318/", "http://[::1]:4318/v1/traces"),
            ("http://collector/otlp/v1/traces", "http://collector:80/otlp/v1/traces"),
        ] {
            assert_eq!(Endpoint::parse(url).unwrap().to_string(), whole);
        }
    }

    #[test]
    fn what_takes_no_otlp_is_refused_and_says_why() {
        for (url, word) in [
            ("https://collector:4318", "TLS"),
            ("http://localhost:14268/api/traces", "Thrift"),
            ("http://me:secret@collector", "jaeger_user"),
            ("collector:4317", "such as"),
            ("http://", "such as"),
            ("http://collector:port", "such as"),
            ("http://collector:0", "such as"),
            ("http://[::1", "such as"),
            ("http://col lector", "such as"),
        ] {
            let error = Endpoint::parse(url).unwrap_err();
            assert!(error.0.contains(word), "{url}: {}", error.0);
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let credentials = Credentials { user: "me".to_owned(), password: "secret".to_owned() };
        assert!(!format!("{credentials:?}").contains("secret"));
    }
}
