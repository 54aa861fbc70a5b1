//! Options in memory; mounts in a namespace of one's own.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::mount::MountFlags;
use tempfile::TempDir;

use super::options::Options;
use super::{RootfsError, RootfsMount};
use crate::share::{ContainerFiles, SharedDirectory};
use crate::testing::{MemoryLog, in_private_mounts, mounts_below};

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn options_are_sorted_into_flags_and_data() {
    let parsed = Options::parse(&strings(&[
        "ro",
        "nosuid",
        "rw",
        "noatime",
        "rslave",
        "defaults",
        "",
        "index=off",
        "lowerdir=/a:/b",
        "userxattr",
    ]))
    .unwrap();
    assert_eq!(parsed.flags, MountFlags::NOSUID | MountFlags::NOATIME);
    assert_eq!(parsed.data, ["index=off", "lowerdir=/a:/b", "userxattr"]);
    assert!(!parsed.bind);
    let bind = Options::parse(&strings(&["rbind", "ro"])).unwrap();
    assert!(bind.bind && bind.recursive && bind.flags == MountFlags::RDONLY);
    assert_eq!(Options::parse(&strings(&["loop=/dev/loop0"])), Err("loop=/dev/loop0".to_owned()));
}

#[test]
fn options_that_exceed_a_page_are_shortened() {
    let temp = tempfile::tempdir().unwrap();
    let base = temp.path().to_str().unwrap();
    let layers: Vec<_> = (100..250).map(|n| format!("{base}/{n}/{}", "f".repeat(8))).collect();
    let data =
        vec![format!("lowerdir={}", layers.join(":")), format!("upperdir={base}/1/fs"), "index=off".into()];
    assert!(data.join(",").len() > 4096);
    let (short, directory) = Options { data, ..Options::default() }.data_within_a_page().unwrap();
    // The layers have a "1" or "2" in common as well, but only whole directories count.
    assert_eq!(directory.unwrap(), format!("{base}/"));
    let short = short.unwrap();
    assert!(short.starts_with("lowerdir=100/ffffffff:101/ffffffff:"), "{short}");
    assert!(short.ends_with(",upperdir=1/fs,index=off"), "{short}");

    let unrelated = vec![format!("lowerdir={}:/b", "/a".repeat(3000))];
    assert!(Options { data: unrelated, ..Options::default() }.data_within_a_page().is_err());
}

/// A share with a container, both taken back at the end of a test.
struct Fixture {
    run: TempDir,
    share: SharedDirectory,
    files: ContainerFiles,
}

impl Fixture {
    fn new() -> Self {
        let run = tempfile::tempdir().unwrap();
        let share = SharedDirectory::create(run.path(), "sandbox", MemoryLog::new()).unwrap();
        let files = share.container("c").unwrap();
        Self { run, share, files }
    }

    fn seen(&self) -> std::path::PathBuf {
        self.share.exported_dir().join("passthrough/c/rootfs")
    }

    fn mount(&mut self, mounts: &[RootfsMount]) -> Result<(), RootfsError> {
        let guest = self.files.mount_rootfs(mounts, "/nonexistent".as_ref())?;
        assert_eq!(guest, Path::new("/run/kata-containers/shared/containers/passthrough/c/rootfs"));
        Ok(())
    }

    fn finish(mut self) {
        self.files.remove().unwrap();
        self.share.remove().unwrap();
        assert_eq!(mounts_below(self.run.path()), Vec::<String>::new());
    }
}

/// `/layers//2` became `/2` where `/layers/` was the base: the overlay had another directory as its layer.
#[test]
fn a_layer_with_two_slashes_stays_the_same_layer() {
    let long = format!("/layers/{}", "x".repeat(4096 - 30));
    let data = vec![format!("lowerdir={long}:/layers//2:/layers/:/layers//")];
    let (short, directory) = Options { data, ..Options::default() }.data_within_a_page().unwrap();
    assert_eq!(directory.as_deref(), Some("/layers/"));
    assert!(short.unwrap().ends_with("x:2:.:."));
}

fn overlay(layers: &Path, lower: &[String]) -> RootfsMount {
    let dirs = |names: &[String]| {
        names.iter().map(|name| layers.join(name).display().to_string()).collect::<Vec<_>>().join(":")
    };
    for name in lower.iter().map(String::as_str).chain(["upper", "work"]) {
        fs::create_dir_all(layers.join(name)).unwrap();
    }
    RootfsMount {
        fs_type: "overlay".to_owned(),
        source: "overlay".into(),
        options: vec![
            format!("lowerdir={}", dirs(lower)),
            format!("upperdir={}", dirs(&["upper".to_owned()])),
            format!("workdir={}", dirs(&["work".to_owned()])),
        ],
        ..RootfsMount::default()
    }
}

/// Overlay needs an upper directory on a file system that is no overlay; a tmpfs always is one.
fn layers_on_tmpfs() -> TempDir {
    let temp = tempfile::tempdir().unwrap();
    rustix::mount::mount("tmpfs", temp.path(), "tmpfs", MountFlags::empty(), None).unwrap();
    temp
}

#[test]
fn an_overlay_is_writable_into_its_upper_layer() {
    in_private_mounts(|| {
        let layers = layers_on_tmpfs();
        let mount = overlay(layers.path(), &strings(&["lower2", "lower1"]));
        fs::write(layers.path().join("lower1/file"), "old").unwrap();
        let mut fixture = Fixture::new();
        fixture.mount(&[mount]).unwrap();
        assert_eq!(fs::read(fixture.seen().join("file")).unwrap(), b"old");
        fs::write(fixture.seen().join("file"), "new").unwrap();
        assert_eq!(fs::read(layers.path().join("upper/file")).unwrap(), b"new");
        fixture.finish();
    });
}

#[test]
fn an_overlay_of_many_layers_is_mounted() {
    in_private_mounts(|| {
        let layers = layers_on_tmpfs();
        let names: Vec<_> = (0..120).map(|n| format!("{n}-{}", "x".repeat(20))).collect();
        let mount = overlay(layers.path(), &names);
        assert!(mount.options[0].len() > 4096);
        fs::write(layers.path().join(&names[119]).join("deepest"), "x").unwrap();
        let mut fixture = Fixture::new();
        fixture.mount(&[mount]).unwrap();
        assert!(fixture.seen().join("deepest").exists());
        fixture.finish();
    });
}

#[test]
fn mounts_are_stacked_in_order() {
    in_private_mounts(|| {
        let (base, extra) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(base.path().join("inner/dir")).unwrap();
        fs::write(extra.path().join("file"), "x").unwrap();
        let bind = |source: &TempDir, target: &str, options: &[&str]| RootfsMount {
            fs_type: "bind".to_owned(),
            source: source.path().to_owned(),
            target: target.into(),
            options: strings(options),
        };
        let mut fixture = Fixture::new();
        fixture
            .mount(&[bind(&base, "", &["rbind", "rw"]), bind(&extra, "/inner/dir", &["bind", "ro"])])
            .unwrap();
        assert_eq!(fs::read(fixture.seen().join("inner/dir/file")).unwrap(), b"x");
        assert!(fs::write(fixture.seen().join("inner/dir/new"), "").is_err());
        fs::write(fixture.seen().join("new"), "").unwrap();
        fixture.finish();
        assert!(base.path().join("new").exists());
    });
}

#[test]
fn a_link_in_the_image_leads_nowhere_outside() {
    in_private_mounts(|| {
        let (base, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(outside.path(), base.path().join("escape")).unwrap();
        let root = RootfsMount {
            fs_type: "bind".to_owned(),
            source: base.path().to_owned(),
            ..RootfsMount::default()
        };
        let inner = RootfsMount { target: "escape".into(), ..root.clone() };
        let mut fixture = Fixture::new();
        assert!(matches!(fixture.mount(&[root, inner]), Err(RootfsError::Mount { .. })));
        assert_eq!(mounts_below(outside.path()), Vec::<String>::new());
        fixture.finish();
    });
}

#[test]
fn errors_name_the_cause() {
    in_private_mounts(|| {
        let mut fixture = Fixture::new();
        let missing = fixture.mount(&[]).unwrap_err();
        assert!(missing.to_string().contains("\"/nonexistent\""), "{missing}");
        let target = RootfsMount { target: "etc".into(), ..RootfsMount::default() };
        assert!(matches!(fixture.mount(&[target]), Err(RootfsError::FirstTarget { .. })));
        let unknown = RootfsMount {
            fs_type: "nosuchfs".to_owned(),
            source: "/dev/none".into(),
            ..RootfsMount::default()
        };
        let failed = fixture.mount(&[unknown]).unwrap_err();
        assert!(failed.to_string().contains("nosuchfs mount from \"/dev/none\""), "{failed}");
        fixture.finish();
    });
}
