//! The guest's network, by upstream's requests.

use kata_network::GuestNetwork;
use kata_protocol::agent as grpc;
use kata_protocol::types::{Interface, Route};
use protobuf::MessageField;

use super::{Agent, within};
use crate::error::Result;

impl Agent {
    /// Configures interfaces, then all routes and neighbours. Nothing is asked for without a network.
    pub(crate) async fn configure_network(&self, network: &GuestNetwork) -> Result<()> {
        for interface in &network.interfaces {
            self.update_interface(interface).await?;
        }
        if !network.routes.is_empty() {
            self.update_routes(&network.routes).await?;
        }
        if network.neighbors.is_empty() {
            return Ok(());
        }
        let neighbors = MessageField::some(grpc::ARPNeighbors {
            ARPNeighbors: network.neighbors.clone(),
            ..Default::default()
        });
        let request = grpc::AddARPNeighborsRequest { neighbors, ..Default::default() };
        let deadline = self.deadlines.request;
        let rpc = self.grpc.add_arp_neighbors(within(deadline), &request);
        self.call("set the neighbours", deadline, rpc).await.map(drop)
    }

    async fn update_interface(&self, interface: &Interface) -> Result<()> {
        let interface = MessageField::some(interface.clone());
        let request = grpc::UpdateInterfaceRequest { interface, ..Default::default() };
        let deadline = self.deadlines.request;
        let rpc = self.grpc.update_interface(within(deadline), &request);
        self.call("configure a network interface", deadline, rpc).await.map(drop)
    }

    /// The guest's routes become these.
    async fn update_routes(&self, routes: &[Route]) -> Result<()> {
        let routes = MessageField::some(grpc::Routes { Routes: routes.to_vec(), ..Default::default() });
        let request = grpc::UpdateRoutesRequest { routes, ..Default::default() };
        let deadline = self.deadlines.request;
        let rpc = self.grpc.update_routes(within(deadline), &request);
        self.call("set the routes", deadline, rpc).await.map(drop)
    }
}
