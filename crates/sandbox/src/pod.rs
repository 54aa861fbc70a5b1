//! What the containers of a pod have in common although their specifications do not say so: with containerd's Sandbox API the
//! manager leaves to the runtime `/etc/hostname`, `/etc/hosts`, `/etc/resolv.conf`, `/dev/shm` and the pod's kernel settings.
//! They become what containerd itself makes of them where it runs a pause container.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kata_intent::{Intent, Intents};
use kata_protocol::guest;
use kata_storage::memory::Memory;
use nix::unistd::gethostname;
use oci_spec::OciSpecError;
use oci_spec::runtime::{LinuxNamespaceType, Mount, MountBuilder, Spec};
use rustix::mount::{MountFlags, mount};

/// The folder of the pod's files, in the sandbox's state directory: memory of its own.
const FOLDER: &str = "pod";
const FOLDER_OPTIONS: &CStr = c"size=1m,nr_inodes=16,mode=0755";

/// The pod's files, in `/etc` of its containers and in their folder.
const HOSTNAME: &str = "hostname";
const HOSTS: &str = "hosts";
const RESOLV_CONF: &str = "resolv.conf";

/// Where shared memory is mounted in a container, its name in the guest, and how many bytes it holds.
const SHARED_MEMORY: &str = "/dev/shm";
const MEMORY_NAME: &str = "pod-shm";
const MEMORY_SIZE: u64 = 64 * 1024 * 1024;

/// What a pod's containers have in common.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its host name; empty for that of the host.
    pub hostname: String,
    /// Name servers, domains that are searched, and options; without any they are the host's.
    pub dns: Dns,
    /// Kernel settings.
    pub sysctls: HashMap<String, String>,
}

/// A resolver's configuration.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Dns {
    /// Addresses of name servers.
    pub servers: Vec<String>,
    /// Domains.
    pub searches: Vec<String>,
    /// As in `resolv.conf`(5).
    pub options: Vec<String>,
}

impl Dns {
    /// As `resolv.conf`.
    fn text(&self) -> String {
        let line = |name: &str, values: &[String]| match values {
            [] => String::new(),
            values => format!("{name} {}\n", values.join(" ")),
        };
        let servers: String = self.servers.iter().map(|server| format!("nameserver {server}\n")).collect();
        line("search", &self.searches) + &servers + &line("options", &self.options)
    }
}

impl Pod {
    /// Writes the pod's files below the sandbox's state directory, with which they go. Containers may write to them, and must not
    /// be able to fill the host's memory by that.
    pub(crate) fn write(&self, state: &Path, log: &dyn Intents) -> io::Result<()> {
        let folder = state.join(FOLDER);
        fs::create_dir(&folder)?;
        log.will(Intent::Mount { target: folder.clone() })?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("kata-pod", &folder, "tmpfs", flags, FOLDER_OPTIONS)?;
        self.fill(&folder)
    }

    fn fill(&self, folder: &Path) -> io::Result<()> {
        let hostname = match self.hostname.as_str() {
            "" => gethostname()?.to_string_lossy().into_owned(),
            hostname => hostname.to_owned(),
        };
        fs::write(folder.join(HOSTNAME), hostname + "\n")?;
        fs::write(folder.join(HOSTS), of_host(HOSTS)?)?;
        let resolver = match self.dns.text() {
            text if text.is_empty() => of_host(RESOLV_CONF)?,
            text => text.into_bytes(),
        };
        fs::write(folder.join(RESOLV_CONF), resolver)
    }

    /// Gives a container the files that it has not of its own, with their paths on the host, and the settings.
    pub(crate) fn share(&self, state: &Path, spec: &mut Spec) -> Result<(), OciSpecError> {
        let read_only = spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false);
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        for file in [HOSTNAME, HOSTS, RESOLV_CONF] {
            let destination = Path::new("/etc").join(file);
            if mounts.iter().all(|mount| *mount.destination() != destination) {
                let access = if read_only { "ro" } else { "rw" };
                let source = state.join(FOLDER).join(file);
                mounts.push(bind(source, destination, &["rbind", "rprivate", access])?);
            }
        }
        spec.set_mounts(Some(mounts));
        if let Some(linux) = spec.linux_mut()
            && !self.sysctls.is_empty()
        {
            let mut sysctls = self.sysctls.clone();
            sysctls.extend(linux.sysctl().clone().unwrap_or_default());
            linux.set_sysctl(Some(sysctls));
        }
        Ok(())
    }
}

/// A file of the host's `/etc`; empty if there is none.
fn of_host(file: &str) -> io::Result<Vec<u8>> {
    match fs::read(Path::new("/etc").join(file)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}

/// Whether a container is in the pod's ipc namespace, to which shared memory belongs.
fn shares_memory(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces
        .into_iter()
        .flatten()
        .any(|namespace| namespace.typ() == LinuxNamespaceType::Ipc && namespace.path().is_some())
}

/// The memory of the pod's ipc namespace. The sandbox has it, so that it stays whichever container ends.
pub(crate) fn memory() -> Memory {
    Memory::shared(Path::new(guest::SHARED_MEMORY_DIR).join(MEMORY_NAME), MEMORY_SIZE)
}

/// Gives a container whose paths are the guest's that memory, if it is in the namespace, in place of a tmpfs of its own; what
/// else is mounted there was asked for.
pub(crate) fn share_memory(spec: &mut Spec) -> Result<(), OciSpecError> {
    if !shares_memory(spec) {
        return Ok(());
    }
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    let options = ["rbind", "nosuid", "noexec", "nodev"];
    let shared = bind(memory().guest_path, SHARED_MEMORY.into(), &options)?;
    match mounts.iter_mut().find(|mount| mount.destination() == Path::new(SHARED_MEMORY)) {
        Some(mount) if mount.typ().as_deref() == Some("tmpfs") => *mount = shared,
        Some(_) => {}
        None => mounts.push(shared),
    }
    spec.set_mounts(Some(mounts));
    Ok(())
}

fn bind(source: PathBuf, destination: PathBuf, options: &[&str]) -> Result<Mount, OciSpecError> {
    let options: Vec<String> = options.iter().copied().map(str::to_owned).collect();
    MountBuilder::default().typ("bind").source(source).destination(destination).options(options).build()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(mounts: &serde_json::Value) -> Spec {
        let ipc = json!([{ "type": "ipc", "path": "/proc/1/ns/ipc" }]);
        let spec = json!({ "ociVersion": "1.1.0", "mounts": mounts, "linux": { "namespaces": ipc } });
        serde_json::from_value(spec).unwrap()
    }

    fn source<'s>(spec: &'s Spec, destination: &str) -> &'s Path {
        let mounts = spec.mounts().as_ref().unwrap();
        let found: Vec<_> =
            mounts.iter().filter(|mount| mount.destination() == Path::new(destination)).collect();
        assert_eq!(found.len(), 1, "{destination}");
        found[0].source().as_ref().unwrap()
    }

    #[test]
    fn a_resolver_is_configured_as_containerd_does() {
        let list = |words: &[&str]| words.iter().copied().map(str::to_owned).collect();
        let dns = Dns {
            servers: list(&["10.0.0.10", "10.0.0.11"]),
            searches: list(&["a.local", "local"]),
            options: list(&["ndots:5"]),
        };
        let text = "search a.local local\nnameserver 10.0.0.10\nnameserver 10.0.0.11\noptions ndots:5\n";
        assert_eq!(dns.text(), text);
    }

    #[test]
    fn a_pod_without_a_resolver_has_the_hosts() {
        let folder = tempfile::tempdir().unwrap();
        Pod { hostname: "web".into(), ..Pod::default() }.fill(folder.path()).unwrap();
        let file = |name: &str| fs::read(folder.path().join(name)).unwrap();
        assert_eq!(file(HOSTNAME), b"web\n");
        assert_eq!(file(RESOLV_CONF), of_host(RESOLV_CONF).unwrap());
        assert_eq!(file(HOSTS), of_host(HOSTS).unwrap());
    }

    #[test]
    fn a_container_gets_what_it_has_not_of_its_own() {
        let own = json!([
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm" },
            { "destination": "/etc/hosts", "type": "bind", "source": "/var/lib/kubelet/hosts", "options": ["rbind"] },
        ]);
        let mut spec = spec(&own);
        Pod::default().share(Path::new("/state"), &mut spec).unwrap();
        share_memory(&mut spec).unwrap();
        assert_eq!(source(&spec, "/etc/hosts"), Path::new("/var/lib/kubelet/hosts"));
        assert_eq!(source(&spec, "/etc/resolv.conf"), Path::new("/state/pod/resolv.conf"));
        assert_eq!(source(&spec, "/etc/hostname"), Path::new("/state/pod/hostname"));
        assert_eq!(source(&spec, "/dev/shm"), memory().guest_path);
    }

    #[test]
    fn shared_memory_that_was_asked_for_stays() {
        let own =
            json!([{ "destination": "/dev/shm", "type": "bind", "source": "/x", "options": ["rbind"] }]);
        let mut spec = spec(&own);
        share_memory(&mut spec).unwrap();
        assert_eq!(source(&spec, "/dev/shm"), Path::new("/x"));
    }

    #[test]
    fn a_containers_own_setting_wins() {
        let mut spec = spec(&json!([]));
        let settings = |value: &str| HashMap::from([("net.core.somaxconn".to_owned(), value.to_owned())]);
        let pod = Pod { sysctls: settings("100"), ..Pod::default() };
        pod.share(Path::new("/state"), &mut spec).unwrap();
        assert_eq!(spec.linux().as_ref().unwrap().sysctl(), &Some(settings("100")));
        let other = Pod { sysctls: settings("200"), ..Pod::default() };
        other.share(Path::new("/state"), &mut spec).unwrap();
        assert_eq!(spec.linux().as_ref().unwrap().sysctl(), &Some(settings("100")));
    }
}
