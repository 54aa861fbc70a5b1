//! Which cgroup a container manager means.

use std::path::{Component, Path, PathBuf};

/// The cgroup that a specification's `linux.cgroupsPath` puts the container below, as an absolute path; none where that
/// is the root, or for the runtime to choose.
///
/// The path is either `/parent/name`, or `slice:prefix:name` for a unit of systemd's.
pub(crate) fn parent(cgroups_path: &Path) -> Option<PathBuf> {
    let parent = match cgroups_path.to_str()?.split_once(':') {
        Some((slice, _)) if !cgroups_path.is_absolute() => slice_path(slice)?,
        _ => cgroups_path.parent()?.to_owned(),
    };
    let is_plain = parent.components().skip(1).all(|part| matches!(part, Component::Normal(_)));
    (parent.is_absolute() && parent != Path::new("/") && is_plain).then_some(parent)
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::parent;

    fn of(cgroups_path: &str) -> Option<String> {
        parent(Path::new(cgroups_path)).map(|parent| parent.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_path_names_it() {
        assert_eq!(of("/kubepods/pod1/abc").as_deref(), Some("/kubepods/pod1"));
        assert_eq!(of("/default/a:b:c").as_deref(), Some("/default"));
    }

    #[test]
    fn slices_are_where_systemd_has_them() {
        let pod = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice";
        assert_eq!(of("kubepods-burstable-pod1_2.slice:cri-containerd:abc").as_deref(), Some(pod));
        assert_eq!(of("system.slice:docker:abc").as_deref(), Some("/system.slice"));
    }

    #[test]
    fn what_is_the_root_or_nowhere_is_none() {
        for path in ["/abc", "abc", "a/b", "/", "", "/a/../../b/c", "-.slice:x:y", ":x:y", "a--b.slice:x:y"] {
            assert_eq!(of(path), None, "{path}");
        }
        assert_eq!(of("../x.slice:x:y"), None);
    }
}
