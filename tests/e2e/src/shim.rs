//! The shim's own API, for what `ctr` has no command for.

use std::fs;
use std::time::Duration;

use containerd_shim_protos::api::UpdateTaskRequest;
use containerd_shim_protos::shim_async::TaskClient;
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use serde_json::Value;
use ttrpc::r#async::Client;
use ttrpc::context;

use crate::task::Container;

const PATIENCE: Duration = Duration::from_secs(20);

impl Container<'_> {
    /// Changes limits, as `nerdctl update` and the kubelet do.
    ///
    /// # Errors
    /// The shim's words.
    #[track_caller]
    pub fn update(&self, resources: &Value) -> Result<(), String> {
        let address =
            fs::read_to_string(self.bundle().join("address")).expect("the shim has said its address");
        let resources = Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".to_owned(),
            value: resources.to_string().into_bytes(),
            ..Any::default()
        };
        let request = UpdateTaskRequest {
            id: self.id().to_owned(),
            resources: MessageField::some(resources),
            ..UpdateTaskRequest::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime can be had").block_on(async {
            let task = TaskClient::new(Client::connect(&address).await.expect("the shim listens"));
            let context = context::with_duration(PATIENCE);
            task.update(context, &request).await.map(drop).map_err(|error| error.to_string())
        })
    }
}
