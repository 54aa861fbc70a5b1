//! Hooks that run in the guest (OCI `config.md`, "POSIX-platform Hooks"): those of a container's specification are run by
//! the jail, and the guest's own, in the folder that the sandbox names, by the agent.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use kata_protocol::oci;

use crate::memory_file;
use crate::reaper::Reaper;

/// What is shown of a failed hook's words, in bytes.
const WORDS: usize = 400;

/// A hook that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    /// The folder of the guest's own hooks cannot be read.
    #[error("The guest has no hooks in {}; correct guest_hook_path, or put them into the guest's image", path.display())]
    Folder { path: PathBuf, source: io::Error },
    /// It could not be run.
    #[error("The {when} hook {path:?} cannot be run in the guest; is it in the guest's image?")]
    Run { when: &'static str, path: String, source: io::Error },
    /// It says so.
    #[error("The {when} hook {path:?} failed in the guest (status {code}): {words}")]
    Failed { when: &'static str, path: String, code: i32, words: String },
    /// It took longer than it may.
    #[error("The {when} hook {path:?} did not end within {} s in the guest, its `timeout`, and was killed", limit.as_secs())]
    Timeout { when: &'static str, path: String, limit: Duration },
}

/// What hooks are told of their container (OCI `runtime.md`, "State").
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    version: String,
    id: String,
    bundle: String,
    annotations: HashMap<String, String>,
}

impl State {
    /// That of a container whose specification has been adapted to the guest.
    pub(crate) fn of(spec: &oci::Spec) -> Self {
        let id = Path::new(&spec.Linux.CgroupsPath).file_name().unwrap_or_default();
        let bundle = bundle(spec);
        Self {
            version: spec.Version.clone(),
            id: id.to_string_lossy().into_owned(),
            bundle: bundle.to_string_lossy().into_owned(),
            annotations: spec.Annotations.clone(),
        }
    }

    /// As JSON, at one moment of the container's life.
    pub(crate) fn json(&self, status: &str, pid: Option<u32>) -> String {
        let Self { version, id, bundle, annotations } = self;
        let mut json = String::from("{");
        for (name, text) in
            [("ociVersion", version.as_str()), ("id", id), ("status", status), ("bundle", bundle)]
        {
            let _ = write!(json, "\"{name}\":{},", quoted(text));
        }
        if let Some(pid) = pid {
            let _ = write!(json, "\"pid\":{pid},");
        }
        let annotations: Vec<_> =
            annotations.iter().map(|(name, text)| format!("{}:{}", quoted(name), quoted(text))).collect();
        let _ = write!(json, "\"annotations\":{{{}}}}}", annotations.join(","));
        json
    }
}

/// The folder of a container's files.
pub(crate) fn bundle(spec: &oci::Spec) -> &Path {
    Path::new(&spec.Root.get_or_default().Path).parent().unwrap_or(Path::new("/"))
}

/// A JSON string.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A hook that is about to run.
#[derive(Debug)]
pub(crate) struct Prepared {
    when: &'static str,
    path: String,
    limit: Option<Duration>,
    /// To be spawned by whoever can wait for it.
    pub(crate) command: Command,
    words: File,
}

impl Prepared {
    /// A hook of the list `when`, which will read `state`.
    pub(crate) fn new(when: &'static str, hook: &oci::Hook, state: &str) -> Result<Self, HookError> {
        let path = hook.Path.clone();
        let streams = || {
            let words = memory_file::empty("words")?;
            Ok((memory_file::with("state", state.as_bytes())?, words.try_clone()?, words))
        };
        let (input, theirs, words) =
            streams().map_err(|source| HookError::Run { when, path: path.clone(), source })?;
        let mut command = Command::new(&path);
        if let Some((name, arguments)) = hook.Args.split_first() {
            command.arg0(name).args(arguments);
        }
        let variables = hook.Env.iter().filter_map(|variable| variable.split_once('='));
        command.env_clear().envs(variables).stdin(input).stdout(Stdio::null()).stderr(theirs);
        let limit = u64::try_from(hook.Timeout).ok().filter(|limit| *limit > 0).map(Duration::from_secs);
        Ok(Self { when, path, limit, command, words })
    }

    /// How long it may take.
    pub(crate) fn limit(&self) -> Option<Duration> {
        self.limit
    }

    /// What its end means; `None` if it had to be killed.
    pub(crate) fn ended(mut self, code: Option<i32>) -> Result<(), HookError> {
        let (when, path) = (self.when, self.path);
        match code {
            Some(0) => Ok(()),
            Some(code) => Err(HookError::Failed {
                when,
                path,
                code,
                words: memory_file::last_words(&mut self.words, WORDS),
            }),
            None => Err(HookError::Timeout { when, path, limit: self.limit.unwrap_or_default() }),
        }
    }

    /// It could not be run.
    pub(crate) fn failed(self, source: io::Error) -> HookError {
        HookError::Run { when: self.when, path: self.path, source }
    }
}

/// The guest's own hooks, for every container: executables in the folders `prestart`, `poststart` and `poststop`.
#[derive(Debug, Default)]
pub(crate) struct GuestHooks {
    prestart: Vec<PathBuf>,
    poststart: Vec<PathBuf>,
    poststop: Vec<PathBuf>,
}

impl GuestHooks {
    /// Those below `folder`.
    pub(crate) fn below(folder: &Path) -> Result<Self, HookError> {
        let failed = |source| HookError::Folder { path: folder.to_owned(), source };
        std::fs::read_dir(folder).map_err(failed)?;
        let list = |name: &str| executables(&folder.join(name)).map_err(failed);
        Ok(Self { prestart: list("prestart")?, poststart: list("poststart")?, poststop: list("poststop")? })
    }

    /// When a container has been made, with its first process.
    pub(crate) async fn prestart(
        &self,
        reaper: &Reaper,
        spec: &oci::Spec,
        pid: i32,
    ) -> Result<(), HookError> {
        run_all("prestart", &self.prestart, reaper, (spec, "created", Some(pid))).await
    }

    /// When it has been started.
    pub(crate) async fn poststart(
        &self,
        reaper: &Reaper,
        spec: &oci::Spec,
        pid: i32,
    ) -> Result<(), HookError> {
        run_all("poststart", &self.poststart, reaper, (spec, "running", Some(pid))).await
    }

    /// When it has been removed.
    pub(crate) async fn poststop(&self, reaper: &Reaper, spec: &oci::Spec) -> Result<(), HookError> {
        run_all("poststop", &self.poststop, reaper, (spec, "stopped", None)).await
    }
}

/// In the order of their names.
fn executables(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let about = std::fs::metadata(&path)?;
        if about.is_file() && about.permissions().mode() & 0o111 != 0 {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

async fn run_all(
    when: &'static str,
    hooks: &[PathBuf],
    reaper: &Reaper,
    (spec, status, pid): (&oci::Spec, &str, Option<i32>),
) -> Result<(), HookError> {
    for path in hooks {
        let state = State::of(spec).json(status, pid.map(i32::cast_unsigned));
        let path = path.to_string_lossy().into_owned();
        let hook = oci::Hook { Args: vec![path.clone()], Path: path, ..Default::default() };
        let mut prepared = Prepared::new(when, &hook, &state)?;
        let spawning = reaper.expect();
        let pid = match prepared.command.spawn() {
            Ok(child) => child.id().cast_signed(),
            Err(source) => return Err(prepared.failed(source)),
        };
        let code = spawning.claim_only(pid).wait().await;
        prepared.ended(Some(code))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{GuestHooks, State, oci, quoted};

    #[test]
    fn a_state_is_json() {
        let mut spec = oci::Spec { Version: "1.2.0".to_owned(), ..Default::default() };
        spec.Linux.mut_or_insert_default().CgroupsPath = "/web".to_owned();
        spec.Root.mut_or_insert_default().Path = "/run/web/rootfs".to_owned();
        spec.Annotations.insert("a \"b\"\n".to_owned(), "c\\d".to_owned());
        let json: serde_json::Value =
            serde_json::from_str(&State::of(&spec).json("creating", Some(1))).expect("JSON");
        let expected = serde_json::json!({ "ociVersion": "1.2.0", "id": "web", "status": "creating", "pid": 1,
            "bundle": "/run/web", "annotations": { "a \"b\"\n": "c\\d" } });
        assert_eq!(json, expected);
    }

    proptest::proptest! {
        #[test]
        fn any_text_can_be_quoted(text in ".*") {
            assert_eq!(serde_json::from_str::<String>(&quoted(&text)).expect("JSON"), text);
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = GuestHooks::below("/no/such".as_ref()).expect_err("is not there");
        assert!(error.to_string().contains("/no/such; correct guest_hook_path"), "{error}");
    }
}
