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
    pub(crate) async fn update_routes(&self, routes: &[Route]) -> Result<()> {
        let routes = MessageField::some(grpc::Routes { Routes: routes.to_vec(), ..Default::default() });
        let request = grpc::UpdateRoutesRequest { routes, ..Default::default() };
        let deadline = self.deadlines.request;
        let rpc = self.grpc.update_routes(within(deadline), &request);
        self.call("set the routes", deadline, rpc).await.map(drop)
    }

    /// What the guest has.
    pub(crate) async fn interfaces(&self) -> Result<Vec<Interface>> {
        let request = grpc::ListInterfacesRequest::default();
        let deadline = self.deadlines.request;
        let rpc = self.grpc.list_interfaces(within(deadline), &request);
        Ok(self.call("list its network interfaces", deadline, rpc).await?.Interfaces)
    }

    /// What the guest has.
    pub(crate) async fn routes(&self) -> Result<Vec<Route>> {
        let request = grpc::ListRoutesRequest::default();
        let deadline = self.deadlines.request;
        let rpc = self.grpc.list_routes(within(deadline), &request);
        Ok(self.call("list its routes", deadline, rpc).await?.Routes)
    }

    /// The guest's packet filter, as `iptables-save` prints it.
    pub(crate) async fn iptables(&self, is_ipv6: bool) -> Result<Vec<u8>> {
        let request = grpc::GetIPTablesRequest { is_ipv6, ..Default::default() };
        let deadline = self.deadlines.request;
        let rpc = self.grpc.get_ip_tables(within(deadline), &request);
        Ok(self.call("read its packet filter", deadline, rpc).await?.data)
    }

    /// Replaces the guest's packet filter, as `iptables-restore` reads it.
    pub(crate) async fn set_iptables(&self, is_ipv6: bool, rules: Vec<u8>) -> Result<()> {
        let request = grpc::SetIPTablesRequest { is_ipv6, data: rules, ..Default::default() };
        let deadline = self.deadlines.request;
        let rpc = self.grpc.set_ip_tables(within(deadline), &request);
        self.call("set its packet filter", deadline, rpc).await.map(drop)
    }
}
