//! What is written below a directory of the test's own, by those who may and by others.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use kata_intent::{Intent, Intents};
use tempfile::TempDir;

use super::{
    ChangePolicy, DirectVolumeError, DirectVolumes, MAX_MOUNT_INFO, MountInfo, MountInfoError, name_of,
};
use crate::testing::MemoryLog;
use crate::undo::undo;

const VOLUME: &str = "/var/lib/kubelet/pods/1/volumes/kubernetes.io~csi/pvc/mount";
const PLAIN: &str = r#"{"volume-type":"block","device":"/dev/sdf","fstype":"ext4"}"#;

fn info(json: &str) -> MountInfo {
    MountInfo::parse(json.as_bytes()).unwrap()
}

struct Fixture {
    run: TempDir,
    living: Arc<Mutex<Vec<&'static str>>>,
    volumes: DirectVolumes,
}

impl Fixture {
    fn new() -> Self {
        let run = tempfile::tempdir().unwrap();
        let living = Arc::new(Mutex::new(vec!["first", "second"]));
        let alive = Arc::clone(&living);
        let is_alive = move |id: &str| alive.lock().unwrap().contains(&id);
        let volumes = DirectVolumes::below(run.path(), is_alive);
        Self { run, living, volumes }
    }

    fn added() -> Self {
        let fixture = Self::new();
        fixture.volumes.add(VOLUME.as_ref(), &info(PLAIN)).unwrap();
        fixture
    }

    fn root(&self) -> PathBuf {
        self.run.path().join("kata-containers/shared/direct-volumes")
    }

    fn dir(&self) -> PathBuf {
        self.root().join(name_of(VOLUME.as_ref()).unwrap())
    }

    fn find(&self) -> Result<Option<MountInfo>, DirectVolumeError> {
        self.volumes.find(VOLUME.as_ref())
    }

    fn claim(&self, sandbox: &str) -> Result<Arc<MemoryLog>, DirectVolumeError> {
        let log = MemoryLog::new();
        self.volumes.claim(VOLUME.as_ref(), sandbox, &(Arc::clone(&log) as Arc<dyn Intents>)).map(|()| log)
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_volume_is_where_upstreams_tools_look_for_it_and_nobody_else_may() {
    let fixture = Fixture::new();
    fixture.volumes.add("/data/a?b".as_ref(), &info(PLAIN)).unwrap();
    let dir = fixture.root().join("L2RhdGEvYT9i");
    assert_eq!(fs::read_to_string(dir.join("mountInfo.json")).unwrap(), PLAIN);
    assert_eq!((mode(&fixture.root()), mode(&dir), mode(&dir.join("mountInfo.json"))), (0o700, 0o700, 0o600));
    assert_eq!(fixture.volumes.find("/data//a?b/".as_ref()).unwrap(), Some(info(PLAIN)));
    assert_eq!(fixture.volumes.find("/data".as_ref()).unwrap(), None);
    fixture.volumes.remove("/data/a?b".as_ref()).unwrap();
    fixture.volumes.remove("/data/a?b".as_ref()).unwrap();
    assert_eq!(fs::read_dir(fixture.run.path()).unwrap().count(), 0, "nothing is left");
}

/// It was taken for a sandbox's name, and the pod wrote to the host's empty directory.
#[test]
fn a_mount_info_under_the_name_of_upstreams_documents_is_read() {
    let fixture = Fixture::new();
    fixture.volumes.add(VOLUME.as_ref(), &info(PLAIN)).unwrap();
    let dir = fs::read_dir(fixture.root()).unwrap().next().unwrap().unwrap().path();
    fs::rename(dir.join("mountInfo.json"), dir.join("mount-info.json")).unwrap();
    assert_eq!(fixture.volumes.find(VOLUME.as_ref()).unwrap(), Some(info(PLAIN)));
    assert_eq!(fixture.volumes.user(VOLUME.as_ref()).unwrap(), None);
    fixture.volumes.remove(VOLUME.as_ref()).unwrap();
    assert_eq!(fs::read_dir(fixture.run.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn all_spellings_mean_the_same() {
    let same = info(
        r#"{"volume-type":"block","device":"/dev/sdf","fstype":"xfs",
            "metadata":{"fsGroup":"1000","fsGroupChangePolicy":"OnRootMismatch"},"options":["ro","noatime"]}"#,
    );
    assert_eq!(
        (same.fs_group, same.fs_group_change_policy),
        (Some(1000), Some(ChangePolicy::OnRootMismatch))
    );
    for json in [
        r#"{"volume_type":"block","Device":"/dev/sdf","fs_type":"xfs",
            "metadata":{"fs_group":1000,"fs_group_change_policy":"OnRootMismatch"},"options":["ro","noatime"]}"#,
        r#"{"volumeType":"block","device":"/dev/sdf","fsType":"xfs",
            "Metadata":{"FsGroup":"1000","FsGroupChangePolicy":"OnRootMismatch"},"Options":["ro","noatime"]}"#,
    ] {
        assert_eq!(info(json), same);
    }
    assert_eq!(info(&same.to_json()), same);
    assert!(same.is_read_only() && !info(PLAIN).is_read_only());
}

/// They reached the guest's file system, which refused them; and `ro` among others in one text was not seen.
#[test]
fn options_are_one_each_and_those_of_the_mount_program_are_left_out() {
    let json =
        PLAIN.replace('}', r#","options":["_netdev,noatime,ro","x-systemd.after=a","nofail","discard"]}"#);
    let info = info(&json);
    assert_eq!(info.options, ["noatime", "ro", "discard"]);
    assert!(info.is_read_only());
}

#[test]
fn a_mount_info_that_asks_for_what_cannot_be_is_refused() {
    let with = |from: &str, to: &str| PLAIN.replace(from, to);
    let more = |more: &str| PLAIN.replace('}', &format!(",{more}}}"));
    let many = format!(r#""options":[{}"noatime"]"#, r#""nodiratime","#.repeat(500));
    for (json, words) in [
        (String::new(), "is not of the form"),
        ("[]".to_owned(), "is not of the form"),
        (PLAIN[..40].to_owned(), "is not of the form"),
        (with("fstype", "fsformat"), "is not of the form"),
        (more(r#""volume_type":"block""#), "is not of the form"),
        (more(r#""encrypted":true"#), "is not of the form"),
        (with("block", "nfs"), r#"The volume type "nfs" is not known"#),
        (with("block", "spdkvol"), r#"The volume type "spdkvol" is not supported"#),
        (with("/dev/sdf", "sdf"), "is not an absolute path"),
        (with("/dev/sdf", "/dev/../etc/shadow"), r#"has ".." in it"#),
        (with("/dev/sdf", "/dev/sd\\nf"), "has control characters in it"),
        (with("/dev/sdf", "/"), "is the root directory"),
        (with("/dev/sdf", ""), "is not an absolute path"),
        (with("ext4", "nfs"), r#"cannot mount the file system "nfs": it has ext4"#),
        (with("ext4", ""), r#"cannot mount the file system """#),
        (more(r#""options":["ro\n"]"#), "has control characters in it"),
        (more(r#""options":["\u0000"]"#), "has control characters in it"),
        (more(r#""options":[""]"#), "is empty"),
        (more(r#""options":["noatime,bind"]"#), "has no meaning"),
        (more(r#""options":["loop=/dev/loop0"]"#), "has no meaning"),
        (more(&many), "too long"),
        (more(r#""metadata":{"fsGroup":"wheel"}"#), "a group's number"),
        (more(r#""metadata":{"fsGroup":"-1"}"#), "a group's number"),
        (more(r#""metadata":{"fsGroup":4294967296}"#), "a group's number"),
        (more(r#""metadata":{"fsGroupChangePolicy":"Never"}"#), "Always or OnRootMismatch"),
        (more(r#""metadata":{"encryption":"luks"}"#), r#"The metadata "encryption" is not known"#),
        (format!("{PLAIN}{}", " ".repeat(MAX_MOUNT_INFO)), "has more than 65536 bytes"),
    ] {
        let error = MountInfo::parse(json.as_bytes()).expect_err(&json);
        assert!(error.to_string().contains(words), "{json}: {error}");
    }
}

#[test]
fn what_others_than_root_could_have_written_is_not_believed() {
    type Attack = fn(&Fixture);
    let attacks: [(&str, Attack); 10] = [
        ("is a symbolic link", |fixture| {
            let json = fixture.dir().join("mountInfo.json");
            fs::rename(&json, fixture.run.path().join("theirs")).unwrap();
            symlink(fixture.run.path().join("theirs"), json).unwrap();
        }),
        ("is a symbolic link", |fixture| {
            fs::rename(fixture.dir(), fixture.run.path().join("theirs")).unwrap();
            symlink(fixture.run.path().join("theirs"), fixture.dir()).unwrap();
        }),
        ("is a symbolic link", |fixture| {
            fs::rename(fixture.root(), fixture.run.path().join("theirs")).unwrap();
            symlink("../../theirs", fixture.root()).unwrap();
        }),
        ("can be changed by others", |fixture| {
            fs::set_permissions(fixture.dir().join("mountInfo.json"), Permissions::from_mode(0o602)).unwrap();
        }),
        ("can be changed by others", |fixture| {
            fs::set_permissions(fixture.dir(), Permissions::from_mode(0o720)).unwrap();
        }),
        ("can be changed by others", |fixture| {
            fs::set_permissions(fixture.run.path().join("kata-containers"), Permissions::from_mode(0o777))
                .unwrap();
        }),
        ("can be changed by others", |fixture| {
            chown(fixture.dir().join("mountInfo.json"), Some(1000), None).unwrap();
        }),
        ("is no regular file", |fixture| {
            fs::remove_file(fixture.dir().join("mountInfo.json")).unwrap();
            fs::create_dir(fixture.dir().join("mountInfo.json")).unwrap();
        }),
        ("is no regular file", |fixture| {
            fs::remove_file(fixture.dir().join("mountInfo.json")).unwrap();
            UnixListener::bind(fixture.run.path().join("s")).unwrap();
            fs::rename(fixture.run.path().join("s"), fixture.dir().join("mountInfo.json")).unwrap();
        }),
        ("cannot be used", |fixture| {
            let json = File::create(fixture.dir().join("mountInfo.json")).unwrap();
            json.set_len(1 << 40).unwrap();
        }),
    ];
    for (index, (words, attack)) in attacks.into_iter().enumerate() {
        let fixture = Fixture::added();
        attack(&fixture);
        let error = fixture.find().expect_err(words);
        assert!(error.to_string().contains(words), "{index}: {error}");
    }
}

#[test]
fn a_fifo_in_place_of_the_mount_info_is_not_waited_for() {
    let fixture = Fixture::added();
    let json = fixture.dir().join("mountInfo.json");
    fs::remove_file(&json).unwrap();
    nix::unistd::mkfifo(&json, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(fixture.find(), Err(DirectVolumeError::Untrusted { .. })));
}

#[test]
fn a_path_that_means_more_than_one_place_is_no_volume() {
    let fixture = Fixture::new();
    let long = format!("/{}", "x".repeat(200));
    for path in ["", "relative", "/a/../b", "/", "/a\nb", &long] {
        let refused = fixture.volumes.add(path.as_ref(), &info(PLAIN)).unwrap_err();
        assert!(matches!(refused, DirectVolumeError::Path { .. }), "{path:?}: {refused}");
        assert_eq!(fixture.volumes.find(path.as_ref()).unwrap(), None);
    }
    assert_eq!(fs::read_dir(fixture.run.path()).unwrap().count(), 0);
}

#[test]
fn a_device_is_for_one_sandbox() {
    let fixture = Fixture::added();
    assert_eq!(fixture.volumes.user(VOLUME.as_ref()).unwrap(), None);
    let log = fixture.claim("first").unwrap();
    assert_eq!(mode(&fixture.dir().join("first")), 0o600);
    assert_eq!(fixture.volumes.user(VOLUME.as_ref()).unwrap().as_deref(), Some("first"));
    assert!(fixture.claim("first").unwrap().open().is_empty(), "it has the device already");
    let refused = fixture.claim("second").unwrap_err().to_string();
    assert!(refused.contains("in use by the sandbox first"), "{refused}");

    let [intent]: [Intent; 1] = log.open().try_into().unwrap();
    undo(&intent).unwrap();
    fixture.claim("second").unwrap();
    assert_eq!(fixture.volumes.user(VOLUME.as_ref()).unwrap().as_deref(), Some("second"));
}

#[test]
fn what_a_dead_sandbox_left_is_replaced() {
    let fixture = Fixture::added();
    fixture.claim("first").unwrap();
    *fixture.living.lock().unwrap() = vec!["second"];
    assert_eq!(fixture.volumes.user(VOLUME.as_ref()).unwrap(), None);
    fixture.claim("second").unwrap();
    assert!(!fixture.dir().join("first").exists());
}

#[test]
fn a_volume_in_use_stays_as_it_is() {
    let fixture = Fixture::added();
    fixture.claim("first").unwrap();
    fixture.volumes.add(VOLUME.as_ref(), &info(PLAIN)).unwrap();
    let other = info(&PLAIN.replace("sdf", "sdg"));
    let refused = [fixture.volumes.add(VOLUME.as_ref(), &other), fixture.volumes.remove(VOLUME.as_ref())];
    for refused in refused {
        assert!(refused.unwrap_err().to_string().contains("in use by the sandbox first"));
    }
    assert_eq!(fixture.find().unwrap(), Some(info(PLAIN)));
}

#[test]
fn who_is_not_announced_is_not_written_down() {
    let fixture = Fixture::added();
    let log = MemoryLog::new();
    log.break_down();
    let log: Arc<dyn Intents> = log;
    assert!(fixture.volumes.claim(VOLUME.as_ref(), "first", &log).is_err());
    assert!(!fixture.dir().join("first").exists());
    let unknown = fixture.volumes.claim("/other".as_ref(), "first", &log).unwrap_err();
    assert!(matches!(unknown, DirectVolumeError::Unknown { .. }));
}

/// The directory on the host is empty: what was written to a part of it was nowhere else.
#[test]
fn a_part_of_a_volume_is_refused() {
    let fixture = Fixture::new();
    let volume = "/k/pods/7f/volumes/kubernetes.io~csi/pvc-1/mount";
    fixture.volumes.add(volume.as_ref(), &info(PLAIN)).unwrap();
    let among = |source: &str| {
        let mount = oci_spec::runtime::MountBuilder::default().typ("bind").source(source).destination("/d");
        fixture.volumes.among(&[mount.build().unwrap()], "/bundle".as_ref())
    };
    let refused = among("/k/pods/7f/volume-subpaths/pvc-1/main/0").unwrap_err().to_string();
    assert!(refused.contains(volume) && refused.contains("without subPath"), "{refused}");
    assert_eq!(among("/k/pods/7f/volume-subpaths/pvc-2/main/0").unwrap(), []);
    assert_eq!(among(volume).unwrap(), [(PathBuf::from(volume), info(PLAIN))]);
}

#[test]
fn what_a_writer_left_that_died_does_not_count() {
    let fixture = Fixture::added();
    fs::write(fixture.dir().join(".mountInfo.json.new"), "{").unwrap();
    let other = info(&PLAIN.replace("sdf", "sdg"));
    fixture.volumes.add(VOLUME.as_ref(), &other).unwrap();
    assert_eq!(fixture.find().unwrap(), Some(other));
}

#[test]
fn a_file_that_is_no_sandboxs_name_is_not_believed() {
    let fixture = Fixture::added();
    fs::write(fixture.dir().join("a sandbox\x1b[2J"), "").unwrap();
    assert!(matches!(fixture.claim("first"), Err(DirectVolumeError::Untrusted { .. })));
}

#[test]
fn a_device_is_a_block_device_or_an_image_of_roots() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let device = |path: &Path| info(&PLAIN.replace("/dev/sdf", path.to_str().unwrap())).open_device();
    fs::write(path("image"), "x").unwrap();
    assert!(!device(&path("image")).unwrap().is_block);

    symlink(path("image"), path("link")).unwrap();
    let text = |path: &Path| with_cause(&device(path).unwrap_err());
    assert!(text(&path("link")).contains("symbolic links"), "{}", text(&path("link")));
    assert!(text(&path("missing")).contains("No such file"));
    assert!(text(dir.path()).contains("neither a block device nor a file"));
    assert!(text("/dev/null".as_ref()).contains("neither a block device nor a file"));
    assert!(text("/dev/stdin".as_ref()).contains("cannot be opened"));
    let shm = tempfile::tempdir_in("/dev/shm").unwrap();
    symlink(path("image"), shm.path().join("link")).unwrap();
    assert!(text(&shm.path().join("link")).contains("symbolic links"));
    fs::set_permissions(path("image"), Permissions::from_mode(0o666)).unwrap();
    assert!(text(&path("image")).contains("not only root can change"));
}

fn with_cause(error: &MountInfoError) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string);
    format!("{error}: {}", source.unwrap_or_default())
}
