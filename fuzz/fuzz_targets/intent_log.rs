//! An intent log that is torn or damaged: what can be read of it stays, and what is announced now is added.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use kata_intent::Intent;
use kata_sandbox::fuzzing::{INTENTS_FILE, Log};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

/// On a file system in memory, as in production.
static STATE: LazyLock<TempDir> = LazyLock::new(|| {
    let memory = Some("/dev/shm").filter(|place| std::fs::exists(place).unwrap_or(false));
    let made = memory.map_or_else(tempfile::tempdir, tempfile::tempdir_in);
    let made = made.expect("a directory for the log");
    // The process ends without destructors; nothing of it may be left.
    let path: PathBuf = made.path().join(INTENTS_FILE);
    std::fs::write(path, "").expect("a log");
    made
});

fuzz_target!(|input: &[u8]| {
    let state = STATE.path();
    std::fs::write(state.join(INTENTS_FILE), input).expect("the log can be written");
    let log = Log::open(state).expect("a damaged log can be opened");
    let before = log.pending().expect("it can be read");
    let new = ["/run/new", "/run/newer"].map(|path| Intent::Dir { path: path.into() });
    let ids = new.clone().map(|intent| log.will(intent).expect("it can be written"));
    let mut expected = before.clone();
    expected.extend(ids.into_iter().zip(new));
    assert_eq!(log.pending().expect("it can be read"), expected);
    log.done(ids[0]);
    log.done(ids[1]);
    drop(log);
    let log = Log::open(state).expect("it can be opened again");
    assert_eq!(log.pending().expect("it can be read"), before);
});
