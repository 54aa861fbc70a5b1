//! The places in a mount's source and options that name earlier mounts of the same list, as containerd's mount manager
//! fills them in for types that begin with `format/`.

use std::path::PathBuf;

/// `text` with `{{ mount 1 }}` replaced by where that mount is, and `{{ overlay 0 2 }}` by where those are, with `:` between.
///
/// # Errors
/// The part that is not understood, or that names a mount which does not come before.
pub(super) fn expand(text: &str, mounts: &[PathBuf]) -> Result<String, String> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("{{") {
        let (inside, after) = behind.split_once("}}").ok_or_else(|| format!("{{{{{behind}"))?;
        expanded.push_str(before);
        expanded.push_str(&value(inside, mounts).ok_or_else(|| format!("{{{{{inside}}}}}"))?);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

fn value(inside: &str, mounts: &[PathBuf]) -> Option<String> {
    let words: Vec<&str> = inside.split_whitespace().collect();
    let at = |index: usize| mounts.get(index).and_then(|mount| mount.to_str());
    match words[..] {
        ["mount", index] => at(index.parse().ok()?).map(str::to_owned),
        ["overlay", first, last] => {
            let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
            if first.max(last) >= mounts.len() {
                return None;
            }
            let indices: Vec<usize> =
                if first <= last { (first..=last).collect() } else { (last..=first).rev().collect() };
            Some(indices.into_iter().map(at).collect::<Option<Vec<_>>>()?.join(":"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn places_of_earlier_mounts_are_filled_in() {
        let mounts = ["/l/0", "/l/1", "/l/2"].map(Into::into);
        for (text, expanded) in [
            ("lowerdir={{ overlay 0 2 }}", "lowerdir=/l/0:/l/1:/l/2"),
            ("lowerdir={{ overlay 2 1 }}", "lowerdir=/l/2:/l/1"),
            ("upperdir={{ mount 0 }}/upper", "upperdir=/l/0/upper"),
            ("lowerdir={{mount 1}}:{{  mount  2 }}", "lowerdir=/l/1:/l/2"),
            ("rw", "rw"),
        ] {
            assert_eq!(expand(text, &mounts).unwrap(), expanded);
        }
    }

    #[test]
    fn what_is_not_understood_is_told() {
        let mounts = ["/l/0".into()];
        for (text, part) in [
            ("a{{ mount 1 }}", "{{ mount 1 }}"),
            ("{{ overlay 0 99999999999 }}", "{{ overlay 0 99999999999 }}"),
            ("{{ source 0 }}", "{{ source 0 }}"),
            ("{{ mount 0", "{{ mount 0"),
            ("{{ mount -1 }}", "{{ mount -1 }}"),
            ("{{}}", "{{}}"),
        ] {
            assert_eq!(expand(text, &mounts).unwrap_err(), part);
        }
    }
}
