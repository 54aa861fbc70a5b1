//! Which cgroup a container manager means.

use std::path::{Component, Path, PathBuf};

/// The slice of what is apart, for all sandboxes.
const OVERHEAD: &str = "kata-overhead.slice";

/// The cgroup of a sandbox that a specification's `linux.cgroupsPath` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// What the container manager has made for the pod, as an absolute path.
    pub(crate) parent: PathBuf,
    /// The sandbox's own below it.
    pub(crate) name: String,
    /// The slice that `parent` is, if this is a scope of systemd's.
    pub(crate) slice: Option<String>,
}

/// What `cgroups_path` asks for the sandbox `id`; none where its parent is the root, or for the runtime to choose.
///
/// The path is either `/parent/name`, where the sandbox's cgroup is `kata_<id>`; or `slice:prefix:name` for a unit of
/// systemd's, where it has the name that the unit is to have.
pub(crate) fn wanted(cgroups_path: &Path, id: &str) -> Option<Wanted> {
    let (parent, name, slice) = match cgroups_path.to_str()?.split_once(':') {
        Some((slice, unit)) if !cgroups_path.is_absolute() => {
            let (parent, name) = (slice_path(slice)?, unit_name(unit)?);
            let slice = name.ends_with(".scope").then(|| slice.to_owned());
            (parent, name, slice)
        }
        _ => (cgroups_path.parent()?.to_owned(), format!("kata_{id}"), None),
    };
    let is_plain = parent.components().skip(1).all(|part| matches!(part, Component::Normal(_)));
    let is_below = parent.is_absolute() && parent != Path::new("/") && is_plain;
    is_below.then_some(Wanted { parent, name, slice })
}

/// The scope of what is apart from the pod of the sandbox `id`, where systemd makes it.
pub(crate) fn overhead(id: &str) -> Option<Wanted> {
    wanted(Path::new(&format!("{OVERHEAD}:kata:{id}")), id)
}

/// Where systemd has a slice, systemd.slice(5): `a-b.slice` is in `a.slice`.
fn slice_path(slice: &str) -> Option<PathBuf> {
    let name = slice.strip_suffix(".slice")?;
    if name.split('-').any(str::is_empty) || name.contains('/') {
        return None;
    }
    let ends = name.match_indices('-').map(|(end, _)| end).chain([name.len()]);
    Some(ends.fold(PathBuf::from("/"), |path, end| path.join(format!("{}.slice", &name[..end]))))
}

/// The scope of `prefix:name`; a slice has no prefix.
fn unit_name(unit: &str) -> Option<String> {
    let (prefix, name) = unit.split_once(':')?;
    let unit = match (prefix, name) {
        (_, "") => return None,
        (_, slice) if slice.ends_with(".slice") => slice.to_owned(),
        ("", name) => format!("{name}.scope"),
        (prefix, name) => format!("{prefix}-{name}.scope"),
    };
    (!unit.contains(['/', ':'])).then_some(unit)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::wanted;

    fn of(cgroups_path: &str) -> Option<String> {
        let found = wanted(Path::new(cgroups_path), "s1")?;
        Some(found.parent.join(found.name).to_str().unwrap().to_owned())
    }

    #[test]
    fn a_path_names_it() {
        assert_eq!(of("/kubepods/pod1/abc").as_deref(), Some("/kubepods/pod1/kata_s1"));
        assert_eq!(of("/default/a:b:c").as_deref(), Some("/default/kata_s1"));
    }

    #[test]
    fn a_scope_has_the_name_that_was_asked_for_where_systemd_has_its_slice() {
        let pod = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice";
        let scope = format!("{pod}/cri-containerd-abc.scope");
        assert_eq!(of("kubepods-burstable-pod1_2.slice:cri-containerd:abc"), Some(scope));
        assert_eq!(of("system.slice:docker:abc").as_deref(), Some("/system.slice/docker-abc.scope"));
        assert_eq!(of("system.slice::abc").as_deref(), Some("/system.slice/abc.scope"));
        assert_eq!(of("a.slice:x:b.slice").as_deref(), Some("/a.slice/b.slice"));
    }

    #[test]
    fn a_scope_is_told_from_what_is_none_of_systemds_units_with_processes() {
        let slice = |path: &str| wanted(Path::new(path), "s1").unwrap().slice;
        assert_eq!(slice("a-b.slice:x:y").as_deref(), Some("a-b.slice"));
        assert_eq!((slice("a.slice:x:b.slice"), slice("/a.slice/y.scope")), (None, None));
    }

    #[test]
    fn what_is_the_root_or_nowhere_is_none() {
        for path in ["/abc", "abc", "a/b", "/", "", "/a/../../b/c", "-.slice:x:y", ":x:y", "a--b.slice:x:y"] {
            assert_eq!(of(path), None, "{path}");
        }
        for path in
            ["../x.slice:x:y", "a.slice", "a.slice:x", "a.slice:x:", "a.slice:x:../y", "a.slice:x:y:z"]
        {
            assert_eq!(of(path), None, "{path}");
        }
    }
}
