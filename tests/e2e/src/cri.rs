//! Pods as a kubelet makes them: a client of containerd's Container Runtime Interface, and a network for its pods.

mod container;
mod forward;
mod log;
mod pod;
mod steady;
mod stream;

use std::ffi::OsStr;
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::command::{Finished, PATIENCE, run};
use crate::configuration;
use crate::containerd::{Containerd, make_cgroups, socket};
use crate::failure::{eventually, fail};
use crate::recipe::Image;
use proto::image_service_client::ImageServiceClient;
use proto::runtime_service_client::RuntimeServiceClient;

pub use container::{ContainerRecipe, Ended, PodContainer};
pub use forward::Forward;
pub use log::LogLine;
pub use pod::{Pod, PodRecipe};
pub use steady::Steady;
pub use stream::Stream;

/// The messages of the interface.
#[expect(missing_docs, unused_qualifications, reason = "generated")]
pub mod proto {
    tonic::include_proto!("runtime.v1");
}

/// The namespace in which containerd keeps what the interface makes.
pub(crate) const NAMESPACE: &str = "k8s.io";
/// The bridge of the pods' network.
pub const BRIDGE: &str = "kata0";
/// The image of each pod's first container, in the cache.
pub(crate) const PAUSE_FILE: &str = "pause-2.tar";
const PAUSE: &str = "localhost/kata/pause:2";
/// The library behind containerd's networks keeps its results here, wherever the plugins are.
const RESULTS: &str = "/var/lib/cni";

/// containerd's Container Runtime Interface.
pub struct Cri<'c> {
    /// The containerd behind it.
    pub containerd: &'c Containerd,
    runtime: Runtime,
    channel: Channel,
    names: AtomicU32,
    images: Mutex<Vec<Image>>,
}

impl<'c> Cri<'c> {
    /// Waits until containerd's plugin and the network are ready, and imports the images.
    pub(crate) fn connect(containerd: &'c Containerd) -> Self {
        let runtime =
            Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime can be had");
        let endpoint =
            Endpoint::from_shared(format!("unix://{}", socket().display())).expect("is an address");
        let channel = {
            let _inside = runtime.enter();
            endpoint.timeout(PATIENCE).connect_lazy()
        };
        let names = AtomicU32::new(0);
        let cri = Self { containerd, runtime, channel, names, images: Mutex::default() };
        make_cgroups(&containerd.host.mark);
        cri.wait_until_ready();
        cri.import(PAUSE_FILE, PAUSE);
        cri.ensure_image(Image::Busybox);
        cri
    }

    /// Kills containerd, as a crash would; pods go on.
    pub fn kill_containerd(&self) {
        self.containerd.stop(Signal::SIGKILL);
    }

    /// Starts containerd again after [`Cri::kill_containerd`]; returns when the interface answers.
    pub fn start_containerd_again(&self) {
        self.containerd.start_again();
        self.wait_until_ready();
    }

    /// As [`Containerd::reconfigure`]; returns when the interface answers.
    pub fn reconfigure(&self, change: impl FnOnce(String) -> String) -> PathBuf {
        let path = self.containerd.reconfigure(change);
        self.wait_until_ready();
        path
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

    /// `Version`.
    #[track_caller]
    pub fn version(&self) -> proto::VersionResponse {
        let request = proto::VersionRequest { version: "v1".to_owned() };
        let call = self.call(|mut client| async move { client.version(request).await });
        call.unwrap_or_else(|e| fail(format_args!("No version: {e}")))
    }

    /// `UpdateRuntimeConfig` with the addresses of the node's pods.
    #[track_caller]
    pub fn update_runtime_config(&self, pod_cidr: &str) {
        let network_config = Some(proto::NetworkConfig { pod_cidr: pod_cidr.to_owned() });
        let runtime_config = Some(proto::RuntimeConfig { network_config });
        let request = proto::UpdateRuntimeConfigRequest { runtime_config };
        let call = self.call(|mut client| async move { client.update_runtime_config(request).await });
        call.unwrap_or_else(|e| fail(format_args!("Cannot update the configuration: {e}")));
    }

    /// Runs `ctr` in the namespace of pods.
    #[track_caller]
    pub fn ctr<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Finished {
        run(self.containerd.command_in(NAMESPACE).args(arguments))
    }

    /// Runs a program of the network image on the host, that is in the test's corner of it: to the end.
    #[track_caller]
    pub fn on_host<const N: usize>(&self, words: [&str; N]) -> Finished {
        self.ensure_image(Image::Network);
        let name = self.containerd.fresh_name();
        let cgroup = format!("/{}/{name}", self.containerd.host.mark);
        let manner = ["run", "--rm", "--net-host", "--runtime", "io.containerd.runc.v2", "--cgroup", &cgroup];
        self.ctr(manner.into_iter().chain(["--", Image::Network.name(), &name]).chain(words))
    }

    /// Imports the image unless this was done.
    pub(crate) fn ensure_image(&self, image: Image) {
        let mut images = self.images.lock().expect("no holder panics");
        if !images.contains(&image) {
            self.import(image.file(), image.name());
            images.push(image);
        }
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
        self.names.fetch_add(1, Ordering::Relaxed)
    }

    fn wait_until_ready(&self) {
        eventually("the interface and its network are ready", Duration::from_secs(60), || self.is_ready());
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
