//! Pods as a kubelet makes them: a client of containerd's Container Runtime Interface, and a network for its pods.

mod container;
mod log;
mod pod;
mod stream;

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs;
use std::future::Future;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::command::{Finished, PATIENCE, run};
use crate::configuration;
use crate::containerd::{Containerd, make_cgroups, socket};
use crate::failure::{eventually, fail};
use proto::image_service_client::ImageServiceClient;
use proto::runtime_service_client::RuntimeServiceClient;

pub use container::{ContainerRecipe, Ended, PodContainer};
pub use log::LogLine;
pub use pod::{Pod, PodRecipe};
pub use stream::Stream;

/// The messages of the interface.
#[expect(missing_docs, unused_qualifications, reason = "generated")]
pub mod proto {
    tonic::include_proto!("runtime.v1");
}

/// The namespace in which containerd keeps what the interface makes.
pub(crate) const NAMESPACE: &str = "k8s.io";
/// The bridge of the pods' network.
pub(crate) const BRIDGE: &str = "kata0";
/// The image of each pod's first container, in the cache.
pub(crate) const PAUSE_FILE: &str = "pause-2.tar";
const PAUSE: &str = "localhost/kata/pause:2";
const BUSYBOX: &str = "localhost/kata/busybox:1";
/// The library behind containerd's networks keeps its results here, wherever the plugins are.
const RESULTS: &str = "/var/lib/cni";

/// containerd's Container Runtime Interface.
pub struct Cri<'c> {
    /// The containerd behind it.
    pub containerd: &'c Containerd,
    runtime: Runtime,
    channel: Channel,
    names: Cell<u32>,
}

impl<'c> Cri<'c> {
    /// Waits until containerd's plugin and the network are ready, and imports the images.
    pub(crate) fn connect(containerd: &'c Containerd) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime can be had");
        let endpoint =
            Endpoint::from_shared(format!("unix://{}", socket().display())).expect("is an address");
        let channel = {
            let _inside = runtime.enter();
            endpoint.timeout(PATIENCE).connect_lazy()
        };
        let cri = Self { containerd, runtime, channel, names: Cell::new(0) };
        make_cgroups(&containerd.host.mark);
        eventually("the interface and its network are ready", Duration::from_secs(60), || cri.is_ready());
        for (file, name) in [(PAUSE_FILE, PAUSE), ("busybox.tar", BUSYBOX)] {
            cri.import(file, name);
        }
        cri
    }

    /// A pod to be run.
    pub fn pod(&self) -> PodRecipe<'_> {
        PodRecipe::new(self)
    }

    /// The pods that there are.
    pub fn pods(&self) -> Vec<proto::PodSandbox> {
        let request = proto::ListPodSandboxRequest::default();
        let call = self.call(|mut client| async move { client.list_pod_sandbox(request).await });
        call.unwrap_or_else(|e| fail(format_args!("Cannot list pods: {e}"))).items
    }

    /// The containers that there are, pods' first ones left out.
    pub fn containers(&self) -> Vec<proto::Container> {
        let request = proto::ListContainersRequest::default();
        let call = self.call(|mut client| async move { client.list_containers(request).await });
        call.unwrap_or_else(|e| fail(format_args!("Cannot list containers: {e}"))).containers
    }

    /// The figures of all running containers.
    pub fn stats(&self) -> Vec<proto::ContainerStats> {
        let request = proto::ListContainerStatsRequest::default();
        let call = self.call(|mut client| async move { client.list_container_stats(request).await });
        call.unwrap_or_else(|e| fail(format_args!("Cannot list figures: {e}"))).stats
    }

    /// Runs `ctr` in the namespace of pods.
    #[track_caller]
    pub fn ctr<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Finished {
        run(self.containerd.command_in(NAMESPACE).args(arguments))
    }

    /// Stops and removes every pod that is still there; containers go with it.
    pub(crate) fn remove_pods(&self) {
        for pod in self.pods() {
            Pod::of(self, pod.id, proto::PodSandboxConfig::default()).remove();
        }
    }

    /// One call, which waits for its answer.
    fn call<T, F>(&self, call: impl FnOnce(RuntimeServiceClient<Channel>) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let client = RuntimeServiceClient::new(self.channel.clone());
        self.runtime.block_on(call(client)).map(Response::into_inner)
    }

    /// The runtime under test, as a handler of the configuration.
    fn handler(&self) -> &'static str {
        if self.containerd.stage.is_kata() { "kata" } else { "runc" }
    }

    fn fresh_number(&self) -> u32 {
        self.names.replace(self.names.get() + 1)
    }

    fn is_ready(&self) -> bool {
        let request = proto::StatusRequest::default();
        let status = self.call(|mut client| async move { client.status(request).await });
        let conditions = status.ok().and_then(|status| status.status).map(|status| status.conditions);
        conditions.is_some_and(|all| all.iter().all(|condition| condition.status))
    }

    fn import(&self, file: &str, name: &str) {
        let file = self.containerd.stage.images().join(file);
        self.ctr([OsStr::new("images"), OsStr::new("import"), file.as_os_str()]).ok().done();
        // containerd's plugin hears of it by an event.
        eventually("the image is known", Duration::from_secs(30), || {
            let spec = proto::ImageSpec { image: name.to_owned(), ..Default::default() };
            let mut client = ImageServiceClient::new(self.channel.clone());
            let request = proto::ImageStatusRequest { image: Some(spec) };
            let answer = self.runtime.block_on(async move { client.image_status(request).await });
            answer.is_ok_and(|answer| answer.into_inner().image.is_some())
        });
    }
}

/// A place of the test's own for what networks keep.
pub(crate) fn prepare_host() {
    fs::create_dir_all(RESULTS).unwrap_or_else(|e| fail(format_args!("Cannot make {RESULTS}: {e}")));
    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs", RESULTS])).ok().done();
}

/// containerd's configuration, and beside it the network's: a bridge with addresses of both families and mapped ports.
pub(crate) fn configuration(data: &Path) -> String {
    let networks = data.join("networks");
    let write = || -> std::io::Result<()> {
        fs::create_dir(&networks)?;
        fs::write(networks.join("10-pods.conflist"), network(data))
    };
    write().unwrap_or_else(|e| fail(format_args!("Cannot write the network's configuration: {e}")));
    configuration::Cri { pause: PAUSE, networks: &networks }.configuration(data)
}

fn network(data: &Path) -> String {
    let ranges = json!([[{ "subnet": "10.88.0.0/16" }], [{ "subnet": "fd00:88::/64" }]]);
    let addresses = json!({
        "type": "host-local",
        "dataDir": data.join("addresses"),
        "ranges": ranges,
        "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
    });
    let bridge = json!({ "type": "bridge", "bridge": BRIDGE, "isGateway": true, "ipam": addresses });
    let ports = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
    json!({ "cniVersion": "0.4.0", "name": "pods", "plugins": [bridge, ports] }).to_string()
}
