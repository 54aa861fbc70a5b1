//! Arguments for virtiofsd and nydusd that a configuration may not add: what the runtime itself decides, and what would
//! take the daemon's walls down.

use super::Refusal;

/// Names, and why not. Long ones without their dashes, as `-o` has them too.
const REFUSED: [(&str, &str); 34] = [
    ("shared-dir", DIRECTORY),
    ("source", DIRECTORY),
    ("fd", SOCKET),
    ("socket", SOCKET),
    ("socket-path", SOCKET),
    ("socket-group", SOCKET),
    ("sock", SOCKET),
    ("apisock", SOCKET),
    ("hybrid-mode", IMAGES),
    ("A", SOCKET),
    ("bootstrap", IMAGES),
    ("B", IMAGES),
    ("config", IMAGES),
    ("C", IMAGES),
    ("localfs-dir", IMAGES),
    ("D", IMAGES),
    ("s", DIRECTORY),
    ("id", OTHERS),
    ("supervisor", OTHERS),
    ("upgrade", OTHERS),
    ("failover-policy", OTHERS),
    ("F", OTHERS),
    ("mountpoint", DIRECTORY),
    ("virtual-mountpoint", DIRECTORY),
    ("log-file", LOG),
    ("L", LOG),
    ("tag", "the guest knows the tag"),
    ("sandbox", "the daemon must be kept from all but the shared directory"),
    ("seccomp", "use `disable_seccomp`"),
    ("syslog", LOG),
    ("print-capabilities", ENDS),
    ("version", ENDS),
    ("V", ENDS),
    ("help", ENDS),
];
const DIRECTORY: &str = "the directory that is shared is the sandbox's";
const SOCKET: &str = "the runtime connects the daemon with the VMM itself";
const IMAGES: &str = "the runtime has nydusd mount the images of containers itself";
const OTHERS: &str = "the runtime starts the daemon and watches over it itself";
const LOG: &str = "the runtime's log has the daemon's lines";
const ENDS: &str = "the daemon would print it and end";

/// Looks through the words that are to be added.
pub(super) fn check(words: &[String]) -> Result<(), Refusal> {
    let mut is_value = false;
    for word in words {
        for name in names(word, is_value) {
            if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
                return Err(Refusal::Invalid(format!("cannot have {word:?}: {why}")));
            }
        }
        is_value = word == "-o";
    }
    Ok(())
}

/// What a word sets: `--name=value`, a letter with or without its value, or behind `-o` a list of names, with or without values, as older daemons took them.
fn names(word: &str, is_value: bool) -> Vec<&str> {
    let list = if is_value { Some(word) } else { word.strip_prefix("-o").filter(|list| !list.is_empty()) };
    match (list, word.strip_prefix("--"), word.strip_prefix('-')) {
        (Some(list), _, _) => list.split(',').map(before_value).collect(),
        (None, Some(name), _) => vec![before_value(name)],
        (None, None, Some(letters)) => {
            let letter = letters.char_indices().nth(1).map_or(letters, |(end, _)| &letters[..end]);
            vec![before_value(letters), letter]
        }
        (None, None, None) => Vec::new(),
    }
}

fn before_value(text: &str) -> &str {
    text.split('=').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::check;

    fn allows(words: &[&str]) -> bool {
        check(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()).is_ok()
    }

    #[test]
    fn what_tunes_the_daemon_is_allowed() {
        assert!(allows(&[
            "--thread-pool-size=1",
            "-o",
            "announce_submounts",
            "--cache",
            "never",
            "--writeback"
        ]));
        assert!(allows(&["--posix-acl=auto", "--modcaps=+sys_admin", "-o", "xattr,cache=always"]));
    }

    #[test]
    fn what_breaks_the_sandbox_is_refused_however_it_is_spelled() {
        for words in [
            &["--shared-dir=/"][..],
            &["--shared-dir", "/"],
            &["-o", "source=/"],
            &["-o", "xattr,sandbox=none"],
            &["-osource=/"],
            &["--sandbox=none"],
            &["--sandbox", "none"],
            &["--seccomp=none"],
            &["--fd=3"],
            &["--socket-path=/x"],
            &["--tag=x"],
            &["--syslog"],
            &["--print-capabilities"],
            &["-V"],
            &["--sock", "/x"],
            &["--apisock=/x"],
            &["--bootstrap", "/x"],
            &["-B", "/x"],
            &["-B/x"],
            &["--log-file=/x"],
        ] {
            assert!(!allows(words), "{words:?}");
        }
    }

    #[test]
    fn a_value_that_looks_like_a_name_is_only_a_value() {
        assert!(allows(&["--xattrmap", "source"]));
    }
}
