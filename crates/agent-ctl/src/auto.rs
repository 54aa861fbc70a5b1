//! What is filled in when it is not given: ids, and the specification of a container from its bundle.

use std::cell::OnceCell;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use data_encoding::HEXLOWER;
use kata_protocol::oci_convert::process_to_grpc;
use oci_spec::runtime;
use protobuf::MessageDyn;
use protobuf::reflect::{MessageDescriptor, ReflectValueBox, RuntimeFieldType, RuntimeType};

use crate::message;

/// Values for one run: the same ids wherever none is given.
#[derive(Debug)]
pub(crate) struct Auto {
    enabled: bool,
    spec: Option<runtime::Spec>,
    sandbox_id: OnceCell<String>,
    container_id: OnceCell<String>,
}

impl Auto {
    /// Fills in nothing.
    pub(crate) fn nothing() -> Self {
        Self { enabled: false, spec: None, sandbox_id: OnceCell::new(), container_id: OnceCell::new() }
    }

    /// Fills in ids, and with a bundle specifications.
    pub(crate) fn new(bundle: Option<&Path>) -> anyhow::Result<Self> {
        let spec = bundle.map(read_spec).transpose()?;
        Ok(Self { enabled: true, spec, ..Self::nothing() })
    }

    /// Fills in what `request` lacks.
    pub(crate) fn complete(&self, request: &mut dyn MessageDyn) -> anyhow::Result<()> {
        let descriptor = request.descriptor_dyn();
        if !self.enabled {
            return Ok(());
        }
        set_missing(request, &descriptor, "sandbox_id", || once(&self.sandbox_id, "sandbox_id"))?;
        set_missing(request, &descriptor, "container_id", || once(&self.container_id, "container_id"))?;
        let Some(spec) = self.spec.as_ref().filter(|_| descriptor.field_by_name("container_id").is_some())
        else {
            return Ok(());
        };
        for field in descriptor.fields() {
            if field.has_field(request) {
                continue;
            }
            let RuntimeFieldType::Singular(RuntimeType::Message(kind)) = field.runtime_field_type() else {
                continue;
            };
            let value = match (kind.full_name(), spec.process()) {
                ("grpc.Spec", _) => message::spec_message(spec, "config.json")?,
                ("grpc.Process", Some(process)) => Box::new(process_to_grpc(process)),
                _ => continue,
            };
            field.set_singular_field(request, ReflectValueBox::Message(value));
        }
        Ok(())
    }
}

fn set_missing(
    request: &mut dyn MessageDyn,
    descriptor: &MessageDescriptor,
    name: &str,
    value: impl FnOnce() -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    if let Some(field) = descriptor.field_by_name(name).filter(|field| !field.has_field(request)) {
        field.set_singular_field(request, ReflectValueBox::String(value()?));
    }
    Ok(())
}

fn once(cell: &OnceCell<String>, name: &str) -> anyhow::Result<String> {
    if let Some(id) = cell.get() {
        return Ok(id.clone());
    }
    let id = generate()?;
    tracing::info!("{name} is not given: it is {id}");
    Ok(cell.get_or_init(|| id).clone())
}

/// A random id: 64 hexadecimal digits, as containerd's CRI makes them.
pub(crate) fn generate() -> anyhow::Result<String> {
    let mut bytes = [0; 32];
    let mut source = File::open("/dev/urandom").context("Cannot open /dev/urandom")?;
    source.read_exact(&mut bytes).context("Cannot read /dev/urandom")?;
    Ok(HEXLOWER.encode(&bytes))
}

/// The bundle's specification. Its root, if relative, is in the bundle, which the agent must see at the same place.
fn read_spec(bundle: &Path) -> anyhow::Result<runtime::Spec> {
    let path = bundle.join("config.json");
    let said = || format!("Cannot read {}; is --bundle-dir an OCI bundle?", path.display());
    let mut spec: runtime::Spec =
        serde_json::from_slice(&std::fs::read(&path).with_context(said)?).with_context(said)?;
    if let Some(root) = spec.root().clone().filter(|root| root.path().is_relative()) {
        let mut root = root;
        let bundle: PathBuf =
            std::path::absolute(bundle).with_context(|| format!("Where is {}?", bundle.display()))?;
        root.set_path(bundle.join(root.path()));
        spec.set_root(Some(root));
    }
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use kata_protocol::agent::{
        CreateContainerRequest, CreateSandboxRequest, ExecProcessRequest, StartContainerRequest,
    };
    use kata_protocol::kata::{ContainerRequest, StartSandboxRequest};

    use super::Auto;

    fn bundle() -> (tempfile::TempDir, Auto) {
        let folder = tempfile::tempdir().expect("a folder");
        let spec = r#"{"ociVersion":"1.2.0","root":{"path":"rootfs"},"process":{"user":{"uid":0,"gid":0},"cwd":"/x","args":["a"]}}"#;
        std::fs::write(folder.path().join("config.json"), spec).expect("written");
        let auto = Auto::new(Some(folder.path())).expect("is a bundle");
        (folder, auto)
    }

    #[test]
    fn one_id_stands_in_all_requests_that_give_none() {
        let (auto, mut first, mut second) = (
            Auto::new(None).expect("needs nothing"),
            StartContainerRequest::new(),
            ExecProcessRequest::new(),
        );
        auto.complete(&mut first).expect("completed");
        auto.complete(&mut second).expect("completed");
        assert_eq!(first.container_id.len(), 64);
        assert_eq!(first.container_id, second.container_id);
        assert!(second.exec_id.is_empty() && second.process.is_none());
    }

    #[test]
    fn what_is_given_stays() {
        let auto = Auto::new(None).expect("needs nothing");
        let mut request = StartContainerRequest { container_id: "c".into(), ..Default::default() };
        auto.complete(&mut request).expect("completed");
        assert_eq!(request.container_id, "c");
    }

    #[test]
    fn a_bundles_specification_is_filled_in() {
        let (folder, auto) = bundle();
        let mut request = CreateContainerRequest::new();
        auto.complete(&mut request).expect("completed");
        assert_eq!(request.OCI.Root.Path, folder.path().join("rootfs").to_str().expect("is text"));
        let mut ours = ContainerRequest::new();
        auto.complete(&mut ours).expect("completed");
        assert_eq!(ours.oci, request.OCI);
        let mut exec = ExecProcessRequest::new();
        auto.complete(&mut exec).expect("completed");
        assert_eq!(exec.process.Cwd, "/x");
    }

    #[test]
    fn a_pods_shared_part_is_not_taken_from_a_containers_bundle() {
        let (_folder, auto) = bundle();
        let mut request = StartSandboxRequest::new();
        auto.complete(&mut request).expect("completed");
        assert!(request.pod.is_none());
    }

    #[test]
    fn nothing_is_filled_in_when_it_is_switched_off() {
        let mut request = CreateSandboxRequest::new();
        Auto::nothing().complete(&mut request).expect("completed");
        assert_eq!(request, CreateSandboxRequest::new());
    }
}
