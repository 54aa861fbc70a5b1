//! apt's two formats of sources: deb822 (`*.sources`) and one line per source (`*.list`), see sources.list(5).

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// One source of binary packages.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Entry {
    /// Archives' addresses.
    pub(crate) uris: Vec<String>,
    /// Suites or code names.
    pub(crate) suites: Vec<String>,
    /// `main`, `contrib`, …
    pub(crate) components: Vec<String>,
    /// What else binds the source to its keys: field name and value, as they stand.
    pub(crate) options: Vec<(String, String)>,
}

impl Entry {
    /// The entry as a deb822 stanza for these suites and the component `main`.
    pub(crate) fn stanza(&self, suites: &[String]) -> String {
        let (uris, suites) = (self.uris.join(" "), suites.join(" "));
        let mut text = format!("Types: deb\nURIs: {uris}\nSuites: {suites}\nComponents: main\n");
        for (name, value) in &self.options {
            text.push_str(&format!("{name}: {value}\n"));
        }
        text
    }
}

/// Reads `sources.list` and `sources.list.d` under `etc` (`/etc/apt`).
pub(crate) fn read(etc: &Path) -> Result<Vec<Entry>> {
    let mut files = vec![etc.join("sources.list")];
    if let Ok(parts) = fs::read_dir(etc.join("sources.list.d")) {
        files.extend(parts.filter_map(|part| part.ok().map(|part| part.path())));
    }
    files.sort();
    let mut entries = Vec::new();
    for file in files.iter().filter(|file| file.is_file()) {
        let text = fs::read_to_string(file).with_context(|| format!("Cannot read {}", file.display()))?;
        match file.extension().and_then(|e| e.to_str()) {
            Some("sources") => entries.extend(deb822(&text)),
            Some("list") => entries.extend(text.lines().filter_map(one_line)),
            _ => {}
        }
    }
    Ok(entries)
}

/// All enabled stanzas for binary packages.
pub(crate) fn deb822(text: &str) -> Vec<Entry> {
    let without_comments = text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
    without_comments.split("\n\n").filter_map(stanza).collect()
}

fn stanza(text: &str) -> Option<Entry> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        if line.starts_with([' ', '\t']) {
            let (_, value) = fields.last_mut()?;
            value.push('\n');
            value.push_str(line);
        } else {
            let (name, value) = line.split_once(':')?;
            fields.push((name.trim().to_lowercase(), value.trim().to_owned()));
        }
    }
    let words = |wanted: &str| -> Vec<String> {
        let field = fields.iter().find(|(name, _)| name == wanted);
        field.map(|(_, value)| value.split_whitespace().map(str::to_owned).collect()).unwrap_or_default()
    };
    if words("enabled") == ["no"] || !words("types").iter().any(|t| t == "deb") {
        return None;
    }
    let kept = |name: &str| matches!(name, "signed-by" | "trusted");
    let options = fields.iter().filter(|(name, _)| kept(name)).cloned().collect();
    Some(Entry { uris: words("uris"), suites: words("suites"), components: words("components"), options })
}

/// `deb [signed-by=… …] uri suite component…`
pub(crate) fn one_line(line: &str) -> Option<Entry> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?;
    let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
    let (bracketed, rest) = match rest.strip_prefix('[') {
        Some(inside) => inside.split_once(']')?,
        None => ("", rest),
    };
    let kept = |name: &str| matches!(name, "signed-by" | "trusted");
    let options = bracketed.split_whitespace().filter_map(|option| option.split_once('='));
    let options = options.map(|(name, value)| (name.to_lowercase(), value.replace(',', " ")));
    let mut words = rest.split_whitespace().map(str::to_owned);
    Some(Entry {
        uris: vec![words.next()?],
        suites: vec![words.next()?],
        options: options.filter(|(name, _)| kept(name)).collect(),
        components: words.collect(),
    })
}
