//! Security labels: the AppArmor profile and the SELinux label of a process, which hold from `execve` on, and the SELinux
//! label of a container's mounts.
//!
//! A label is nothing without the kernel's module that reads it and a policy that names it. Policies are those of the
//! guest image; one is loaded when the first process needs it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use kata_protocol::oci;
use rustix::fs::{Mode, OFlags, openat};

use super::error::{JailError, Named, Result};
use super::mounts::{guest_path, new_file_system};

/// Compiled AppArmor profiles: a file for each, of the profile's name.
const PROFILES: &str = "/etc/apparmor";
/// The one that stands for what managers bring along for every container, under their own names.
const DEFAULT: &str = "container-default";
/// The managers' names; podman and buildah add their version.
const DEFAULT_NAMES: [&str; 4] =
    ["cri-containerd.apparmor.d", "docker-default", "nerdctl-default", "crio-default"];
const DEFAULT_PREFIX: &str = "containers-default-";
/// What [`DEFAULT`] is called in its compiled form; the rest of the space is for longer names.
const PLACEHOLDER: &[u8] = b"container-default.";
const PLACEHOLDER_LENGTH: usize = 127;

/// The compiled SELinux policy.
const SELINUX_POLICY: &str = "/etc/selinux/policy";
/// What the kernel calls every process before it has a policy.
const NO_POLICY: &str = "kernel";

/// File systems that are made for a container, and can carry its label.
const LABELLED: [&str; 3] = ["tmpfs", "ramfs", "devpts"];

/// What is to be written below `/proc/self/attr`: in which file, or in which older one, and which property says so.
struct Label {
    file: &'static str,
    older: Option<&'static str>,
    text: String,
    property: &'static str,
}

/// The labels of a process that is being made.
pub(super) struct Labels {
    /// The guest's `/proc`: the container's may be anything.
    proc: Option<OwnedFd>,
    labels: Vec<Label>,
}

impl Labels {
    /// Looks at what the specification asks for, loads what it needs, and labels its mounts. To be called in the guest's
    /// own surroundings.
    pub(super) fn prepare(spec: &mut oci::Spec) -> Result<Self> {
        let mut labels = Vec::new();
        let process = spec.Process.get_or_default();
        let profile = process.ApparmorProfile.as_str();
        if !matches!(profile, "" | "unconfined") {
            let property = "process.apparmorProfile";
            need("AppArmor", apparmor_is_on(), (property, profile), "disable_guest_apparmor")?;
            load_profile(profile)?;
            let text = format!("exec {profile}");
            labels.push(Label {
                file: "self/attr/apparmor/exec",
                older: Some("self/attr/exec"),
                text,
                property,
            });
        }
        let label = process.SelinuxLabel.as_str();
        if !label.is_empty() {
            let property = "process.selinuxLabel";
            need_selinux(property, label)?;
            labels.push(Label { file: "self/attr/exec", older: None, text: label.to_owned(), property });
        }
        if let Some(linux) = spec.Linux.as_ref().filter(|linux| !linux.MountLabel.is_empty()) {
            need_selinux("linux.mountLabel", &linux.MountLabel)?;
            label_mounts(&mut spec.Mounts, &linux.MountLabel);
        }
        let wanted = !labels.is_empty();
        let proc = wanted.then(|| guest_path("/proc")).transpose().step("open /proc")?;
        Ok(Self { proc, labels })
    }

    /// Tells the kernel, for the next `execve` of this process.
    pub(super) fn apply(&self) -> Result<()> {
        let Some(proc) = &self.proc else { return Ok(()) };
        for Label { file, older, text, property } in &self.labels {
            let opened = match (write_only(proc, file), older) {
                (Err(error), Some(older)) if error.kind() == io::ErrorKind::NotFound => {
                    write_only(proc, older)
                }
                (opened, _) => opened,
            };
            let told = opened.and_then(|mut file| file.write_all(text.as_bytes()));
            told.map_err(|source| {
                let what = format!("set {property} {text:?}; does the guest's policy know it?");
                JailError::Step(what, source)
            })?;
        }
        Ok(())
    }
}

fn need(module: &str, is_on: bool, (property, value): (&str, &str), option: &str) -> Result<()> {
    if is_on {
        return Ok(());
    }
    Err(JailError::Refused(format!(
        "{property} is {value:?}, and the guest's kernel has {module} off; remove it, or switch {module} on with \
         {option} = false in the configuration"
    )))
}

fn apparmor_is_on() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|enabled| enabled.starts_with('Y'))
}

fn need_selinux(property: &str, label: &str) -> Result<()> {
    // The file system exists only where the module works.
    let systems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let is_on = systems.lines().any(|line| line.split_whitespace().any(|name| name == "selinuxfs"));
    need("SELinux", is_on, (property, label), "disable_guest_selinux")?;
    load_selinux_policy()
}

/// Without a policy the kernel would take any label, and none would mean anything.
fn load_selinux_policy() -> Result<()> {
    let own = fs::read_to_string("/proc/self/attr/current").step("read the agent's own label")?;
    if own.trim_end_matches(['\0', '\n']) != NO_POLICY {
        return Ok(());
    }
    let policy = fs::read(SELINUX_POLICY).map_err(|source| {
        let what = format!("read SELinux's policy {SELINUX_POLICY}; put one into the guest image");
        JailError::Step(what, source)
    })?;
    let files = new_file_system("selinuxfs", "selinuxfs", &[]).step("reach SELinux")?;
    let mut load = write_only(&files, "load").step("reach SELinux")?;
    load.write_all(&policy).step("load SELinux's policy")
}

/// Loads a profile unless it was.
fn load_profile(name: &str) -> Result<()> {
    let files = new_file_system("securityfs", "securityfs", &[]).step("reach AppArmor")?;
    let mut loaded = String::new();
    open(&files, "apparmor/profiles", OFlags::RDONLY)
        .and_then(|mut file| file.read_to_string(&mut loaded))
        .step("list AppArmor's profiles")?;
    if loaded.lines().any(|line| line.rsplit_once(" (").is_some_and(|(loaded, _)| loaded == name)) {
        return Ok(());
    }
    let profile = find_profile(Path::new(PROFILES), name)?;
    let load = write_only(&files, "apparmor/.load").and_then(|mut file| file.write_all(&profile));
    match load {
        // Another container was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result.at("load the AppArmor profile", name),
    }
}

/// A profile as the kernel takes it.
fn find_profile(folder: &Path, name: &str) -> Result<Vec<u8>> {
    let is_default = DEFAULT_NAMES.contains(&name) || name.starts_with(DEFAULT_PREFIX);
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut there: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let file = if is_default { DEFAULT } else { name };
    if there.iter().any(|there| there == file) && (is_default || name != DEFAULT) {
        let profile = fs::read(folder.join(file)).at("read the AppArmor profile", file)?;
        return if is_default { rename(profile, name) } else { Ok(profile) };
    }
    there.retain(|there| there != DEFAULT);
    there.extend(DEFAULT_NAMES.map(str::to_owned));
    there.sort();
    Err(JailError::Refused(format!(
        "The guest has no AppArmor profile {name:?}; choose one of its own ({}, {DEFAULT_PREFIX}*) or unconfined as \
         process.apparmorProfile, or add the profile to the guest image",
        there.join(", ")
    )))
}

/// Gives the compiled default profile a name. The kernel reads it up to the first zero, so that the rest, whose place
/// must not change, stays where it is.
fn rename(mut profile: Vec<u8>, name: &str) -> Result<Vec<u8>> {
    let place = profile.windows(PLACEHOLDER.len()).position(|found| found == PLACEHOLDER);
    let space = place.and_then(|start| profile.get_mut(start..start + PLACEHOLDER_LENGTH));
    match space {
        Some(space) if name.len() < PLACEHOLDER_LENGTH => {
            space.fill(0);
            space[..name.len()].copy_from_slice(name.as_bytes());
            Ok(profile)
        }
        _ => Err(JailError::Refused(format!(
            "The AppArmor profile {name:?} cannot be made from {PROFILES}/{DEFAULT}; is its name too long?"
        ))),
    }
}

/// As under runc: what is made for the container carries its label, what is the kernel's own or the host's does not.
fn label_mounts(mounts: &mut [oci::Mount], label: &str) {
    let bind = |mount: &oci::Mount| mount.options.iter().any(|option| option == "bind" || option == "rbind");
    for mount in mounts.iter_mut().filter(|mount| LABELLED.contains(&mount.type_.as_str()) && !bind(mount)) {
        if !mount.options.iter().any(|option| option.starts_with("context=")) {
            mount.options.push(format!("context={label}"));
        }
    }
}

fn write_only(folder: &OwnedFd, path: &str) -> io::Result<File> {
    open(folder, path, OFlags::WRONLY)
}

fn open(folder: &OwnedFd, path: &str, flags: OFlags) -> io::Result<File> {
    Ok(openat(folder, path, flags | OFlags::CLOEXEC, Mode::empty())?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profiles(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("temporary folder");
        for (name, content) in files {
            fs::write(folder.path().join(name), content).expect("file");
        }
        folder
    }

    /// With the placeholder between two other parts.
    fn template() -> Vec<u8> {
        let mut profile = b"before\0".to_vec();
        profile.extend_from_slice(PLACEHOLDER);
        profile.resize(7 + PLACEHOLDER_LENGTH, b'x');
        profile.extend_from_slice(b"\0after");
        profile
    }

    #[test]
    fn the_default_profile_has_the_name_that_the_manager_gives_it() {
        let folder = profiles(&[(DEFAULT, &template())]);
        for name in ["docker-default", "containers-default-0.57.4"] {
            let profile = find_profile(folder.path(), name).expect("there");
            assert_eq!(profile.len(), template().len());
            assert!(profile.starts_with(&[b"before\0", name.as_bytes(), b"\0"].concat()));
            assert!(profile.ends_with(b"\0\0after"));
        }
    }

    #[test]
    fn a_profile_of_the_image_is_found_by_its_name() {
        let folder = profiles(&[("strict", b"compiled"), (DEFAULT, &template())]);
        assert_eq!(find_profile(folder.path(), "strict").expect("there"), b"compiled");
    }

    #[test]
    fn an_unknown_profile_is_named_with_those_that_are_there() {
        let folder = profiles(&[("strict", b"compiled"), (DEFAULT, &template())]);
        for name in ["loose", DEFAULT, "../strict", ""] {
            let error = find_profile(folder.path(), name).expect_err("not there").to_string();
            assert!(
                error.contains(&format!("{name:?}"))
                    && error.contains("docker-default, nerdctl-default, strict"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_name_that_is_too_long_is_refused() {
        let folder = profiles(&[(DEFAULT, &template())]);
        let name = format!("{DEFAULT_PREFIX}{}", "9".repeat(200));
        let error = find_profile(folder.path(), &name).expect_err("too long").to_string();
        assert!(error.contains("too long"), "{error}");
    }

    #[test]
    fn no_label_needs_no_module() {
        let process = oci::Process { ApparmorProfile: "unconfined".to_owned(), ..Default::default() };
        let mut spec = oci::Spec { Process: protobuf::MessageField::some(process), ..Default::default() };
        let labels = Labels::prepare(&mut spec).expect("nothing is asked for");
        assert!(labels.proc.is_none() && labels.labels.is_empty());
    }

    #[test]
    fn a_label_without_its_module_names_the_property_and_the_option() {
        let asked = ("process.apparmorProfile", "docker-default");
        let error = need("AppArmor", false, asked, "disable_guest_apparmor").expect_err("off").to_string();
        assert!(error.contains("process.apparmorProfile is \"docker-default\""), "{error}");
        assert!(error.contains("disable_guest_apparmor = false"), "{error}");
    }

    #[test]
    fn only_file_systems_of_the_containers_own_are_labelled() {
        let mount = |kind: &str, options: &[&str]| oci::Mount {
            type_: kind.to_owned(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            ..Default::default()
        };
        let mut mounts = [
            mount("tmpfs", &["ro"]),
            mount("proc", &[]),
            mount("tmpfs", &["bind"]),
            mount("tmpfs", &["context=x"]),
        ];
        label_mounts(&mut mounts, "a:b:c:s0:c1,c2");
        let options: Vec<_> = mounts.iter().map(|mount| mount.options.join(",")).collect();
        assert_eq!(options, ["ro,context=a:b:c:s0:c1,c2", "", "bind", "context=x"]);
    }
}
