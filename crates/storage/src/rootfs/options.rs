//! Mount options: what becomes a flag, what goes to the file system.

use std::io;

use rustix::mount::MountFlags;

/// The kernel copies one page of options.
const PAGE: usize = 4096;

/// Options in the form that the system calls want.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) flags: MountFlags,
    /// It is a bind mount, whatever its type says.
    pub(super) bind: bool,
    /// The bind mount takes along what is mounted below its source.
    pub(super) recursive: bool,
    /// What the file system is told, in order.
    pub(super) data: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { flags: MountFlags::empty(), bind: false, recursive: false, data: Vec::new() }
    }
}

/// Options that set or clear a flag.
const FLAGS: &[(&str, bool, MountFlags)] = &[
    ("ro", true, MountFlags::RDONLY),
    ("rw", false, MountFlags::RDONLY),
    ("nosuid", true, MountFlags::NOSUID),
    ("suid", false, MountFlags::NOSUID),
    ("nodev", true, MountFlags::NODEV),
    ("dev", false, MountFlags::NODEV),
    ("noexec", true, MountFlags::NOEXEC),
    ("exec", false, MountFlags::NOEXEC),
    ("sync", true, MountFlags::SYNCHRONOUS),
    ("async", false, MountFlags::SYNCHRONOUS),
    ("dirsync", true, MountFlags::DIRSYNC),
    ("noatime", true, MountFlags::NOATIME),
    ("atime", false, MountFlags::NOATIME),
    ("nodiratime", true, MountFlags::NODIRATIME),
    ("diratime", false, MountFlags::NODIRATIME),
    ("relatime", true, MountFlags::RELATIME),
    ("norelatime", false, MountFlags::RELATIME),
    ("strictatime", true, MountFlags::STRICTATIME),
    ("nostrictatime", false, MountFlags::STRICTATIME),
];

/// Options without meaning here: propagation is the share's, and the rest is the default or about `fstab`.
const IGNORED: &[&str] = &[
    "defaults",
    "private",
    "rprivate",
    "shared",
    "rshared",
    "slave",
    "rslave",
    "unbindable",
    "runbindable",
    "mand",
    "nomand",
    "_netdev",
    "nofail",
];

/// Options that would need more than a mount.
const UNSUPPORTED: &[&str] = &["loop", "remount"];

impl Options {
    /// Sorts `options`.
    ///
    /// # Errors
    /// The option that is not supported.
    pub(super) fn parse(options: &[String]) -> Result<Self, String> {
        let mut parsed = Self::default();
        for option in options {
            let name = option.split('=').next().unwrap_or_default();
            match option.as_str() {
                "bind" => parsed.bind = true,
                "rbind" => (parsed.bind, parsed.recursive) = (true, true),
                _ if UNSUPPORTED.contains(&name) || name == "uidmap" || name == "gidmap" => {
                    return Err(option.clone());
                }
                _ if option.is_empty()
                    || IGNORED.contains(&name)
                    || name.starts_with("X-")
                    || name.starts_with("x-") => {}
                _ => match FLAGS.iter().find(|(name, ..)| name == option) {
                    Some((_, set, flag)) => parsed.flags.set(*flag, *set),
                    None => parsed.data.push(option.clone()),
                },
            }
        }
        Ok(parsed)
    }

    /// The options for the file system as one string of less than a page; `None` if there are none.
    ///
    /// An overlay of many layers does not fit. Then the paths of its layers are relative to the directory that is
    /// returned along.
    pub(super) fn data_within_a_page(&self) -> io::Result<(Option<String>, Option<String>)> {
        let joined = self.data.join(",");
        if joined.is_empty() {
            return Ok((None, None));
        }
        if joined.len() < PAGE {
            return Ok((Some(joined), None));
        }
        let too_long =
            || io::Error::new(io::ErrorKind::ArgumentListTooLong, "the options do not fit into a page");
        let base = self.common_directory().ok_or_else(too_long)?;
        let shortened = self.data.iter().map(|option| shorten(option, &base));
        let joined = shortened.collect::<Vec<_>>().join(",");
        if joined.len() < PAGE { Ok((Some(joined), Some(base))) } else { Err(too_long()) }
    }

    /// The longest directory, with its final slash, that all lower layers are in.
    fn common_directory(&self) -> Option<String> {
        let lower = self.data.iter().find_map(|option| option.strip_prefix("lowerdir="))?;
        let mut layers = lower.split(':').filter(|layer| !layer.is_empty());
        let mut common = layers.next()?;
        for layer in layers {
            let same = common.bytes().zip(layer.bytes()).take_while(|(one, other)| one == other).count();
            common = common.get(..same)?;
        }
        // Not the root: that would not make anything shorter.
        let end = common.rfind('/').filter(|end| *end > 0)?;
        Some(common[..=end].to_owned())
    }
}

/// `option` with its directories below `base` made relative to it.
fn shorten<'a>(option: &'a str, base: &str) -> String {
    match option.split_once('=') {
        Some((name @ ("lowerdir" | "upperdir" | "workdir"), value)) => {
            let relative = |rest: &'a str| match rest.trim_start_matches('/') {
                "" => ".",
                // A second slash behind the base would have made it absolute.
                rest => rest,
            };
            let paths = value.split(':').map(|path| path.strip_prefix(base).map_or(path, relative));
            format!("{name}={}", paths.collect::<Vec<_>>().join(":"))
        }
        _ => option.to_owned(),
    }
}
