//! The replay, on temporary directories; mounts only where the test may make them.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kata_intent::{Intent, Intents};
use proptest::prelude::*;

use super::{cleanup, replay, state_dir};
use crate::SandboxId;
use crate::error::SandboxError as Error;
use crate::hooks::Hooks;
use crate::intent_log::IntentLog;
use crate::intent_log::tests::without_forks;

fn id() -> SandboxId {
    "s1".parse().unwrap()
}

/// A place to make things in, and the state directory with its log.
struct Place {
    root: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { root: tempfile::tempdir().unwrap() };
        fs::create_dir_all(place.state()).unwrap();
        fs::create_dir(place.made()).unwrap();
        place
    }

    fn state(&self) -> PathBuf {
        state_dir(&self.root.path().join("state"), &id())
    }

    fn made(&self) -> PathBuf {
        self.root.path().join("made")
    }

    fn log(&self) -> IntentLog {
        IntentLog::open(&self.state()).unwrap()
    }

    async fn cleanup(&self) -> crate::error::Result<()> {
        cleanup(&self.root.path().join("state"), &id()).await
    }

    fn assert_clean(&self) {
        assert_eq!(names(&self.made()), Vec::<String>::new());
        assert!(!self.state().exists());
    }
}

fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

/// The steps of a start, as far as they need no rights.
#[derive(Debug, Clone, Copy)]
enum Step {
    Dir,
    File,
    Socket,
    Link,
    Process,
    Undone,
}

/// Announces a step and carries it out. `below` is the directory that the next things are made in.
fn take(step: Step, number: usize, place: &Place, log: &IntentLog, below: &mut PathBuf) -> Option<Child> {
    let path = below.join(number.to_string());
    let process = || Intent::Process {
        argv_token: format!("{}-{number}", place.root.path().display()),
        exe: "/bin/sh".into(),
    };
    let intent = match step {
        Step::Dir => Intent::Dir { path: path.clone() },
        Step::File | Step::Undone => Intent::File { path: path.clone() },
        Step::Socket => Intent::Socket { path: path.clone() },
        Step::Link => Intent::Link { path: path.clone() },
        Step::Process => process(),
    };
    let number = log.will(intent.clone()).unwrap();
    match (step, intent) {
        (Step::Dir, _) => {
            fs::create_dir(&path).unwrap();
            *below = path;
        }
        (Step::File, _) => fs::write(&path, "x").unwrap(),
        (Step::Socket, _) => drop(UnixListener::bind(&path).unwrap()),
        (Step::Link, _) => symlink("/etc", &path).unwrap(),
        (Step::Undone, _) => log.done(number),
        (Step::Process, Intent::Process { argv_token, .. }) => {
            let mut command = Command::new("/bin/sh");
            return Some(
                command.args(["-c", "read line", &argv_token]).stdin(Stdio::piped()).spawn().unwrap(),
            );
        }
        (Step::Process, _) => unreachable!("a process step has a process intent"),
    }
    None
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => Just(Step::Dir),
        1 => Just(Step::File),
        1 => Just(Step::Socket),
        1 => Just(Step::Link),
        1 => Just(Step::Process),
        1 => Just(Step::Undone),
    ];
    proptest::collection::vec(step, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A start dies at any intent: carried out or only announced. Afterwards nothing is left.
    #[test]
    fn any_prefix_of_a_start_cleans_to_nothing(steps in steps(), announced_only: bool, torn: bool) {
        let _alone = without_forks();
        let place = Place::new();
        let log = place.log();
        let mut below = place.made();
        let children: Vec<Child> = steps
            .iter()
            .enumerate()
            .filter_map(|(number, step)| take(*step, number, &place, &log, &mut below))
            .collect();
        if announced_only {
            log.will(Intent::Dir { path: below.join("never") }).unwrap();
        }
        drop(log);
        if torn {
            use std::io::Write;
            let mut file = fs::OpenOptions::new().append(true).open(place.state().join("intents")).unwrap();
            file.write_all(br#"{"will":{"id":99,"int"#).unwrap();
        }
        fs::write(place.state().join("console.log"), "x").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(place.cleanup()).unwrap();
        for mut child in children {
            assert!(!child.wait().unwrap().success());
        }
        place.assert_clean();
        runtime.block_on(place.cleanup()).unwrap();
    }
}

#[tokio::test]
async fn a_sandbox_with_a_living_owner_is_left_alone() {
    let place = Place::new();
    let log = place.log();
    log.own(None).unwrap();
    assert!(matches!(place.cleanup().await, Err(Error::InUse { .. })));
    replay(log.into(), &place.state(), &id(), Vec::new()).await.unwrap();
    place.assert_clean();
}

#[tokio::test]
async fn links_are_not_followed_out() {
    let place = Place::new();
    let outside = place.root.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "x").unwrap();
    let log = place.log();
    // A directory that was ours has been replaced by a link.
    let dir = place.made().join("dir");
    log.will(Intent::Dir { path: dir.clone() }).unwrap();
    log.will(Intent::File { path: dir.join("precious") }).unwrap();
    log.will(Intent::Mount { target: dir.join("precious") }).unwrap();
    symlink(&outside, &dir).unwrap();
    drop(log);
    let left = place.cleanup().await.unwrap_err();
    assert!(matches!(&left, Error::Left { left, .. } if left.len() == 2), "{left}");
    assert!(outside.join("precious").exists());
    // Once the link is away the rest goes.
    fs::remove_file(&dir).unwrap();
    place.cleanup().await.unwrap();
    place.assert_clean();
}

#[tokio::test]
async fn a_directory_that_others_use_stays() {
    let place = Place::new();
    let log = place.log();
    let dir = place.made().join("dir");
    log.will(Intent::Dir { path: dir.clone() }).unwrap();
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("foreign"), "x").unwrap();
    log.will(Intent::File { path: place.made().join("file") }).unwrap();
    fs::write(place.made().join("file"), "x").unwrap();
    drop(log);
    place.cleanup().await.unwrap();
    assert_eq!(names(&place.made()), ["dir"], "everything else is gone");
    assert_eq!(names(&dir), ["foreign"]);
    assert!(!place.state().exists());
}

#[tokio::test]
async fn directories_above_what_is_stuck_wait_for_it() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can mount");
        return;
    }
    let place = Place::new();
    let log = place.log();
    let (dir, stuck) = (place.made().join("dir"), place.made().join("dir/stuck"));
    for path in [&dir, &stuck] {
        log.will(Intent::Dir { path: path.clone() }).unwrap();
        fs::create_dir(path).unwrap();
    }
    drop(log);
    // Somebody else's mount keeps it busy.
    rustix::mount::mount("tmpfs", &stuck, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    let error = place.cleanup().await.unwrap_err();
    assert!(error.to_string().contains("stuck"), "{error}");
    rustix::mount::unmount(&stuck, rustix::mount::UnmountFlags::empty()).unwrap();
    place.cleanup().await.unwrap();
    place.assert_clean();
}

/// Owes a hook that tells of itself in `told`.
fn owe(log: &IntentLog, place: &Place, name: &str) {
    let told = place.root.path().join("told");
    let line = format!("echo {name} $(ls {}) >> {}", place.made().display(), told.display());
    let hooks = serde_json::json!({ "ociVersion": "1.2.0", "hooks": { "poststop": [
        { "path": "/bin/false" }, { "path": "/bin/sh", "args": ["sh", "-c", line], "env": ["PATH=/usr/bin:/bin"] }] } });
    let hooks = Hooks::of(&name.parse().unwrap(), place.root.path(), &serde_json::from_value(hooks).unwrap());
    log.will_run(hooks.poststop(&name.parse().unwrap()).unwrap()).unwrap();
}

#[tokio::test]
async fn owed_hooks_run_when_everything_is_undone() {
    let place = Place::new();
    let log = place.log();
    for name in ["first", "second"] {
        owe(&log, &place, name);
        log.will(Intent::File { path: place.made().join(name) }).unwrap();
        fs::write(place.made().join(name), "x").unwrap();
    }
    drop(log);
    place.cleanup().await.unwrap();
    place.assert_clean();
    let told = fs::read_to_string(place.root.path().join("told")).unwrap();
    assert_eq!(told, "second\nfirst\n", "the last container's first, and no file is left then");
}

/// A clean-up that failed half-way and was repeated ran the poststop hooks again.
#[tokio::test]
async fn hooks_run_once_however_often_a_clean_up_is_repeated() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can mount");
        return;
    }
    let place = Place::new();
    let log = place.log();
    owe(&log, &place, "c");
    let stuck = place.made().join("stuck");
    log.will(Intent::Dir { path: stuck.clone() }).unwrap();
    fs::create_dir(&stuck).unwrap();
    drop(log);
    rustix::mount::mount("tmpfs", &stuck, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    for _ in 0..2 {
        place.cleanup().await.unwrap_err();
    }
    rustix::mount::unmount(&stuck, rustix::mount::UnmountFlags::empty()).unwrap();
    place.cleanup().await.unwrap();
    place.assert_clean();
    assert_eq!(fs::read_to_string(place.root.path().join("told")).unwrap(), "c stuck\n");
}
