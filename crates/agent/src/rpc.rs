//! The ttRPC services: upstream's agent and health services, and this project's own.

mod health;
mod metrics;
mod observe;
mod sandbox_service;
mod status;
mod upstream;

use std::sync::Arc;

use futures::stream;
use kata_protocol::{agent_ttrpc, health_ttrpc, kata_ttrpc};
use kata_transport::{Incoming, Stream};
use ttrpc::asynchronous::Server;
use ttrpc::asynchronous::transport::Listener;

use crate::agent::Agent;
use crate::spans::Spans;
use observe::Metrics;

/// The version that the agent calls itself.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Serves on all connections that come in. Returns at once.
pub(crate) async fn serve(agent: Arc<Agent>, incoming: Incoming, spans: Spans) -> ttrpc::Result<Server> {
    let metrics = Metrics::default();
    let upstream = upstream::Service { agent: Arc::clone(&agent), metrics: metrics.clone() };
    let services = [
        agent_ttrpc::create_agent_service(Arc::new(upstream)),
        health_ttrpc::create_health(Arc::new(health::Service)),
        kata_ttrpc::create_sandbox(Arc::new(sandbox_service::Service { agent, spans: spans.clone() })),
    ];
    let mut server = Server::new().add_listener(Listener::new(connections(incoming)));
    for service in services {
        server = server.register_service(observe::all(service, &metrics, &spans));
    }
    server.start().await?;
    Ok(server)
}

/// Ends when the carrier is gone.
fn connections(incoming: Incoming) -> impl stream::Stream<Item = std::io::Result<Stream>> + Send + 'static {
    stream::unfold(incoming, |mut incoming| async move {
        match incoming.accept().await {
            Ok(accepted) => Some((Ok(accepted.stream), incoming)),
            Err(kata_transport::Error::Closed) => None,
            Err(error) => Some((Err(std::io::Error::other(error)), incoming)),
        }
    })
}
