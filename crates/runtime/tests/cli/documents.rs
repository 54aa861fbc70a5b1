//! What the how-to documents show is there: commands, files, snippets.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Each document, with its name.
fn documents() -> Vec<(String, String)> {
    let files = fs::read_dir(repository().join("docs/how-to")).unwrap();
    let text = |path: PathBuf| (path.display().to_string(), fs::read_to_string(path).unwrap());
    files.map(|file| text(file.unwrap().path())).collect()
}

/// The code blocks in that language, without their indentation.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(found) = line.trim_start().strip_prefix("```") else { continue };
        let indent = line.len() - line.trim_start().len();
        let inside: Vec<&str> = lines
            .by_ref()
            .take_while(|line| !line.trim_start().starts_with("```"))
            .map(|line| line.get(indent..).unwrap_or_default())
            .collect();
        if found == language {
            blocks.push(inside.join("\n"));
        }
    }
    blocks
}

/// A file without the comments at its beginning.
fn shown(file: &str) -> String {
    let text = fs::read_to_string(repository().join("deploy").join(file)).unwrap();
    text.lines().skip_while(|line| line.starts_with('#')).collect::<Vec<_>>().join("\n").trim().to_owned()
}

#[test]
fn every_command_of_ours_is_one() {
    let mut count = 0;
    for (name, text) in documents() {
        let block = blocks(&text, "").join("\n");
        let commands = block.lines().filter_map(|line| line.strip_prefix("# kata-runtime "));
        for command in commands {
            let words = command.split_whitespace();
            // With --help at the end the words before are taken apart, and nothing is done.
            let output =
                Command::new(env!("CARGO_BIN_EXE_kata-runtime")).args(words).arg("--help").output().unwrap();
            assert!(
                output.status.success(),
                "{name}: {command}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            count += 1;
        }
    }
    assert!(count > 15, "{count}");
}

#[test]
fn what_is_shown_of_a_file_is_what_is_in_it() {
    for (document, language, file) in [
        ("containerd.md", "toml", "containerd/kata.toml"),
        ("containerd.md", "toml", "containerd/kata-2.toml"),
        ("cri-o.md", "toml", "crio/50-kata.conf"),
        ("kubernetes.md", "yaml", "kubernetes/runtimeclass.yaml"),
    ] {
        let text = fs::read_to_string(repository().join("docs/how-to").join(document)).unwrap();
        let blocks = blocks(&text, language);
        assert!(blocks.iter().any(|block| block.trim() == shown(file)), "{document} does not show {file}");
    }
}

/// What the RuntimeClass says of a pod's overhead is what is derived from measurements.
#[test]
fn the_overhead_of_the_runtime_class_is_the_sum_of_its_parts() {
    let text = fs::read_to_string(repository().join("docs/density.md")).unwrap();
    let (_, derivation) = text.split_once("## The `overhead` of a RuntimeClass").unwrap();
    let rows = derivation.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let amounts = rows.take_while(|line| line.starts_with('|')).map(|row| {
        let amount = row.trim_end_matches('|').rsplit('|').next().unwrap();
        amount.trim().parse::<u32>().unwrap_or_else(|e| panic!("{row}: {e}"))
    });
    let memory = format!("memory: \"{}Mi\"", amounts.sum::<u32>());
    let class = shown("kubernetes/runtimeclass.yaml");
    assert!(class.contains(&memory), "{memory} is the sum, not that of\n{class}");
    let cpu = class.lines().find(|line| line.trim_start().starts_with("cpu:")).unwrap().trim();
    for told in [memory.as_str(), cpu] {
        assert!(derivation.contains(&format!("`{told}`")), "docs/density.md does not tell {told}");
    }
}

#[test]
fn snippets_are_valid_toml() {
    for file in ["containerd/kata.toml", "containerd/kata-2.toml", "crio/50-kata.conf", "vector/kata.toml"] {
        let parsed = shown(file).parse::<toml::Table>();
        assert!(parsed.is_ok(), "{file}: {parsed:?}");
    }
}

#[test]
fn links_of_documents_lead_somewhere() {
    for (name, text) in documents() {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap();
            let there = link.starts_with("http") || repository().join("docs/how-to").join(file).exists();
            assert!(there, "{name}: {link}");
        }
    }
}
