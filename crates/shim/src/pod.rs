//! Which pod a container belongs to: what CRI implementations write into the annotations of `config.json`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kata_sandbox::FirstContainer;
use oci_spec::runtime::{Hooks, Process, Spec};
use serde::Deserialize;

const TYPE_KEYS: [&str; 2] = ["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"];
const SANDBOX_KEYS: [&str; 2] = ["io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID"];

/// The program that does nothing but wait and reap. With arguments it does something else.
const PAUSE: &str = "pause";

/// A container's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Role {
    /// It has a VM of its own: a single container, or the sandbox container of a pod.
    Owner,
    /// It joins the VM of this sandbox.
    Member {
        /// The sandbox's id.
        sandbox: String,
    },
}

/// The bundle does not say.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PodError {
    /// No `config.json`, or not ours to read.
    #[error("Cannot read {}; a bundle must be a folder that can be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Not JSON, or annotations that are not strings.
    #[error("Cannot parse {}; it must be an OCI runtime configuration", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A member of no pod.
    #[error("The annotation {type_key} says that this is a container of a pod, but none says of which: set {}", SANDBOX_KEYS[0])]
    NoSandbox {
        /// The annotation that says so.
        type_key: &'static str,
    },
    /// A kind we do not know.
    #[error("The annotation {type_key} must be \"sandbox\" or \"container\", not {value:?}")]
    UnknownType {
        /// The annotation.
        type_key: &'static str,
        /// Its value.
        value: String,
    },
}

#[derive(Deserialize)]
struct Shallow {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// The annotations of a bundle's `config.json`. The bundle of a sandbox without a container has none: it is for the
/// Sandbox API.
///
/// # Errors
/// The file is unreadable or not what it should be.
pub(crate) fn annotations(bundle: &Path) -> Result<BTreeMap<String, String>, PodError> {
    let path = bundle.join("config.json");
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound && bundle.is_dir() => {
            return Ok(BTreeMap::new());
        }
        Err(source) => return Err(PodError::Read { path, source }),
    };
    annotations_in(&bytes).map_err(|source| PodError::Parse { path, source })
}

/// The annotations in the text of a `config.json`.
///
/// # Errors
/// It is no JSON, or they are not strings.
pub(crate) fn annotations_in(config: &[u8]) -> serde_json::Result<BTreeMap<String, String>> {
    serde_json::from_slice(config).map(|Shallow { annotations }| annotations)
}

/// The role that annotations give a container; none means a container alone.
///
/// # Errors
/// An unknown kind, or a member without a sandbox.
pub(crate) fn role(annotations: &BTreeMap<String, String>) -> Result<Role, PodError> {
    let find =
        |keys: [&'static str; 2]| keys.into_iter().find_map(|key| annotations.get(key).map(|v| (key, v)));
    match find(TYPE_KEYS) {
        None => Ok(Role::Owner),
        Some((_, kind)) if kind == "sandbox" => Ok(Role::Owner),
        Some((type_key, kind)) if kind == "container" => match find(SANDBOX_KEYS) {
            Some((_, sandbox)) if !sandbox.is_empty() => Ok(Role::Member { sandbox: sandbox.clone() }),
            _ => Err(PodError::NoSandbox { type_key }),
        },
        Some((type_key, value)) => Err(PodError::UnknownType { type_key, value: value.clone() }),
    }
}

/// Whether this is a pod's pause container, of which nothing need be in the guest: annotations say that it is the pod's
/// sandbox, and nothing is asked of it but to wait. Whatever else is configured as a sandbox's image is a container like
/// any other.
pub(crate) fn is_pause(spec: &Spec) -> bool {
    let of_sandbox = |key: &str| {
        spec.annotations().as_ref().is_some_and(|all| all.get(key).is_some_and(|kind| kind == "sandbox"))
    };
    TYPE_KEYS.into_iter().any(of_sandbox)
        && spec.process().as_ref().is_some_and(only_waits)
        && !spec.hooks().as_ref().is_some_and(has_hooks_inside)
}

/// Whether a container is one of a pod's.
pub(crate) fn is_of_pod(spec: &Spec) -> bool {
    let annotations = spec.annotations().as_ref();
    annotations.is_some_and(|all| TYPE_KEYS.into_iter().any(|key| all.contains_key(key)))
}

/// How the container comes that a sandbox is launched for.
pub(crate) fn first_container(spec: &Spec) -> FirstContainer {
    match is_of_pod(spec) {
        // Of a pause container nothing is needed in the guest.
        true if is_pause(spec) => FirstContainer::Later,
        true => FirstContainer::AtOnce,
        false => FirstContainer::Alone,
    }
}

fn only_waits(process: &Process) -> bool {
    let program = match process.args().as_deref() {
        Some([program]) => Path::new(program).file_name(),
        _ => None,
    };
    program.is_some_and(|name| name == PAUSE) && !process.terminal().unwrap_or(false)
}

/// Hooks that run in the container's namespaces.
fn has_hooks_inside(hooks: &Hooks) -> bool {
    let lists = [hooks.create_container(), hooks.start_container()];
    lists.into_iter().flatten().any(|list| !list.is_empty())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::{FirstContainer, PodError, Role, annotations, first_container, role};

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn roles_of_containerd_and_crio() {
        assert_eq!(role(&map(&[])).unwrap(), Role::Owner);
        let pause =
            map(&[("io.kubernetes.cri.container-type", "sandbox"), ("io.kubernetes.cri.sandbox-id", "p")]);
        assert_eq!(role(&pause).unwrap(), Role::Owner);
        let app =
            map(&[("io.kubernetes.cri.container-type", "container"), ("io.kubernetes.cri.sandbox-id", "p")]);
        assert_eq!(role(&app).unwrap(), Role::Member { sandbox: "p".into() });
        let crio = map(&[
            ("io.kubernetes.cri-o.ContainerType", "container"),
            ("io.kubernetes.cri-o.SandboxID", "q"),
        ]);
        assert_eq!(role(&crio).unwrap(), Role::Member { sandbox: "q".into() });
    }

    #[test]
    fn half_an_answer_is_an_error() {
        let lost = map(&[("io.kubernetes.cri.container-type", "container")]);
        assert!(matches!(role(&lost), Err(PodError::NoSandbox { .. })));
        let odd = map(&[("io.kubernetes.cri.container-type", "pod")]);
        assert!(matches!(role(&odd), Err(PodError::UnknownType { .. })));
    }

    #[test]
    fn annotations_are_optional_and_the_rest_of_the_file_is_not_looked_at() {
        let bundle = tempfile::tempdir().unwrap();
        assert!(
            annotations(bundle.path()).unwrap().is_empty(),
            "a sandbox without a container has no such file"
        );
        assert!(matches!(annotations(&bundle.path().join("gone")), Err(PodError::Read { .. })));
        std::fs::write(bundle.path().join("config.json"), r#"{"process": 7}"#).unwrap();
        assert!(annotations(bundle.path()).unwrap().is_empty());
        std::fs::write(bundle.path().join("config.json"), r#"{"annotations": {"a": "b"}}"#).unwrap();
        assert_eq!(annotations(bundle.path()).unwrap(), map(&[("a", "b")]));
        std::fs::write(bundle.path().join("config.json"), "{").unwrap();
        assert!(matches!(annotations(bundle.path()), Err(PodError::Parse { .. })));
    }

    fn first_with(change: impl FnOnce(&mut Value)) -> FirstContainer {
        let mut spec = json!({
            "ociVersion": "1.1.0",
            "process": { "args": ["/pause"], "cwd": "/", "user": { "uid": 0, "gid": 0 } },
            "annotations": { "io.kubernetes.cri.container-type": "sandbox" },
            "hooks": { "createRuntime": [{ "path": "/bin/true" }], "createContainer": [] },
        });
        change(&mut spec);
        first_container(&serde_json::from_value(spec).unwrap())
    }

    fn is_pause_with(change: impl FnOnce(&mut Value)) -> bool {
        first_with(change) == FirstContainer::Later
    }

    #[test]
    fn only_a_container_of_no_pod_is_alone() {
        assert_eq!(first_with(|spec| spec["annotations"] = json!({})), FirstContainer::Alone);
        assert_eq!(first_with(|spec| spec["process"]["args"] = json!(["/bin/sh"])), FirstContainer::AtOnce);
    }

    #[test]
    fn a_sandbox_that_only_waits_is_a_pause_container() {
        assert!(is_pause_with(|_| {}));
        assert!(is_pause_with(|spec| spec["process"]["args"] = json!(["/usr/bin/pause"])));
        assert!(is_pause_with(|spec| {
            spec["annotations"] = json!({ "io.kubernetes.cri-o.ContainerType": "sandbox" });
        }));
    }

    #[test]
    fn whatever_does_more_is_a_container_like_any_other() {
        let odd: [fn(&mut Value); 6] = [
            |spec| spec["annotations"] = json!({}),
            |spec| spec["annotations"] = json!({ "io.kubernetes.cri.container-type": "container" }),
            |spec| spec["process"]["args"] = json!(["/pause", "-v"]),
            |spec| spec["process"]["args"] = json!(["/bin/sh"]),
            |spec| spec["process"]["terminal"] = json!(true),
            |spec| spec["hooks"]["createContainer"] = json!([{ "path": "/bin/true" }]),
        ];
        for (number, change) in odd.into_iter().enumerate() {
            assert!(!is_pause_with(change), "{number}");
        }
    }
}
