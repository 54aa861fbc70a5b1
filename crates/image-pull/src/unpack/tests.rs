//! Layers as they should be, and such as want out. Root is needed for `chroot`, as for all of it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;

use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::{UnpackError, layer};
use crate::media::Layer;

/// Name, kind, contents or target of a link.
fn tar(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, kind, text) in entries {
        append(&mut builder, name, *kind, text);
    }
    builder.into_inner().unwrap()
}

fn append(builder: &mut Builder<Vec<u8>>, name: &str, kind: EntryType, text: &str) {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o4755 });
    header.set_uid(1001);
    header.set_gid(1002);
    header.set_mtime(1234);
    // Written as they are: the builder would refuse what these tests are about.
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
    let is_link = matches!(kind, EntryType::Link | EntryType::Symlink);
    if is_link {
        header.as_gnu_mut().unwrap().linkname[..text.len()].copy_from_slice(text.as_bytes());
    }
    let contents = if kind == EntryType::Regular { text.as_bytes() } else { &[] };
    header.set_size(contents.len() as u64);
    if kind == EntryType::Char {
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
    }
    header.set_cksum();
    builder.append(&header, contents).unwrap();
}

const FILE: EntryType = EntryType::Regular;
const DIR: EntryType = EntryType::Directory;
const LINK: EntryType = EntryType::Symlink;

fn unpack(root: &Path, archive: &[u8]) -> Result<(), UnpackError> {
    let hex: String = Sha256::digest(archive).iter().map(|byte| format!("{byte:02x}")).collect();
    layer(root, archive, Layer::Plain, &format!("sha256:{hex}"))
}

/// A directory for a root, in one with a file that no image may touch.
fn place() -> (tempfile::TempDir, std::path::PathBuf) {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "mine").unwrap();
    let root = outside.path().join("root");
    fs::create_dir(&root).unwrap();
    (outside, root)
}

fn names(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn files_have_owner_mode_time_and_links() {
    let (_outside, root) = place();
    let archive = tar(&[
        ("./", DIR, ""),
        ("bin/", DIR, ""),
        ("bin/tool", FILE, "text"),
        ("bin/same", EntryType::Link, "bin/tool"),
        ("bin/link", LINK, "/bin/tool"),
        ("null", EntryType::Char, ""),
        ("pipe", EntryType::Fifo, ""),
    ]);
    unpack(&root, &archive).unwrap();
    let tool = fs::metadata(root.join("bin/tool")).unwrap();
    assert_eq!((tool.uid(), tool.gid(), tool.mode() & 0o7777, tool.mtime()), (1001, 1002, 0o4755, 1234));
    assert_eq!(tool.ino(), fs::metadata(root.join("bin/same")).unwrap().ino());
    let link = fs::symlink_metadata(root.join("bin/link")).unwrap();
    assert_eq!((link.uid(), link.mtime()), (1001, 1234));
    assert_eq!(fs::read_link(root.join("bin/link")).unwrap(), Path::new("/bin/tool"));
    assert_eq!(fs::metadata(root.join("bin")).unwrap().mtime(), 1234, "although files were made in it");
    assert_eq!(fs::metadata(&root).unwrap().uid(), 1001);
    let null = fs::metadata(root.join("null")).unwrap();
    assert!(null.file_type().is_char_device() && null.rdev() == 0x103);
    assert!(fs::metadata(root.join("pipe")).unwrap().file_type().is_fifo());
}

#[test]
fn an_empty_owner_or_time_is_zero() {
    let (_outside, root) = place();
    let mut builder = Builder::new(Vec::new());
    for (name, kind) in [("bin/", DIR), ("bin/tool", FILE)] {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(0);
        builder.append_data(&mut header, name, &b""[..]).unwrap();
    }
    unpack(&root, &builder.into_inner().unwrap()).unwrap();
    let tool = fs::metadata(root.join("bin/tool")).unwrap();
    assert_eq!((tool.uid(), tool.gid(), tool.mode() & 0o7777, tool.mtime()), (0, 0, 0o755, 0));
}

#[test]
fn attributes_of_files_and_directories_are_kept() {
    let (_outside, root) = place();
    let mut builder = Builder::new(Vec::new());
    // Attributes of the family `user` need the file system's help; this one does not.
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    builder.append_pax_extensions([("SCHILY.xattr.security.capability", capability)]).unwrap();
    append(&mut builder, "tool", FILE, "x");
    unpack(&root, &builder.into_inner().unwrap()).unwrap();
    let mut value = [0u8; 64];
    let read = rustix::fs::lgetxattr(root.join("tool"), "security.capability", &mut value).unwrap();
    assert_eq!(&value[..read], capability);
}

#[test]
fn whiteouts_take_away_what_lower_layers_have_and_nothing_of_their_own() {
    let (_outside, root) = place();
    unpack(&root, &tar(&[("a/x", FILE, ""), ("a/y/z", FILE, ""), ("b/x", FILE, ""), ("c", FILE, "")]))
        .unwrap();
    let upper = tar(&[
        ("b/new", FILE, ""),
        ("b/.wh..wh..opq", FILE, ""),
        ("a/.wh.y", FILE, ""),
        (".wh.c", FILE, ""),
        ("c", FILE, ""),
        (".wh.c", FILE, ""),
        (".wh.never", FILE, ""),
        ("a/x/.wh.below-a-file", FILE, ""),
    ]);
    unpack(&root, &upper).unwrap();
    assert_eq!((names(&root.join("a")), names(&root.join("b"))), (vec!["x".into()], vec!["new".into()]));
    assert_eq!(names(&root), ["a", "b", "c"]);
}

#[test]
fn a_file_takes_a_directorys_place_and_a_directory_a_links() {
    let (_outside, root) = place();
    unpack(&root, &tar(&[("a/x", FILE, ""), ("real/x", FILE, ""), ("b", LINK, "real")])).unwrap();
    unpack(&root, &tar(&[("a", FILE, "now"), ("b/", DIR, ""), ("b/y", FILE, "")])).unwrap();
    assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "now");
    assert!(fs::symlink_metadata(root.join("b")).unwrap().is_dir());
    assert_eq!((names(&root.join("b")), names(&root.join("real"))), (vec!["y".into()], vec!["x".into()]));
}

#[test]
fn a_link_to_an_absolute_path_leads_inside_the_image() {
    let (_outside, root) = place();
    unpack(&root, &tar(&[("run/", DIR, ""), ("var/run", LINK, "/run")])).unwrap();
    unpack(&root, &tar(&[("var/run/lock", FILE, "x")])).unwrap();
    assert_eq!(names(&root.join("run")), ["lock"]);
    assert!(fs::symlink_metadata(root.join("var/run")).unwrap().is_symlink());
}

#[test]
fn no_name_or_link_leads_out() {
    let outside_link = |outside: &Path| outside.to_str().unwrap().to_owned();
    let (outside, root) = place();
    let out = outside_link(outside.path());
    for name in ["../secret", "a/../../secret", "..", ".wh...", "a/.wh..", "a/.wh."] {
        let refused = unpack(&root, &tar(&[(name, FILE, "theirs")])).unwrap_err();
        assert!(matches!(refused, UnpackError::Outside { .. }), "{name}: {refused}");
    }
    let hostile: [&[(&str, EntryType, &str)]; 5] = [
        &[("up", LINK, "../../../.."), ("up/secret", FILE, "theirs")],
        &[("up", LINK, ".."), ("up/.wh.secret", FILE, "")],
        &[("out", LINK, &out), ("out/secret", FILE, "theirs")],
        &[("hard", EntryType::Link, "../secret"), ("hard", FILE, "theirs")],
        &[("/abs/secret", FILE, "theirs")],
    ];
    for entries in hostile {
        // Whether it is refused or lands in the image, outside nothing happens.
        let _ = unpack(&root, &tar(entries));
    }
    symlink(outside.path(), root.join("there")).unwrap();
    let _ = unpack(&root, &tar(&[("there/secret", FILE, "theirs"), ("there/.wh..wh..opq", FILE, "")]));
    assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), "mine");
    assert_eq!(fs::metadata(outside.path().join("secret")).unwrap().nlink(), 1);
    assert_eq!(names(outside.path()), ["root", "secret"]);
}

#[test]
fn other_files_than_the_configuration_names_are_refused() {
    let (_outside, root) = place();
    let refused = layer(&root, &tar(&[("a", FILE, "")])[..], Layer::Plain, "sha256:0").unwrap_err();
    assert!(matches!(refused, UnpackError::DiffId { .. }), "{refused}");
}

#[test]
fn an_archive_that_breaks_off_is_refused() {
    let (_outside, root) = place();
    let mut archive = tar(&[("a", FILE, &"x".repeat(4096))]);
    archive.truncate(2000);
    assert!(unpack(&root, &archive).is_err());
    let mut noise = Vec::new();
    noise.write_all(&[0x55; 2048]).unwrap();
    assert!(unpack(&root, &noise).is_err());
}
