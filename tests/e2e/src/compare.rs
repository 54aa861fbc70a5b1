//! The same bundle under runc and under the runtime under test, and what a process in it can see.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::command::Finished;
use crate::containerd::Containerd;
use crate::recipe::Recipe;
use crate::task::Container;
use crate::tasks::RootMount;

/// The runtime that others are compared with.
pub const RUNC: &str = "io.containerd.runc.v2";

/// The fact that is always there, and its values.
const OUTCOME: &str = "outcome";
const SUCCESS: &str = "success";
const NO_CONTAINER: &str = "no container";

/// Changes a specification, and with the path of its root file system what lies there.
type Change = Arc<dyn Fn(&mut Value, &Path) + Send + Sync>;

/// A bundle: containerd's usual specification, changed.
#[derive(Clone)]
pub struct Bundle {
    name: String,
    change: Change,
    sections: &'static [&'static str],
}

impl Bundle {
    /// What it is about, for messages, and how it differs.
    pub fn new(name: impl Into<String>, change: impl Fn(&mut Value, &Path) + Send + Sync + 'static) -> Self {
        Self { name: name.into(), change: Arc::new(change), sections: &[] }
    }

    /// With a volume at `/data` and all rights that files can ask for: attributes of the family `trusted` need
    /// CAP_SYS_ADMIN, and set-user-ID programs that they may gain rights.
    pub fn with_volume(source: PathBuf) -> Self {
        Self::new("a volume", move |spec, _| {
            let options = ["rbind", "rw"];
            let volume =
                json!({ "destination": "/data", "type": "bind", "source": source, "options": options });
            spec["mounts"].as_array_mut().expect("a list").push(volume);
            for set in ["bounding", "effective", "permitted"] {
                let rights = spec["process"]["capabilities"][set].as_array_mut();
                rights.expect("a list").push(json!("CAP_SYS_ADMIN"));
            }
            spec["process"]["noNewPrivileges"] = json!(false);
        })
    }

    /// The sections of the probe's report, if not all but the slow ones.
    #[must_use]
    pub fn sections(self, sections: &'static [&'static str]) -> Self {
        Self { sections, ..self }
    }
}

/// A difference that is right.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The fact's name; a `*` stands for anything.
    pub fact: &'a str,
    /// Why two good runtimes differ there.
    pub reason: &'static str,
}

/// What the probe tells, or that there was no container.
type Facts = BTreeMap<String, String>;

/// Checks that both runtimes make no container of any bundle.
#[track_caller]
pub fn both_refuse(containerd: &Containerd, bundles: &[Bundle]) {
    let mut made = Vec::new();
    for bundle in bundles {
        for runtime in [RUNC, &containerd.stage.runtime] {
            if facts(containerd, bundle, runtime)[OUTCOME] != NO_CONTAINER {
                made.push(format!("{}: {runtime}", bundle.name));
            }
        }
    }
    assert!(made.is_empty(), "Made all the same: {made:#?}");
}

/// Runs each bundle under both runtimes. Every difference that is not expected is listed.
#[track_caller]
pub fn compare(containerd: &Containerd, bundles: &[Bundle], expected: &[Expected<'_>]) {
    let Compared { refused, .. } = compare_facts(bundles, expected, |bundle, runtime| {
        facts(containerd, bundle, runtime.unwrap_or(containerd.stage.runtime.as_str()))
    });
    assert_eq!(refused, [""; 0], "under runc");
}

/// As [`compare`], and each of `expected` is still a difference.
#[track_caller]
pub fn compare_closely(containerd: &Containerd, bundles: &[Bundle], expected: &[Expected<'_>]) {
    let compared = compare_facts(bundles, expected, |bundle, runtime| {
        facts(containerd, bundle, runtime.unwrap_or(containerd.stage.runtime.as_str()))
    });
    compared.assert_exact(containerd);
}

/// As [`compare_closely`], for sections of the probe in a container whose root file system is mounted for it: of `right` for runc,
/// of `ours` for the runtime under test. The probe is in both.
#[track_caller]
pub fn compare_roots(
    containerd: &Containerd,
    sections: &'static [&'static str],
    [right, ours]: [&[RootMount]; 2],
    expected: &[Expected<'_>],
) {
    let bundles = [Bundle::new("a mounted root", |_, _| {}).sections(sections)];
    let compared = compare_facts(&bundles, expected, |bundle, runtime| {
        let (runtime, mounts) = match runtime {
            Some(runtime) => (runtime, right),
            None => (containerd.stage.runtime.as_str(), ours),
        };
        let recipe = containerd.container().runtime(runtime).spec(|spec| {
            spec["root"]["path"] = json!("rootfs");
            spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
            spec["process"]["noNewPrivileges"] = json!(false);
        });
        let container = recipe.start_on(mounts);
        let finished = container.exec(probe(bundle)).run_logged();
        container.remove();
        told_by(&finished)
    });
    compared.assert_exact(containerd);
}

/// As [`compare`], for bundles of which runc may refuse some: then so must the runtime under test. Most must be good.
#[track_caller]
pub fn compare_made_up(containerd: &Containerd, bundles: &[Bundle], expected: &[Expected<'_>]) {
    let Compared { refused, .. } = compare_facts(bundles, expected, |bundle, runtime| {
        facts(containerd, bundle, runtime.unwrap_or(containerd.stage.runtime.as_str()))
    });
    assert!(2 * refused.len() < bundles.len(), "runc refuses {} of {}", refused.len(), bundles.len());
}

/// As [`compare`], for a process that is added to a container of each bundle.
#[track_caller]
pub fn compare_execs(containerd: &Containerd, bundles: &[Bundle], expected: &[Expected<'_>]) {
    let Compared { refused, .. } = compare_facts(bundles, expected, |bundle, runtime| {
        let runtime = runtime.unwrap_or(containerd.stage.runtime.as_str());
        let container = recipe(containerd, bundle, runtime, &["/bin/sleep", "1000"]).start();
        let finished = container.exec(probe(bundle)).run_logged();
        container.remove();
        told_by(&finished)
    });
    assert_eq!(refused, [""; 0], "under runc");
}

/// What is known after a comparison that found nothing unexpected.
struct Compared<'a> {
    /// The bundles that runc refused.
    refused: Vec<&'a str>,
    /// What was expected to differ and does not.
    equal: Vec<&'a str>,
}

impl Compared<'_> {
    #[track_caller]
    fn assert_exact(&self, containerd: &Containerd) {
        assert_eq!(self.refused, [""; 0], "under runc");
        if containerd.stage.is_kata() {
            assert_eq!(self.equal, [""; 0], "expected to differ");
        }
    }
}

/// `facts` of a bundle under runc, or with `None` under the runtime under test.
#[track_caller]
fn compare_facts<'a>(
    bundles: &'a [Bundle],
    expected: &'a [Expected<'_>],
    facts: impl Fn(&Bundle, Option<&str>) -> Facts,
) -> Compared<'a> {
    let mut differences = Vec::new();
    let mut refused = Vec::new();
    let mut equal: Vec<_> = expected.iter().map(|expected| expected.fact).collect();
    for bundle in bundles {
        let right = facts(bundle, Some(RUNC));
        if right[OUTCOME] != SUCCESS {
            refused.push(bundle.name.as_str());
        }
        let ours = facts(bundle, None);
        for name in right.keys().chain(ours.keys().filter(|name| !right.contains_key(*name))) {
            let (right, ours) = (right.get(name), ours.get(name));
            if right == ours {
                continue;
            }
            equal.retain(|fact| !fits(fact, name));
            if !expected.iter().any(|expected| fits(expected.fact, name)) {
                differences
                    .push(format!("{}: {name}\n      runc: {right:?}\n      ours: {ours:?}", bundle.name));
            }
        }
    }
    assert!(
        differences.is_empty(),
        "{} differences from runc:\n  {}",
        differences.len(),
        differences.join("\n  ")
    );
    Compared { refused, equal }
}

fn facts(containerd: &Containerd, bundle: &Bundle, runtime: &str) -> Facts {
    told_by(&recipe(containerd, bundle, runtime, &probe(bundle)).run_logged())
}

fn probe(bundle: &Bundle) -> Vec<&'static str> {
    std::iter::once("/bin/kata-probe").chain(bundle.sections.iter().copied()).collect()
}

fn recipe<'c>(containerd: &'c Containerd, bundle: &Bundle, runtime: &str, words: &[&str]) -> Recipe<'c> {
    containerd.container().runtime(runtime).spec(|spec| {
        let root = spec["root"]["path"].as_str().expect("a path").to_owned();
        let root = Path::new(&root);
        fs::copy(&containerd.stage.probe, root.join("bin/kata-probe"))
            .expect("a root file system can be written to");
        spec["process"]["args"] = json!(words);
        (bundle.change)(spec, root);
    })
}

/// A container of `runtime` that does nothing, with the probe in it and `source` mounted on `target`.
pub fn with_probe<'c>(
    containerd: &'c Containerd,
    runtime: &str,
    (source, target, mode): (&Path, &str, &str),
) -> Container<'c> {
    let mount = json!({"type": "bind", "source": source, "destination": target, "options": ["rbind", mode]});
    let bundle = Bundle::new("a volume", move |spec, _| {
        spec["mounts"].as_array_mut().expect("mounts").push(mount.clone());
    });
    recipe(containerd, &bundle, runtime, &["/bin/sleep", "1000"]).start()
}

fn told_by(finished: &Finished) -> Facts {
    let mut facts: Facts = finished
        .text()
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    if facts.is_empty() {
        // Shown if the test fails.
        eprintln!("No container: {finished:?}");
    }
    let outcome = match (finished.code, facts.is_empty()) {
        (0, false) => SUCCESS.to_owned(),
        (_, true) => NO_CONTAINER.to_owned(),
        (code, false) => format!("exit status {code}"),
    };
    facts.insert(OUTCOME.to_owned(), outcome);
    facts
}

/// Whether `name` is what `pattern` says, in which `*` stands for anything.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| match after.is_empty() {
            true => true,
            false => {
                (0..=rest.len()).filter(|at| rest.is_char_boundary(*at)).any(|at| fits(after, &rest[at..]))
            }
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn a_star_stands_for_anything() {
        assert!(fits("mount / type", "mount / type") && fits("mount *", "mount / type"));
        assert!(fits("mount * type", "mount /proc type") && fits("*", ""));
        assert!(!fits("mount * type", "mount /proc options") && !fits("mount", "mount / type"));
    }
}
