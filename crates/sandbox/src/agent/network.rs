//! The guest's network, by upstream's requests.

use kata_network::GuestNetwork;
use kata_protocol::agent as grpc;
use kata_protocol::types;
use protobuf::MessageField;

use super::action::Action;
use super::{Agent, answers, within};
use crate::error::Result;
use crate::network::json::{Interface, Route};

impl Agent {
    /// Changes the guest's network from what it was told; `None`: it is not known what it has.
    pub(crate) async fn change_network(
        &self,
        network: &GuestNetwork,
        told: Option<&GuestNetwork>,
    ) -> Result<()> {
        for interface in &network.interfaces {
            if told.is_none_or(|told| !told.interfaces.contains(interface)) {
                self.update_interface(interface).await?;
            }
        }
        // Routes go with the addresses that they need, so they are told with every change.
        if !network.routes.is_empty() || told.is_none_or(|told| !told.routes.is_empty()) {
            self.update_routes(&network.routes).await?;
        }
        self.add_neighbors(network).await
    }

    /// The guest's interfaces. They are connected to nothing: the guest does not know.
    pub(crate) async fn interfaces(&self) -> Result<Vec<Interface>> {
        let (deadline, request) = (self.deadlines.request, grpc::ListInterfacesRequest::default());
        let rpc = self.grpc.list_interfaces(within(deadline), &request);
        Ok(answers::interfaces(&self.call(Action::Interfaces, deadline, rpc).await?))
    }

    /// The guest's routes.
    pub(crate) async fn routes(&self) -> Result<Vec<Route>> {
        let (deadline, request) = (self.deadlines.request, grpc::ListRoutesRequest::default());
        let rpc = self.grpc.list_routes(within(deadline), &request);
        Ok(answers::routes(&self.call(Action::Routes, deadline, rpc).await?))
    }

    /// The guest's packet filter, as iptables-save(8) writes it.
    pub(crate) async fn packet_filter(&self, v6: bool) -> Result<Vec<u8>> {
        let request = grpc::GetIPTablesRequest { is_ipv6: v6, ..Default::default() };
        let deadline = self.deadlines.request;
        let rpc = self.grpc.get_ip_tables(within(deadline), &request);
        Ok(self.call(Action::PacketFilter, deadline, rpc).await?.data)
    }

    /// Sets the guest's packet filter; what the guest's program says of it.
    pub(crate) async fn set_packet_filter(&self, v6: bool, rules: Vec<u8>) -> Result<Vec<u8>> {
        let request = grpc::SetIPTablesRequest { is_ipv6: v6, data: rules, ..Default::default() };
        let deadline = self.deadlines.request;
        let rpc = self.grpc.set_ip_tables(within(deadline), &request);
        Ok(self.call(Action::SetPacketFilter, deadline, rpc).await?.data)
    }

    async fn add_neighbors(&self, network: &GuestNetwork) -> Result<()> {
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
        self.call(Action::Neighbors, deadline, rpc).await.map(drop)
    }

    async fn update_interface(&self, interface: &types::Interface) -> Result<()> {
        let interface = MessageField::some(interface.clone());
        let request = grpc::UpdateInterfaceRequest { interface, ..Default::default() };
        let deadline = self.deadlines.request;
        let rpc = self.grpc.update_interface(within(deadline), &request);
        self.call(Action::SetInterface, deadline, rpc).await.map(drop)
    }

    /// The guest's routes become these.
    async fn update_routes(&self, routes: &[types::Route]) -> Result<()> {
        let routes = MessageField::some(grpc::Routes { Routes: routes.to_vec(), ..Default::default() });
        let request = grpc::UpdateRoutesRequest { routes, ..Default::default() };
        let deadline = self.deadlines.request;
        let rpc = self.grpc.update_routes(within(deadline), &request);
        self.call(Action::SetRoutes, deadline, rpc).await.map(drop)
    }
}
