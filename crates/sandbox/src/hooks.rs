//! Hooks of a container that the OCI runtime specification places on the host (`config.md`, "POSIX-platform Hooks"):
//! `prestart` and `createRuntime` before its files are attached, `poststart`, and `poststop`.
//!
//! Each gets the container's state on standard input. The process that it names is the VMM: the container's own have no
//! number on the host.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::{Hook, Spec};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::ContainerId;

/// What is shown of a failed hook's words.
const WORDS: usize = 400;

/// A hook that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    /// It could not be run.
    #[error("the {when} hook {path:?} cannot be run")]
    Run {
        /// Its list.
        when: &'static str,
        /// The executable.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It says so.
    #[error("the {when} hook {path:?} failed ({status}): {words}")]
    Failed {
        /// Its list.
        when: &'static str,
        /// The executable.
        path: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The end of its standard error.
        words: String,
    },
    /// It took longer than it may.
    #[error("the {when} hook {path:?} did not end within {} s, its `timeout`, and was killed", limit.as_secs())]
    Timeout {
        /// Its list.
        when: &'static str,
        /// The executable.
        path: PathBuf,
        /// The limit.
        limit: Duration,
    },
}

/// A container's hooks, with what they are told.
#[derive(Debug)]
pub(crate) struct Hooks {
    hooks: Option<oci_spec::runtime::Hooks>,
    bundle: PathBuf,
    state: serde_json::Value,
}

impl Hooks {
    /// Those of `spec`, the `config.json` in `bundle`.
    pub(crate) fn of(id: &ContainerId, bundle: &Path, spec: &Spec) -> Arc<Self> {
        let state = serde_json::json!({
            "ociVersion": spec.version(),
            "id": id.as_str(),
            "bundle": bundle,
            "annotations": spec.annotations().clone().unwrap_or_default(),
        });
        Arc::new(Self { hooks: spec.hooks().clone(), bundle: bundle.to_owned(), state })
    }

    /// `prestart` and `createRuntime`, in this order.
    pub(crate) async fn before_create(&self, pid: u32) -> Result<(), HookError> {
        let prestart = self.hooks.as_ref().and_then(|hooks| hooks.prestart().as_ref());
        let state = self.state("creating", Some(pid));
        self.run("prestart", prestart, &state).await?;
        let create = self.hooks.as_ref().and_then(|hooks| hooks.create_runtime().as_ref());
        self.run("createRuntime", create, &state).await
    }

    /// `poststart`.
    pub(crate) async fn after_start(&self, pid: u32) -> Result<(), HookError> {
        let hooks = self.hooks.as_ref().and_then(|hooks| hooks.poststart().as_ref());
        self.run("poststart", hooks, &self.state("running", Some(pid))).await
    }

    /// `poststop`, to be run when the container is gone; `None` without such hooks.
    pub(crate) fn poststop(&self, id: &ContainerId) -> Option<Poststop> {
        let hooks = self.hooks.as_ref().and_then(|hooks| hooks.poststop().clone())?;
        let (container, bundle) = (id.to_string(), self.bundle.clone());
        (!hooks.is_empty()).then(|| Poststop { container, hooks, bundle, state: self.state("stopped", None) })
    }

    /// The state at one moment, as JSON.
    fn state(&self, status: &str, pid: Option<u32>) -> String {
        let mut state = self.state.clone();
        state["status"] = status.into();
        if let Some(pid) = pid {
            state["pid"] = pid.into();
        }
        state.to_string()
    }

    /// One after the other, until one fails.
    async fn run(&self, when: &'static str, hooks: Option<&Vec<Hook>>, state: &str) -> Result<(), HookError> {
        for hook in hooks.into_iter().flatten() {
            run_one(when, hook, &self.bundle, state).await?;
        }
        Ok(())
    }
}

/// The `poststop` hooks of a container with all they need: whoever comes after the sandbox's process can run them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Poststop {
    container: String,
    hooks: Vec<Hook>,
    bundle: PathBuf,
    /// What they are told, as JSON.
    state: String,
}

impl Poststop {
    /// Runs all of them; a failure stops nothing any more.
    pub(crate) async fn run(&self) {
        for hook in &self.hooks {
            if let Err(error) = run_one("poststop", hook, &self.bundle, &self.state).await {
                tracing::warn!(
                    container = self.container,
                    error = crate::error::chain(&error),
                    "A hook failed"
                );
            }
        }
    }
}

async fn run_one(when: &'static str, hook: &Hook, bundle: &Path, state: &str) -> Result<(), HookError> {
    let path = hook.path().clone();
    let failed = |source| HookError::Run { when, path: path.clone(), source };
    let child = start(hook, bundle).map_err(failed)?;
    let ended = finish(child, state);
    let output = match hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs)
    {
        None => ended.await,
        Some(limit) => match timeout(limit, ended).await {
            Ok(output) => output,
            // The child is killed as it is dropped.
            Err(_) => return Err(HookError::Timeout { when, path, limit }),
        },
    };
    let output = output.map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let cut = words.len().saturating_sub(WORDS);
    let from = (cut..=words.len()).find(|at| words.is_char_boundary(*at)).unwrap_or(0);
    Err(HookError::Failed { when, path, status: output.status, words: words[from..].trim().to_owned() })
}

/// `args` holds the name first, as for `execv`. Runs in the bundle, as under runc.
fn start(hook: &Hook, bundle: &Path) -> std::io::Result<Child> {
    let mut command = Command::new(hook.path());
    if let Some((name, arguments)) = hook.args().as_ref().and_then(|args| args.split_first()) {
        command.arg0(name).args(arguments);
    }
    let variables = hook.env().iter().flatten().filter_map(|variable| variable.split_once('='));
    command.env_clear().envs(variables).current_dir(bundle);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    command.spawn()
}

async fn finish(mut child: Child, state: &str) -> std::io::Result<std::process::Output> {
    if let Some(mut input) = child.stdin.take() {
        // One that does not read its input is free to do so.
        input.write_all(state.as_bytes()).await.ok();
    }
    child.wait_with_output().await
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::Hooks;

    async fn run(dir: &std::path::Path, hooks: Value) -> Result<(), String> {
        let spec = json!({ "ociVersion": "1.2.0", "hooks": hooks, "annotations": { "a": "b" } });
        let hooks = Hooks::of(&"c".parse().unwrap(), dir, &serde_json::from_value(spec).unwrap());
        hooks.before_create(7).await.map_err(|error| error.to_string())?;
        hooks.after_start(7).await.map_err(|error| error.to_string())?;
        if let Some(poststop) = hooks.poststop(&"c".parse().unwrap()) {
            poststop.run().await;
        }
        Ok(())
    }

    fn shell(line: &str) -> Value {
        json!({ "path": "/bin/sh", "args": ["hook", "-c", line], "env": ["GREETING=hello"] })
    }

    #[tokio::test]
    async fn hooks_run_in_their_order_and_are_told_the_state() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let line = |name: &str| shell(&format!("echo {name} $GREETING $(cat) >> {}", log.display()));
        let hooks = json!({ "poststop": [line("poststop")], "poststart": [line("poststart")],
            "createRuntime": [line("createRuntime")], "prestart": [line("first"), line("second")] });
        run(dir.path(), hooks).await.unwrap();
        let log = std::fs::read_to_string(log).unwrap();
        let told: Vec<(&str, Value)> = log
            .lines()
            .map(|line| line.split_once(" hello ").unwrap())
            .map(|(name, state)| (name, serde_json::from_str(state).unwrap()))
            .collect();
        let names: Vec<&str> = told.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["first", "second", "createRuntime", "poststart", "poststop"]);
        let bundle = dir.path();
        let creating = json!({ "ociVersion": "1.2.0", "id": "c", "bundle": bundle, "annotations": { "a": "b" },
            "status": "creating", "pid": 7 });
        assert_eq!(told[0].1, creating);
        assert_eq!((&told[3].1["status"], &told[4].1["status"]), (&json!("running"), &json!("stopped")));
        assert_eq!(told[4].1.get("pid"), None);
    }

    #[tokio::test]
    async fn a_hook_that_fails_is_told_with_its_words() {
        let dir = tempfile::tempdir().unwrap();
        let error = run(dir.path(), json!({ "createRuntime": [shell("echo no network >&2; exit 3")] })).await;
        assert_eq!(
            error.unwrap_err(),
            "the createRuntime hook \"/bin/sh\" failed (exit status: 3): no network"
        );
        let missing = run(dir.path(), json!({ "prestart": [{ "path": "/no/such" }] })).await;
        assert!(missing.unwrap_err().contains("\"/no/such\" cannot be run"));
        run(dir.path(), json!({ "poststop": [shell("exit 3")] })).await.unwrap();
    }

    #[tokio::test]
    async fn a_hook_that_takes_too_long_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let mut hook = shell("exec sleep 1000");
        hook["timeout"] = json!(1);
        let error = run(dir.path(), json!({ "poststart": [hook] })).await.unwrap_err();
        assert!(error.contains("did not end within 1 s"), "{error}");
    }
}
