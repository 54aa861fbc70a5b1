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
    /// Makes the task.
    #[track_caller]
    pub(crate) fn new(containerd: &'c Containerd, container: Container<'c>) -> Self {
        let output = containerd.directory().join("output");
        let file = format!("file://{}", output.display());
        let container_id = container.id().to_owned();
        let request = proto::CreateTaskRequest { container_id, stdout: file.clone(), stderr: file };
        let created =
            call(containerd, request, |mut client, request| async move { client.create(request).await });
        Self { containerd, container, pid: created.pid, output }
    }

    /// Lets the workload begin.
    #[track_caller]
    pub fn start(&self) {
        let request = proto::StartRequest { container_id: self.container.id().to_owned() };
        call(self.containerd, request, |mut client, request| async move { client.start(request).await });
    }
}

#[track_caller]
fn call<Q, A, F>(
    containerd: &Containerd,
    message: Q,
    call: impl FnOnce(TasksClient<Channel>, Request<Q>) -> F,
) -> A
where
    F: Future<Output = Result<Response<A>, Status>>,
{
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime can be had");
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket().display())).expect("is an address");
    let mut request = Request::new(message);
    let namespace = containerd.host.mark.parse().expect("the mark is plain text");
    request.metadata_mut().insert("containerd-namespace", namespace);
    let answer = runtime.block_on(async { call(TasksClient::new(endpoint.connect_lazy()), request).await });
    answer.unwrap_or_else(|e| fail(format_args!("containerd's task service: {e}"))).into_inner()
}
