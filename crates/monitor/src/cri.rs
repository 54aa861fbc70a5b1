//! The container manager: which pods there are, over the Container Runtime Interface.
//!
//! Each question has a connection of its own, so that the manager may come and go.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::timeout;
use tonic::transport::Endpoint;

use proto::runtime_service_client::RuntimeServiceClient;

#[expect(unreachable_pub, unused_qualifications, reason = "generated")]
mod proto {
    tonic::include_proto!("runtime.v1");
}

/// A manager that does not answer by then is not waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// A list of some ten thousand pods.
const LARGEST: usize = 32 << 20;

/// The manager cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CriError {
    /// The address.
    #[error("{0} is no path of a socket; set --runtime-endpoint")]
    Address(PathBuf, #[source] tonic::transport::Error),
    /// Nobody is there.
    #[error("no container manager listens at {0}; is --runtime-endpoint right?")]
    Absent(PathBuf, #[source] tonic::transport::Error),
    /// It answers an error.
    #[error("the container manager at {0} does not list its pods")]
    Refused(PathBuf, #[source] Box<tonic::Status>),
    /// It does not answer.
    #[error("the container manager at {0} has not answered within {PATIENCE:?}")]
    Slow(PathBuf),
}

/// A pod, as the manager calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) uid: String,
    pub(crate) name: String,
    pub(crate) namespace: String,
}

/// All pods by the ids of their sandboxes.
pub(crate) type Pods = HashMap<String, Pod>;

/// Where the manager listens.
#[derive(Debug, Clone)]
pub(crate) struct Manager {
    socket: PathBuf,
}

impl Manager {
    /// At a path, or `unix://` and a path.
    pub(crate) fn new(endpoint: &str) -> Self {
        Self { socket: endpoint.strip_prefix("unix://").unwrap_or(endpoint).into() }
    }

    /// All pods that it knows, in whichever state.
    pub(crate) async fn pods(&self) -> Result<Pods, CriError> {
        let asked = timeout(PATIENCE, Box::pin(self.ask())).await;
        asked.unwrap_or_else(|_| Err(CriError::Slow(self.socket.clone())))
    }

    async fn ask(&self) -> Result<Pods, CriError> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.socket.display()));
        let endpoint = endpoint.map_err(|error| CriError::Address(self.socket.clone(), error))?;
        let channel =
            endpoint.connect().await.map_err(|error| CriError::Absent(self.socket.clone(), error))?;
        let mut client = RuntimeServiceClient::new(channel).max_decoding_message_size(LARGEST);
        let answer = client.list_pod_sandbox(proto::ListPodSandboxRequest {}).await;
        let answer = answer.map_err(|status| CriError::Refused(self.socket.clone(), Box::new(status)))?;
        Ok(answer.into_inner().items.into_iter().map(named).collect())
    }
}

fn named(pod: proto::PodSandbox) -> (String, Pod) {
    let proto::PodSandboxMetadata { name, uid, namespace } = pod.metadata.unwrap_or_default();
    (pod.id, Pod { uid, name, namespace })
}
