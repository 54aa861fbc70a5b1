//! Mount options in the words of mount(8).

use nix::mount::MsFlags;

/// Options split into what the kernel takes as flags and what the file system reads itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MountOptions {
    pub(super) flags: MsFlags,
    pub(super) data: String,
}

/// Word, whether it sets or clears, and the flags.
const FLAGS: [(&str, bool, MsFlags); 24] = [
    ("ro", true, MsFlags::MS_RDONLY),
    ("rw", false, MsFlags::MS_RDONLY),
    ("nosuid", true, MsFlags::MS_NOSUID),
    ("suid", false, MsFlags::MS_NOSUID),
    ("nodev", true, MsFlags::MS_NODEV),
    ("dev", false, MsFlags::MS_NODEV),
    ("noexec", true, MsFlags::MS_NOEXEC),
    ("exec", false, MsFlags::MS_NOEXEC),
    ("sync", true, MsFlags::MS_SYNCHRONOUS),
    ("async", false, MsFlags::MS_SYNCHRONOUS),
    ("dirsync", true, MsFlags::MS_DIRSYNC),
    ("mand", true, MsFlags::MS_MANDLOCK),
    ("nomand", false, MsFlags::MS_MANDLOCK),
    ("noatime", true, MsFlags::MS_NOATIME),
    ("atime", false, MsFlags::MS_NOATIME),
    ("nodiratime", true, MsFlags::MS_NODIRATIME),
    ("diratime", false, MsFlags::MS_NODIRATIME),
    ("relatime", true, MsFlags::MS_RELATIME),
    ("norelatime", false, MsFlags::MS_RELATIME),
    ("strictatime", true, MsFlags::MS_STRICTATIME),
    ("nostrictatime", false, MsFlags::MS_STRICTATIME),
    ("bind", true, MsFlags::MS_BIND),
    ("rbind", true, MsFlags::MS_BIND.union(MsFlags::MS_REC)),
    ("defaults", true, MsFlags::empty()),
];

impl MountOptions {
    pub(super) fn parse(options: &[String]) -> Self {
        let mut flags = MsFlags::empty();
        let mut data = Vec::new();
        for option in options.iter().flat_map(|option| option.split(',')).filter(|option| !option.is_empty())
        {
            match FLAGS.iter().find(|(word, ..)| *word == option) {
                Some((_, set, flag)) => flags.set(*flag, *set),
                None => data.push(option),
            }
        }
        Self { flags, data: data.join(",") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> MountOptions {
        MountOptions::parse(&options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn flags_and_data_are_told_apart() {
        let options = parse(&["nodev", "size=64m", "noexec,mode=1777"]);
        assert_eq!(options.flags, MsFlags::MS_NODEV | MsFlags::MS_NOEXEC);
        assert_eq!(options.data, "size=64m,mode=1777");
    }

    #[test]
    fn the_options_of_9p_are_the_file_systems_own() {
        let options = parse(&["trans=virtio,version=9p2000.L,cache=mmap", "nodev", "msize=8192"]);
        assert_eq!(options.flags, MsFlags::MS_NODEV);
        assert_eq!(options.data, "trans=virtio,version=9p2000.L,cache=mmap,msize=8192");
    }

    #[test]
    fn the_last_word_wins() {
        assert_eq!(parse(&["ro", "rw"]).flags, MsFlags::empty());
        assert_eq!(parse(&["rbind", "ro"]).flags, MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_RDONLY);
    }
}
