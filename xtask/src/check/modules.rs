//! Files that no `mod` declaration leads to: they look alive and are not compiled.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::{Expr, Item, ItemMod, Lit, Meta};

use super::source::Source;

/// Every file that is neither a crate's root nor declared by a file that is reached from one.
pub(crate) fn orphans(sources: &[Source]) -> Vec<String> {
    let by_path: BTreeMap<&Path, &Source> =
        sources.iter().map(|source| (source.path.as_path(), source)).collect();
    let mut reached = BTreeSet::new();
    let mut queue: Vec<PathBuf> =
        by_path.keys().filter(|path| is_root(path)).map(|path| path.to_path_buf()).collect();
    while let Some(path) = queue.pop() {
        if let Some(source) = by_path.get(path.as_path()).filter(|_| reached.insert(path.clone())) {
            declared(&source.file.items, &path, &module_directory(&path), &mut queue);
        }
    }
    let lost = by_path.keys().filter(|path| !reached.contains(**path));
    lost.map(|path| format!("{} belongs to no module", path.display())).collect()
}

/// `build.rs`, `src/lib.rs`, `src/main.rs`; in `src/bin`, `tests`, `examples`, `benches` and `fuzz_targets` each file, and
/// `main.rs` of each directory.
fn is_root(path: &Path) -> bool {
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
    let in_source = parts.contains(&"src");
    let of_targets = |directory: &str| match directory {
        "tests" | "examples" | "benches" | "fuzz_targets" => !in_source,
        directory => directory == "bin" && in_source,
    };
    match parts.as_slice() {
        [.., "build.rs"] | [.., "src", "lib.rs" | "main.rs"] => true,
        // The guard is tried with each of the two readings.
        [.., directory, _, "main.rs"] | [.., directory, _] if of_targets(directory) => true,
        _ => false,
    }
}

/// Where the files of this file's modules lie.
fn module_directory(path: &Path) -> PathBuf {
    let parent = path.parent().unwrap_or(Path::new(""));
    if is_root(path) || path.file_name().is_some_and(|name| name == "mod.rs") {
        return parent.to_owned();
    }
    parent.join(path.file_stem().unwrap_or_default())
}

/// Adds both names a declared module's file can have.
fn declared(items: &[Item], file: &Path, directory: &Path, found: &mut Vec<PathBuf>) {
    let modules = items.iter().filter_map(|item| match item {
        Item::Mod(module) => Some(module),
        _ => None,
    });
    for module in modules {
        let name = module.ident.to_string();
        match (&module.content, explicit_path(module)) {
            (Some((_, inside)), _) => declared(inside, file, &directory.join(name), found),
            (None, Some(path)) => found.push(file.parent().unwrap_or(Path::new("")).join(path)),
            (None, None) => {
                found.push(directory.join(format!("{name}.rs")));
                found.push(directory.join(name).join("mod.rs"));
            }
        }
    }
}

/// `#[path = "…"]`
fn explicit_path(module: &ItemMod) -> Option<String> {
    module.attrs.iter().find(|attribute| attribute.path().is_ident("path")).and_then(|attribute| {
        let Meta::NameValue(pair) = &attribute.meta else { return None };
        let Expr::Lit(value) = &pair.value else { return None };
        let Lit::Str(text) = &value.lit else { return None };
        Some(text.value())
    })
}
