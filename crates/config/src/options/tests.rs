//! The table itself: complete, without double entries, in step with the shipped file.

use std::collections::BTreeSet;

use super::*;
use crate::template::TEMPLATE;

#[test]
fn every_row_is_documented_and_in_the_shipped_file() {
    for row in rows() {
        assert!(row.doc.ends_with('.'), "{} needs a sentence", row.full_name());
        let header = format!("\n[{}]\n", row.table.header());
        let start = TEMPLATE.find(&header).unwrap_or_else(|| panic!("{header} is missing"));
        let body = &TEMPLATE[start + header.len()..];
        let table = &body[..body.find("\n[").unwrap_or(body.len())];
        let line = format!("\n{} = ", row.key);
        let at =
            table.find(&line).unwrap_or_else(|| panic!("{} is missing in the shipped file", row.full_name()));
        assert!(
            table[..at].trim_end().lines().next_back().is_some_and(|l| l.starts_with('#')),
            "{}",
            row.key
        );
        if let Some(annotation) = row.annotation {
            assert!(table.contains(&format!("Annotation: {}", annotation.name)), "{}", row.key);
        }
    }
}

#[test]
fn no_key_stands_twice() {
    let mut seen = BTreeSet::new();
    let honoured = rows().map(|row| (row.table, row.key));
    let aliases = rows().filter_map(|row| row.alias).map(|alias| (alias.table, alias.key));
    let known = Table::ALL.into_iter().flat_map(|table| known::keys(table).map(move |key| (table, key)));
    for (table, key) in honoured.chain(aliases).chain(known) {
        assert!(seen.insert((table, key)), "{table} {key} stands twice");
    }
}

#[test]
fn every_default_is_of_its_kind() {
    for row in rows() {
        let default = Value::from(row.default);
        assert_eq!(row.kind.check(default.clone()), Ok(default), "{}", row.full_name());
    }
}

#[test]
fn every_annotation_of_a_row_is_upstreams_unless_the_key_is_ours() {
    let known: BTreeSet<String> = known::annotations().collect();
    for row in rows() {
        if let Some(annotation) = row.annotation {
            assert!(row.ours || known.contains(annotation.name), "{}", annotation.name);
        }
    }
}

/// The keys of upstream's two runtimes, as their public documents list them.
#[test]
fn every_upstream_key_is_a_row_or_known() {
    for line in include_str!("upstream_keys.txt").lines().filter(|line| !line.starts_with('#')) {
        let (header, keys) = line.split_once(':').expect("table: keys");
        let table = Table::ALL.into_iter().find(|table| table.header() == header).expect("a table of ours");
        for key in keys.split_whitespace() {
            let there = find(table, key).is_some()
                || find_alias(table, key).is_some()
                || known::find(table, key).is_some();
            assert!(there, "[{header}] {key} is unknown");
        }
    }
}
