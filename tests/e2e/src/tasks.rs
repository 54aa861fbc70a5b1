//! containerd's task service, for what `ctr` does in one step: a task is created, and then it is started.

use std::future::Future;
use std::path::PathBuf;

use tokio::runtime::Builder;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::containerd::{Containerd, socket};
use crate::failure::fail;
use crate::task::Container;
use proto::tasks_client::TasksClient;

/// The messages of the service.
#[expect(unreachable_pub, unused_qualifications, reason = "generated")]
mod proto {
    tonic::include_proto!("containerd.services.tasks.v1");
}

/// A container whose task was created and does not run yet.
pub struct Created<'c> {
    containerd: &'c Containerd,
    /// The container.
    pub container: Container<'c>,
    /// The task's process.
    pub pid: u32,
    /// What the workload writes.
    pub output: PathBuf,
}

impl<'c> Created<'c> {
    /// Makes the task on a root file system of these mounts, or on its own if there are none.
    ///
    /// # Errors
    /// containerd's answer.
    pub(crate) fn new(
        containerd: &'c Containerd,
        container: Container<'c>,
        mounts: &[RootMount],
    ) -> Result<Self, String> {
        let output = containerd.directory().join("output");
        let file = format!("file://{}", output.display());
        let container_id = container.id().to_owned();
        let rootfs = mounts.iter().map(RootMount::message).collect();
        let request = proto::CreateTaskRequest { container_id, rootfs, stdout: file.clone(), stderr: file };
        let created =
            ask(containerd, request, |mut client, request| async move { client.create(request).await })?;
        Ok(Self { containerd, container, pid: created.pid, output })
    }

    /// Lets the workload begin.
    #[track_caller]
    pub fn start(&self) {
        let request = proto::StartRequest { container_id: self.container.id().to_owned() };
        ask(self.containerd, request, |mut client, request| async move { client.start(request).await })
            .unwrap_or_else(|e| fail(e));
    }
}

/// One of the mounts that make a root file system, as a snapshotter passes them.
#[derive(Clone, Debug)]
pub struct RootMount {
    fs_type: &'static str,
    source: PathBuf,
    options: Vec<String>,
}

impl RootMount {
    /// By its type, its source, and options as for `mount -o`.
    pub fn new<S: Into<String>>(
        fs_type: &'static str,
        source: impl Into<PathBuf>,
        options: impl IntoIterator<Item = S>,
    ) -> Self {
        let options = options.into_iter().map(Into::into).collect();
        Self { fs_type, source: source.into(), options }
    }

    fn message(&self) -> proto::Mount {
        proto::Mount {
            r#type: self.fs_type.to_owned(),
            source: self.source.display().to_string(),
            target: String::new(),
            options: self.options.clone(),
        }
    }
}

fn ask<Q, A, F>(
    containerd: &Containerd,
    message: Q,
    call: impl FnOnce(TasksClient<Channel>, Request<Q>) -> F,
) -> Result<A, String>
where
    F: Future<Output = Result<Response<A>, Status>>,
{
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime can be had");
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket().display())).expect("is an address");
    let mut request = Request::new(message);
    let namespace = containerd.host.mark.parse().expect("the mark is plain text");
    request.metadata_mut().insert("containerd-namespace", namespace);
    let answer = runtime.block_on(async { call(TasksClient::new(endpoint.connect_lazy()), request).await });
    answer.map(Response::into_inner).map_err(|e| format!("containerd's task service: {e}"))
}
