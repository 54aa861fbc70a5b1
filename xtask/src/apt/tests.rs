//! Sources of a machine become sources of ours.

use super::Release;
use super::sources::{Entry, deb822, one_line};

fn entry(uri: &str, suites: &[&str], options: &[(&str, &str)]) -> Entry {
    Entry {
        uris: vec![uri.to_owned()],
        suites: suites.iter().map(|s| (*s).to_owned()).collect(),
        components: vec!["main".to_owned()],
        options: options.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
    }
}

#[test]
fn deb822_skips_comments_sources_and_disabled_stanzas() {
    let text = "Types: deb\n# a comment\nURIs: http://mirror.test/debian\nSuites: rel rel-updates\nComponents: main\n\
                Signed-By: /keys/a.gpg\n\nTypes: deb-src\nURIs: http://mirror.test/debian\nSuites: rel\nComponents: main\n\n\
                Types: deb\nEnabled: no\nURIs: http://other.test/\nSuites: rel\nComponents: main\n";
    let expected =
        entry("http://mirror.test/debian", &["rel", "rel-updates"], &[("signed-by", "/keys/a.gpg")]);
    assert_eq!(deb822(text), [expected]);
}

#[test]
fn deb822_keeps_a_key_written_into_the_stanza() {
    let text =
        "Types: deb\nURIs: http://m.test/\nSuites: rel\nComponents: main\nSigned-By:\n -----BEGIN\n .\n x\n";
    assert_eq!(deb822(text)[0].options, [("signed-by".to_owned(), "\n -----BEGIN\n .\n x".to_owned())]);
}

#[test]
fn one_line_reads_options() {
    let line = "deb [arch=amd64 signed-by=/keys/a.gpg] http://mirror.test/debian rel main # comment";
    let expected = entry("http://mirror.test/debian", &["rel"], &[("signed-by", "/keys/a.gpg")]);
    assert_eq!(one_line(line), Some(expected));
    assert_eq!(one_line("deb-src http://mirror.test/debian rel main"), None);
    assert_eq!(one_line("# deb http://mirror.test/debian rel main"), None);
}

#[test]
fn backports_come_from_the_releases_own_archive() {
    let mut vendor = entry("http://vendor.test/", &["rel"], &[]);
    vendor.components = vec!["stable".to_owned()];
    let entries = vec![
        vendor,
        entry("http://mirror.test/security", &["rel-security"], &[]),
        entry("http://mirror.test/debian", &["rel", "rel-updates"], &[("signed-by", "/keys/a.gpg")]),
    ];
    let release = Release { codename: "rel".to_owned(), entries };
    let stanza = "Types: deb\nURIs: http://mirror.test/debian\nSuites: rel-backports\nComponents: main\n\
                  signed-by: /keys/a.gpg\n";
    let sources = release.sources_with_backports();
    assert!(sources.ends_with(stanza), "{sources}");
    assert!(sources.contains("rel-security"));
    assert!(!sources.contains("vendor"));
}
