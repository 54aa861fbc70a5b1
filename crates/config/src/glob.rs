//! Shell-like patterns for the lists of permitted paths and annotations.

/// Whether `text` matches `pattern` whole: `*` stands for any characters but `/`, `?` for one such character.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for symbol in pattern {
        let mut next = vec![false; text.len() + 1];
        for at in 0..=text.len() {
            let arrives = at > 0 && reached[at - 1];
            next[at] = match symbol {
                '*' => reached[at] || (at > 0 && next[at - 1] && text[at - 1] != '/'),
                '?' => arrives && text[at - 1] != '/',
                plain => arrives && text[at - 1] == plain,
            };
        }
        reached = next;
    }
    reached[text.len()]
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_do_not_cross_directories() {
        assert!(matches("/usr/bin/qemu*", "/usr/bin/qemu-system-x86_64"));
        assert!(!matches("/usr/*", "/usr/bin/qemu"));
        assert!(matches("/usr/*/qemu", "/usr/bin/qemu"));
        assert!(!matches("/usr/bin/*", "/usr/bin/../../tmp/evil"));
    }

    #[test]
    fn whole_text_and_single_characters() {
        assert!(!matches("kernel", "kernel_params"));
        assert!(matches("kernel*", "kernel"));
        assert!(matches("a?c", "abc"));
        assert!(!matches("a?c", "ac"));
        assert!(matches("", ""));
        assert!(!matches("", "x"));
    }
}
