//! `shared_fs = "virtio-9p"`: files that the VMM shares itself, on a host without virtiofsd.

use std::fs;

use kata_e2e::{Bind, Bundle, Containerd, Expected, compare, kata_test};

const OPENED: &str = "QEMU (before 9.2) opens each node that it makes, and must not since CVE-2023-2861";
const REMOVED: &str = "QEMU asks the host by the file's name, which is gone (from 9.2 on not for attributes)";
const UNKNOWN: &str = "9P2000.L has no message for it";
const FAMILIES: &str = "QEMU passes attributes of the family `user` on, no others";
const EMPTY: &str = "an empty attribute is told like one that is not there";
const LISTS: &str = "the guest does not ask for access lists: it would do so twice for each name";
const SECONDS: &str = "Linux (6.12) has times of 9p in whole seconds from 1970 on";

/// What 9p does otherwise than runc, and nothing here can change.
const DIFFERENCES: &[Expected<'_>] = &[
    Expected { fact: "*: nodes of each kind", reason: OPENED },
    Expected { fact: "*: a FIFO carries bytes", reason: OPENED },
    Expected { fact: "*: a socket takes connections", reason: OPENED },
    Expected { fact: "*: attributes of a removed file", reason: REMOVED },
    Expected { fact: "*: an open file that was replaced is read on", reason: REMOVED },
    Expected { fact: "*: O_TMPFILE *", reason: UNKNOWN },
    Expected { fact: "*: fallocate*", reason: UNKNOWN },
    Expected { fact: "*: SEEK_HOLE and SEEK_DATA", reason: UNKNOWN },
    Expected { fact: "*: rename by exchange", reason: UNKNOWN },
    Expected { fact: "*: rename that leaves a whiteout", reason: UNKNOWN },
    Expected { fact: "*: * go when another allocates", reason: UNKNOWN },
    Expected { fact: "*: trusted attributes", reason: FAMILIES },
    Expected { fact: "*: file capabilities*", reason: FAMILIES },
    Expected { fact: "*: an empty attribute", reason: EMPTY },
    Expected { fact: "*: an access list *", reason: LISTS },
    Expected { fact: "*: a folder's default list *", reason: LISTS },
    Expected { fact: "*: times *", reason: SECONDS },
];

/// A host that has no virtiofsd.
fn share_by_9p(containerd: &Containerd) {
    let daemon = containerd.stage.prefix.join("libexec/virtiofsd").display().to_string();
    containerd.reconfigure(|text| {
        let shared = "\nshared_fs = \"virtio-fs\"\n";
        assert!(text.contains(shared) && text.contains(&daemon), "the shipped file:\n{text}");
        text.replace(shared, "\nshared_fs = \"virtio-9p\"\n").replace(&daemon, "/no/such/virtiofsd")
    });
}

#[test]
fn directories_and_files_of_the_host_are_volumes() {
    kata_test(|containerd| {
        share_by_9p(containerd);
        let (data, fixed) = (containerd.directory(), containerd.directory());
        fs::write(data.join("from-host"), "old").unwrap();
        fs::write(fixed.join("file"), "fixed").unwrap();
        let container = containerd
            .container()
            .bind(&Bind::writable(&data, "/data"))
            .bind(&Bind::read_only(&fixed, "/fixed"))
            .bind(&Bind::writable(&data.join("from-host"), "/etc/own"))
            .command(["/bin/sleep", "1000"])
            .start();
        let line = "grep -c '^kataShared /data 9p' /proc/mounts; cat /data/from-host /fixed/file /etc/own; \
                    echo new > /data/from-guest; chown 12:34 /data/from-guest; echo x > /fixed/new || echo refused; \
                    echo own > /only-here; cat /only-here; mkdir /data/dir; mv /data/from-guest /data/dir/moved";
        assert_eq!(container.shell(line), "1\noldfixedoldrefused\nown");
        let moved = data.join("dir/moved");
        assert_eq!(fs::read_to_string(&moved).unwrap(), "new\n");
        assert_eq!(owner(&moved), (12, 34));
        assert!(!fixed.join("new").exists());

        fs::write(data.join("from-host"), "changed").unwrap();
        assert_eq!(container.shell("cat /data/from-host"), "changed", "at once");
        assert_eq!(containerd.processes_of("virtiofsd").len(), 0);
        container.remove();
    });
}

fn owner(path: &std::path::Path) -> (u32, u32) {
    use std::os::unix::fs::MetadataExt;

    let about = fs::metadata(path).expect("is there");
    (about.uid(), about.gid())
}

#[test]
fn root_and_volumes_do_what_a_file_system_does_but_for_the_limits_of_9p() {
    kata_test(|containerd| {
        share_by_9p(containerd);
        let bundle = Bundle::with_volume(containerd.directory());
        // Not closely: a later QEMU differs in less.
        compare(containerd, &[bundle.sections(&["single-files"])], DIFFERENCES);
    });
}
