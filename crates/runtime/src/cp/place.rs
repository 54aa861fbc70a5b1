//! `PATH` or `SANDBOX:/PATH`.

use std::path::PathBuf;

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// On this host.
    Here(PathBuf),
    /// In a guest.
    Guest { sandbox: String, path: String },
}

/// It may be meant for a guest.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no place: a path in a guest begins with a slash (SANDBOX:/PATH); write ./{0} for a file of this host"
)]
pub(super) struct NoPlace(String);

impl Place {
    pub(super) fn parse(text: &str) -> Result<Self, NoPlace> {
        match text.split_once(':') {
            Some((sandbox, path)) if !sandbox.is_empty() && !sandbox.contains('/') => {
                match path.starts_with('/') {
                    true => Ok(Self::Guest { sandbox: sandbox.to_owned(), path: path.to_owned() }),
                    false => Err(NoPlace(text.to_owned())),
                }
            }
            _ => Ok(Self::Here(text.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_stands_before_the_first_colon() {
        let guest =
            |sandbox: &str, path: &str| Ok(Place::Guest { sandbox: sandbox.into(), path: path.into() });
        assert_eq!(Place::parse("abc:/etc/a:b"), guest("abc", "/etc/a:b"));
        assert_eq!(Place::parse("abc:/"), guest("abc", "/"));
    }

    #[test]
    fn a_path_of_this_host_may_have_colons() {
        for path in ["a", "/a:b", "./a:/b", ":/a"] {
            assert_eq!(Place::parse(path), Ok(Place::Here(path.into())));
        }
        assert!(Place::parse("abc:etc").unwrap_err().to_string().contains("./abc:etc"));
    }
}
