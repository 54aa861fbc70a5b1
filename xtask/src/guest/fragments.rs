//! The kernel's configuration fragments (`guest/kernel/*.config`) and the proof that each line took effect.
//!
//! A comment that begins with `# or` makes the setting after it an alternative to the one before: stable releases
//! rename symbols, and one of the two has to take effect.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Fragments in the order of their file names.
pub(crate) struct Fragments {
    /// All of them in one text, which is what the kernel's build reads.
    pub(crate) text: String,
    requests: Vec<Request>,
}

/// One requested symbol.
#[derive(Debug, PartialEq)]
struct Request {
    symbol: String,
    /// As it stands after `=`; `n` for an absent symbol.
    value: String,
    /// `file:line`.
    place: String,
    /// Whether it is enough that the request before this one is met.
    alternative: bool,
}

impl Fragments {
    /// Reads every `*.config` in `directory`.
    pub(crate) fn read(directory: &Path) -> Result<Self> {
        let entries =
            fs::read_dir(directory).with_context(|| format!("Cannot read {}", directory.display()))?;
        let mut paths: Vec<_> = entries.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
        paths.retain(|path| path.extension().is_some_and(|e| e == "config"));
        paths.sort();
        let mut all = Self { text: String::new(), requests: Vec::new() };
        for path in paths {
            let text = fs::read_to_string(&path)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            all.add(&name, &text)?;
        }
        Ok(all)
    }

    fn add(&mut self, name: &str, text: &str) -> Result<()> {
        let mut alternative = false;
        for (index, line) in text.lines().enumerate() {
            let place = format!("{name}:{}", index + 1);
            let setting = parse(line).with_context(|| format!("{place} is no setting: {line}"))?;
            let Some((symbol, value)) = setting else {
                alternative |= line.starts_with("# or");
                continue;
            };
            if let Some(first) = self.requests.iter().find(|r| r.symbol == symbol) {
                bail!("{place} sets {symbol} again, after {}: keep one of them", first.place);
            }
            let (symbol, value) = (symbol.to_owned(), value.to_owned());
            self.requests.push(Request {
                symbol,
                value,
                place,
                alternative: std::mem::take(&mut alternative),
            });
        }
        self.text.push_str(text);
        self.text.push('\n');
        Ok(())
    }

    /// Compares with the finished `.config`; one line per symbol that has another value.
    pub(crate) fn unmet(&self, config: &str) -> Vec<Unmet> {
        let lines = config.lines().filter_map(|line| parse(line).ok().flatten());
        let actual: HashMap<&str, &str> = lines.collect();
        let value = |request: &Request| *actual.get(request.symbol.as_str()).unwrap_or(&"n");
        let mut unmet = Vec::new();
        for group in self.requests.chunk_by(|_, next| next.alternative) {
            if group.iter().any(|request| value(request) == request.value) {
                continue;
            }
            unmet.extend(group.iter().map(|request| Unmet {
                symbol: request.symbol.trim_start_matches("CONFIG_").to_owned(),
                text: format!(
                    "{}: {} should be {} and is {}",
                    request.place,
                    request.symbol,
                    request.value,
                    value(request)
                ),
            }));
        }
        unmet
    }
}

/// A symbol that did not get its value.
#[derive(Debug, PartialEq)]
pub(crate) struct Unmet {
    /// Name without `CONFIG_`.
    pub(crate) symbol: String,
    /// Where it was asked for, what, and what became of it.
    pub(crate) text: String,
}

/// `CONFIG_X=value` or `# CONFIG_X is not set`; nothing for comments and empty lines.
fn parse(line: &str) -> Result<Option<(&str, &str)>> {
    let line = line.trim();
    let unset = line.strip_prefix("# ").and_then(|rest| rest.strip_suffix(" is not set"));
    if let Some(symbol) = unset.filter(|s| s.starts_with("CONFIG_")) {
        return Ok(Some((symbol, "n")));
    }
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    match line.split_once('=') {
        Some((symbol, value)) if symbol.starts_with("CONFIG_") && !value.is_empty() => {
            Ok(Some((symbol, value)))
        }
        _ => bail!("Write CONFIG_NAME=value"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragments(text: &str) -> Result<Fragments> {
        let mut fragments = Fragments { text: String::new(), requests: Vec::new() };
        fragments.add("a.config", text).map(|()| fragments)
    }

    #[test]
    fn every_difference_is_told_with_its_place() {
        let asked = fragments("# why\nCONFIG_A=y\nCONFIG_B=n\nCONFIG_C=4\nCONFIG_D=n\n").unwrap();
        let unmet = asked.unmet("CONFIG_A=y\nCONFIG_B=y\n# CONFIG_C is not set\nCONFIG_E=\"x\"\n");
        let texts: Vec<_> = unmet.iter().map(|u| u.text.as_str()).collect();
        let expected =
            ["a.config:3: CONFIG_B should be n and is y", "a.config:4: CONFIG_C should be 4 and is n"];
        assert_eq!(texts, expected);
        assert_eq!(unmet[1].symbol, "C");
    }

    #[test]
    fn one_of_two_names_is_enough() {
        let asked = fragments("CONFIG_A=y\nCONFIG_OLD=y\n# or, later:\nCONFIG_NEW=y\nCONFIG_B=y\n").unwrap();
        assert_eq!(asked.unmet("CONFIG_A=y\nCONFIG_NEW=y\nCONFIG_B=y\n"), []);
        assert_eq!(asked.unmet("CONFIG_A=y\nCONFIG_OLD=y\nCONFIG_B=y\n"), []);
        assert_eq!(asked.unmet("CONFIG_A=y\nCONFIG_B=y\n").len(), 2);
    }

    #[test]
    fn a_symbol_is_set_once() {
        let error = fragments("CONFIG_A=y\n# CONFIG_A is not set\n").err().unwrap().to_string();
        assert_eq!(error, "a.config:2 sets CONFIG_A again, after a.config:1: keep one of them");
    }

    #[test]
    fn a_line_that_is_no_setting_is_refused() {
        assert!(fragments("CONFIG_A\n").is_err());
        assert!(fragments("A=y\n").is_err());
    }
}
