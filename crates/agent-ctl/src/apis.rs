//! The table of requests, from the protocol's descriptors.

use kata_protocol::{agent, health, kata};
use protobuf::reflect::{FileDescriptor, MessageDescriptor};

use crate::message::nearest;

/// A request that an agent answers.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    /// For example `grpc.AgentService`.
    pub(crate) service: String,
    /// For example `CreateContainer`.
    pub(crate) method: String,
    /// What is sent.
    pub(crate) input: MessageDescriptor,
    /// What is answered.
    pub(crate) output: MessageDescriptor,
}

impl Api {
    /// Whether upstream's agent knows it, too.
    pub(crate) fn is_upstreams(&self) -> bool {
        self.service.starts_with("grpc.")
    }

    /// The shortest name that means it: this project's additions have that of their service in front.
    pub(crate) fn name(&self) -> String {
        if self.is_upstreams() { self.method.clone() } else { format!("{}/{}", self.service, self.method) }
    }

    /// Whether somebody who writes `name` means it. Upstream's names win over ours; case does not matter, as upstream's
    /// tool writes some names otherwise than the protocol (`GetIptables`).
    fn is_meant(&self, name: &str) -> bool {
        match name.rsplit_once('/') {
            None => self.method.eq_ignore_ascii_case(name),
            Some((service, method)) => {
                let last = self.service.rsplit('.').next().unwrap_or_default();
                let services = [self.service.as_str(), last];
                services.iter().any(|ours| ours.eq_ignore_ascii_case(service))
                    && self.method.eq_ignore_ascii_case(method)
            }
        }
    }
}

/// Whatever the protocol has.
#[derive(Debug)]
pub(crate) struct Apis(Vec<Api>);

impl Apis {
    /// Reads the descriptors.
    pub(crate) fn new() -> Self {
        Self(files().flat_map(services).collect())
    }

    /// In the protocol's order, upstream's first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Api> {
        self.0.iter()
    }

    /// The one that `name` means.
    pub(crate) fn find(&self, name: &str) -> Option<&Api> {
        self.0.iter().find(|api| api.is_meant(name))
    }

    /// A name that is like `name`.
    pub(crate) fn nearest(&self, name: &str) -> Option<&str> {
        nearest(name, self.0.iter().map(|api| api.method.as_str()))
    }

    /// A message of the protocol by its full name, for example `grpc.Storage`.
    pub(crate) fn message(&self, name: &str) -> Option<MessageDescriptor> {
        let name = format!(".{name}");
        let mut known = files().flat_map(|file| std::iter::once(file).chain(file.deps()));
        known.find_map(|file| file.message_by_full_name(&name))
    }
}

fn files() -> impl Iterator<Item = &'static FileDescriptor> {
    [agent::file_descriptor(), health::file_descriptor(), kata::file_descriptor()].into_iter()
}

fn services(file: &FileDescriptor) -> Vec<Api> {
    let of = |service: protobuf::reflect::ServiceDescriptor| {
        let name = format!("{}.{}", file.package(), service.proto().name());
        let methods = service.methods().map(|method| Api {
            service: name.clone(),
            method: method.proto().name().to_owned(),
            input: method.input_type(),
            output: method.output_type(),
        });
        methods.collect::<Vec<_>>()
    };
    file.services().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::Apis;

    /// As upstream's tool names them.
    const UPSTREAMS: [&str; 40] = [
        "AddARPNeighbors",
        "AddSwap",
        "Check",
        "Version",
        "CloseStdin",
        "CopyFile",
        "CreateContainer",
        "CreateSandbox",
        "DestroySandbox",
        "ExecProcess",
        "GetGuestDetails",
        "GetIptables",
        "GetMetrics",
        "GetOOMEvent",
        "GetVolumeStats",
        "ListInterfaces",
        "ListRoutes",
        "MemHotplugByProbe",
        "OnlineCPUMem",
        "PauseContainer",
        "ReadStderr",
        "ReadStdout",
        "ReseedRandomDev",
        "RemoveContainer",
        "ResumeContainer",
        "SetGuestDateTime",
        "SetIptables",
        "SignalProcess",
        "StartContainer",
        "StatsContainer",
        "TtyWinResize",
        "UpdateContainer",
        "UpdateInterface",
        "UpdateRoutes",
        "WaitProcess",
        "WriteStdin",
        "SetPolicy",
        "MemAgentMemcgSet",
        "MemAgentCompactSet",
        "ResizeVolume",
    ];

    #[test]
    fn every_request_of_the_services_is_in_the_table() {
        let count = |service: &str| Apis::new().iter().filter(|api| api.service == service).count();
        assert_eq!(count("grpc.AgentService"), 42);
        assert_eq!(count("grpc.Health"), 2);
        assert_eq!(count("kata.v1.Sandbox"), 8);
    }

    #[test]
    fn upstreams_names_mean_upstreams_requests() {
        let apis = Apis::new();
        for name in UPSTREAMS {
            assert!(apis.find(name).expect(name).is_upstreams(), "{name}");
        }
    }

    #[test]
    fn a_name_that_two_services_have_means_upstreams_unless_the_service_is_given() {
        let apis = Apis::new();
        let input = |name: &str| apis.find(name).expect(name).input.full_name().to_owned();
        assert_eq!(input("CreateContainer"), "grpc.CreateContainerRequest");
        assert_eq!(input("kata.v1.Sandbox/CreateContainer"), "kata.v1.ContainerRequest");
        assert_eq!(input("Sandbox/CreateContainer"), "kata.v1.ContainerRequest");
        assert_eq!(input("Exec"), "kata.v1.ExecRequest");
        assert!(apis.find("Other/Check").is_none());
    }

    #[test]
    fn a_message_is_found_by_its_full_name() {
        let apis = Apis::new();
        for name in ["grpc.Storage", "types.Interface", "kata.v1.Stdio", "grpc.Spec"] {
            assert_eq!(apis.message(name).expect(name).full_name(), name);
        }
        assert!(apis.message("grpc.Nothing").is_none());
    }
}
